"""What waits in a usage backlog, and what was set aside there: cut by number and by bytes, and packed."""

import zlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from paymaster.limits import (
    BATCH_BYTES_MAX,
    BATCH_ITEMS_MAX,
    ID_CHARACTERS_MAX,
    METADATA_BYTES_MAX,
    PIECE_BYTES_MAX,
    SET_ASIDE_BYTES_MAX,
)
from paymaster.message_bounds import check_record
from paymaster.messages import BacklogBatch, SetAsideSum, UsageRecord, json_bytes
from paymaster.sendable import metadata_bytes
from paymaster.usage_entries import cost_nanos

ItemT = TypeVar("ItemT")


class Pile:
    """Records and voids that wait, in the order in which they came; one that came twice waits twice."""

    def __init__(self) -> None:
        self._records: deque[tuple[UsageRecord, int]] = deque()
        self._voids: deque[tuple[str, int]] = deque()
        self.bytes = 0
        """Of all that waits."""

    def __len__(self) -> int:
        return len(self._records) + len(self._voids)

    def add(self, batch: BacklogBatch) -> list[UsageRecord]:
        """Returns those that do not wait, because they are out of bounds: nobody could store them."""
        out_of_bounds: list[UsageRecord] = []
        for record in map(with_bounded_metadata, batch.records):
            try:
                check_record(record)
            except ValueError:
                out_of_bounds.append(record)
                continue
            size = json_bytes(record)
            self._records.append((record, size))
            self.bytes += size
        for void in batch.voids:
            if len(void) > ID_CHARACTERS_MAX:
                continue
            size = len(void.encode()) + 3  # quotes and comma
            self._voids.append((void, size))
            self.bytes += size
        return out_of_bounds

    def first(self, bytes_max: int | None = BATCH_BYTES_MAX, items_max: int = BATCH_ITEMS_MAX) -> BacklogBatch:
        """What has waited longest: at most so many records, so many voids and so many bytes of each, and at least one.

        `bytes_max` None: however large they are.
        """
        return BacklogBatch(
            records=_first(self._records, bytes_max, items_max), voids=_first(self._voids, bytes_max, items_max)
        )

    def surplus(self) -> BacklogBatch | None:
        """What another workflow has to take over; None when all that waits can go through continue-as-new."""
        if self.bytes <= PIECE_BYTES_MAX:
            return None
        if self._voids:
            return BacklogBatch(voids=_first(self._voids, PIECE_BYTES_MAX, len(self)))
        return BacklogBatch(records=_first(self._records, PIECE_BYTES_MAX, len(self)))

    def all(self) -> BacklogBatch:
        return self.first(None, len(self))

    def remove(self, batch: BacklogBatch) -> None:
        """Takes off what `first` or `surplus` gave."""
        for waiting, items in ((self._records, batch.records), (self._voids, batch.voids)):
            self.bytes -= sum(size for _, size in islice(waiting, len(items)))
            for _ in items:
                waiting.popleft()


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


def packed(batch: BacklogBatch) -> str:
    """Compressed: thousands of records are in one payload."""
    return b64encode(zlib.compress(batch.model_dump_json().encode())).decode()


def unpacked(text: str) -> BacklogBatch:
    return BacklogBatch.model_validate_json(zlib.decompress(b64decode(text)))


def _first(waiting: Iterable[tuple[ItemT, int]], bytes_max: int | None, items_max: int) -> tuple[ItemT, ...]:
    """At least one, if there is one: what is larger goes alone."""
    items: list[ItemT] = []
    total = 0
    for item, size in islice(waiting, items_max):
        total += size
        if items and bytes_max is not None and total > bytes_max:
            break
        items.append(item)
    return tuple(items)


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
