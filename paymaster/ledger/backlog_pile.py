"""What waits in a usage backlog, and what was set aside there: cut by number and by bytes."""

import zlib
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple, Self, cast

from pydantic_core import from_json, to_json

from paymaster.calls.cost import cost_nanos
from paymaster.calls.request_limits import metadata_bytes
from paymaster.messages import BacklogBatch, SetAsideSum, UsageRecord, json_bytes
from paymaster.messages.bounds import check_record
from paymaster.values.limits import (
    BATCH_BYTES_MAX,
    BATCH_ITEMS_MAX,
    ID_CHARACTERS_MAX,
    METADATA_BYTES_MAX,
    PIECE_BYTES_MAX,
    SET_ASIDE_BYTES_MAX,
    TEMPORAL_PAYLOAD_BYTES,
)

LARGE_RECORD_BYTES = 4 * METADATA_BYTES_MAX
"""Ours are smaller."""
LOOKED_AT_MAX = 2 * BATCH_ITEMS_MAX
"""Records and messages in one workflow task, in search of a batch: what has to be refused takes its time too."""
READ_BYTES_MAX = 2 * TEMPORAL_PAYLOAD_BYTES
"""Of messages, likewise."""


class Pile:
    """Records and voids that wait, in the order in which they came; one that came twice waits twice.

    They are kept as the JSON that they came as. What came together is taken apart when its turn comes, and a record is
    checked when it gets into a batch: thousands may come in one workflow task, of which none may take long.
    """

    def __init__(self, refuse: Callable[[str, UsageRecord | None], None]) -> None:
        """`refuse` is told of what cannot wait, because nobody could store it: why, and the record, if it is one."""
        self._refuse = refuse
        self._unread: deque[_Unread] = deque()
        self._records: deque[bytes] = deque()
        self._voids: deque[bytes] = deque()
        self._ready: deque[tuple[UsageRecord, bytes]] = deque()
        """The first records, checked: at most a batch of them."""
        self.bytes = 0
        """Of all that waits."""
        self._bytes_unread = 0
        self._seen_enough = False
        """Much was looked at and refused: the next batch is empty, then the search goes on."""

    def __len__(self) -> int:
        """Records and voids; of what was not taken apart yet an estimate, which is exact for what our senders write."""
        return len(self._ready) + len(self._records) + len(self._voids) + sum(unread.items for unread in self._unread)

    def __bool__(self) -> bool:
        """Whether something waits; what cannot wait is refused on the way, so that it holds up nobody."""
        if not self._ready and not self._voids:
            self._make_ready(BATCH_BYTES_MAX)
        return bool(self._ready or self._voids or self._records or self._unread)

    def add(self, text: bytes) -> None:
        """What came in one message: a BacklogBatch in JSON."""
        self._unread.append(_Unread.of(text))
        self._bytes_unread += len(text)
        self.bytes += len(text)

    def read_all(self) -> None:
        """Takes apart all that came, which makes the number exact."""
        while self._unread:
            self._read()

    def first(self) -> BacklogBatch:
        """What has waited longest: at most so many records, so many voids and so many bytes, and at least one of them.

        It is empty when all that was looked at had to be refused and there is more to look at.
        """
        self._make_ready(BATCH_BYTES_MAX)
        return self._batch()

    def would_have_more(self) -> bool:
        """Whether `first_by_number` could be another batch than `first`, which was called before."""
        no_record = len(self._ready) == BATCH_ITEMS_MAX or not (self._records or self._unread)
        no_void = len(self._voids) >= BATCH_ITEMS_MAX or not any(unread.may_have_voids for unread in self._unread)
        return not (no_record and no_void)

    def first_by_number(self) -> BacklogBatch:
        """The batch of 0.1.0, which was cut by number alone."""
        self.read_all()
        self._make_ready(None)
        return self._batch()

    def remove(self, batch: BacklogBatch) -> None:
        """Takes off what `first` or `first_by_number` gave."""
        for _ in batch.records:
            self.bytes -= len(self._ready.popleft()[1])
        for _ in batch.voids:
            self.bytes -= len(self._voids.popleft())
        self._seen_enough = False

    def take_surplus(self) -> tuple[int, bytes] | None:
        """Takes off what another workflow has to take over: how many records and voids, and they as a BacklogBatch in
        JSON. None when all that waits can go through continue-as-new.
        """
        self._unready()
        end = self._bytes_unread - READ_BYTES_MAX
        while self._unread and self.bytes - self._bytes_unread <= PIECE_BYTES_MAX and self._bytes_unread > end:
            self._read()
        if self.bytes <= PIECE_BYTES_MAX:
            return None
        records = _taken(self._records, PIECE_BYTES_MAX)
        voids = _taken(self._voids, PIECE_BYTES_MAX - sum(map(len, records)))
        self.bytes -= sum(map(len, records)) + sum(map(len, voids))
        return len(records) + len(voids), _joined(records, voids)

    def all(self) -> bytes:
        """All that waits, as a BacklogBatch in JSON."""
        self._unready()
        self.read_all()
        return _joined(self._records, self._voids)

    def _batch(self) -> BacklogBatch:
        voids = (from_json(void) for void in islice(self._voids, BATCH_ITEMS_MAX))
        return BacklogBatch(records=tuple(record for record, _ in self._ready), voids=tuple(voids))

    def _make_ready(self, bytes_max: int | None) -> None:
        size, end = sum(len(text) for _, text in self._ready), self._bytes_unread - READ_BYTES_MAX
        for _ in range(0 if self._seen_enough else LOOKED_AT_MAX):
            if len(self._ready) == BATCH_ITEMS_MAX or self._bytes_unread <= end:
                break
            if self._records:
                text = self._records[0]
                size += len(text)
                if self._ready and bytes_max is not None and size > bytes_max:
                    break
                del self._records[0]
                if record := self._checked(text):
                    self._ready.append((record, text))
                else:
                    size -= len(text)
                    self.bytes -= len(text)
            elif self._unread and len(self._voids) < BATCH_ITEMS_MAX:
                self._read()
            else:
                break
        self._seen_enough = bool(self._records or self._unread) and not (self._ready or self._voids)

    def _unready(self) -> None:
        self._records.extendleft(text for _, text in reversed(self._ready))
        self._ready.clear()

    def _read(self) -> None:
        """Takes apart what came first."""
        text = self._unread.popleft().text
        self._bytes_unread -= len(text)
        self.bytes -= len(text)
        try:
            records, voids, dropped = _taken_apart(text)
        except ValueError as error:
            self._refuse(f"a message that is no BacklogBatch is dropped: {error}", None)
            return
        if dropped:
            self._refuse(f"{dropped} items of a message are dropped, which are no records or voids", None)
        for record in records:
            if kept := record if len(record) <= LARGE_RECORD_BYTES else self._bounded(record):
                self._records.append(kept)
                self.bytes += len(kept)
        for void in voids:
            self._voids.append(void)
            self.bytes += len(void)

    def _checked(self, text: bytes) -> UsageRecord | None:
        """The record; None when nobody could store it, which is then told."""
        try:
            record = with_bounded_metadata(UsageRecord.model_validate_json(text))
        except ValueError as error:
            self._refuse(f"a record that is none is dropped: {error}: {text[:300].decode(errors='replace')}", None)
            return None
        try:
            check_record(record)
        except ValueError as error:
            self._refuse(f"hold {record.grant.hold_id[:200]} is set aside, out of bounds: {error}", record)
            return None
        return record

    def _bounded(self, text: bytes) -> bytes | None:
        """What is kept of a record that is larger than any of ours, so that it can go to another workflow."""
        record = self._checked(text)
        if record is None:
            return None
        for form in (record, _small(record)):
            if len(text := form.model_dump_json().encode()) <= PIECE_BYTES_MAX:
                return text
        self._refuse(f"hold {record.grant.hold_id} is set aside: its record has {len(text):,} bytes", record)
        return None


class _Unread(NamedTuple):
    """What came in one message, as it came."""

    text: bytes
    items: int
    may_have_voids: bool

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Inside a text of JSON quotes are escaped, so what is looked for here can only be a key."""
        records, may_have_voids = text.count(b'"grant":{'), not text.endswith(b'"voids":[]}')
        voids = text.count(b'"', text.rfind(b'"voids":[') + len('"voids":[')) // 2 if may_have_voids else 0
        return cls(text, max(1, records + voids), may_have_voids)


class SetAside:
    """Records that the database or the ledger refuses for good, for a person to look at; the oldest only as a sum."""

    def __init__(self, records: Iterable[UsageRecord] = (), more: SetAsideSum | None = None) -> None:
        self.records: list[UsageRecord] = []
        self.more = more or SetAsideSum()
        self._bytes = 0
        self.add(records)

    def add(self, records: Iterable[UsageRecord]) -> None:
        for record in map(_small, records):
            self.records.append(record)
            self._bytes += json_bytes(record)
        while self._bytes > SET_ASIDE_BYTES_MAX:
            oldest = self.records.pop(0)
            self._bytes -= json_bytes(oldest)
            self.more += _sum((oldest,))

    def __bool__(self) -> bool:
        return self.sum().records > 0

    def sum(self) -> SetAsideSum:
        """Of all of them."""
        return self.more + _sum(self.records)


def unpacked(text: str) -> bytes:
    """What `pack` made of records, however many: a run of 0.1.0 hands on all that it has."""
    return zlib.decompress(b64decode(text))


def _taken_apart(text: bytes) -> tuple[list[bytes], list[bytes], int]:
    """The records and voids of a BacklogBatch, each as JSON, and how many it has that are none. Raises ValueError."""
    found: object = from_json(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    batch = cast(dict[str, Any], found)
    records, voids = (_list(batch.get(name, [])) for name in ("records", "voids"))
    kept = [to_json(record) for record in records if isinstance(record, dict) and "grant" in record]
    kept_voids = [to_json(void) for void in voids if isinstance(void, str) and len(void) <= ID_CHARACTERS_MAX]
    return kept, kept_voids, len(records) + len(voids) - len(kept) - len(kept_voids)


def _list(found: object) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError("its records or voids are no list")
    return cast(list[Any], found)


def _joined(records: Iterable[bytes], voids: Iterable[bytes]) -> bytes:
    return b'{"records":[%b],"voids":[%b]}' % (b",".join(records), b",".join(voids))


def _taken(waiting: deque[bytes], bytes_max: int) -> list[bytes]:
    """Takes the first off, at most so many bytes of them."""
    taken: list[bytes] = []
    while waiting and (bytes_max := bytes_max - len(waiting[0])) >= 0:
        taken.append(waiting.popleft())
    return taken


def with_bounded_metadata(record: UsageRecord) -> UsageRecord:
    """Requests of 0.1.0 may have more than any has today, and then no batch has room for others."""
    size = metadata_bytes(record.metadata)
    if size <= METADATA_BYTES_MAX:
        return record
    return record.model_copy(update={"metadata": {"metadata_left_out": f"{size:,} bytes"}})


def _small(record: UsageRecord) -> UsageRecord:
    """With everything that its money follows from."""
    attempts = tuple(attempt.model_copy(update={"error": None}) for attempt in record.attempts)
    return record.model_copy(update={"metadata": {}, "attempts": attempts})


def _sum(records: Sequence[UsageRecord]) -> SetAsideSum:
    costs = (cost_nanos(record.grant, attempt) for record in records for attempt in record.attempts)
    return SetAsideSum(records=len(records), cost_nanos=sum(max(0, cost) for cost in costs))
