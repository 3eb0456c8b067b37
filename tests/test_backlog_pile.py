"""What waits in the usage backlog is cut by bytes as well as by number, and nothing of it is lost or changed."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_usage_entries import CALL, GRANT

from paymaster.backlog_pile import Pile, SetAside, packed, unpacked
from paymaster.limits import (
    BATCH_BYTES_MAX,
    BATCH_ITEMS_MAX,
    METADATA_BYTES_MAX,
    PIECE_BYTES_MAX,
    SET_ASIDE_BYTES_MAX,
    TEMPORAL_PAYLOAD_BYTES,
)
from paymaster.messages import Attempt, BacklogBatch, BacklogStart, Billing, UsageRecord, json_bytes
from paymaster.usage_entries import settlement_of

ATTEMPT = Attempt(number=1, started_at_ms=1, duration_ms=1, billing=Billing.UNKNOWN, error="cut off")


def record(number: int, metadata: dict[str, str] | None = None) -> UsageRecord:
    grant = GRANT.model_copy(update={"hold_id": f"run/{number}"})
    return UsageRecord(call=CALL, grant=grant, attempts=(ATTEMPT,), answered=False, metadata=metadata or {})


def noise(size: int, seed: int = 0) -> str:
    """Text that cannot be compressed much."""
    return "".join(map(chr, random.Random(seed).choices(range(0x4E00, 0x9FFF), k=size // 3)))


def batch_of(sizes: list[int], voids: list[str]) -> BacklogBatch:
    return BacklogBatch(records=tuple(record(n, {"a": "x" * size}) for n, size in enumerate(sizes)), voids=tuple(voids))


def pile_of(batch: BacklogBatch) -> Pile:
    pile = Pile()
    assert pile.add(batch) == []
    return pile


batches = st.lists(
    st.builds(
        batch_of,
        st.lists(st.sampled_from([0, 10, 5_000, 16_000]), max_size=120),
        st.lists(st.sampled_from(["run/7", "v" * 300]), max_size=30),
    ),
    max_size=8,
)


@given(added=batches)
def test_all_that_was_added_comes_out_once_and_in_order(added: list[BacklogBatch]) -> None:
    """In batches that Temporal and the ledger take."""
    pile = Pile()
    for batch in added:
        pile.add(batch)
    records: list[UsageRecord] = []
    voids: list[str] = []
    while len(pile):
        batch = pile.first()
        assert max(len(batch.records), len(batch.voids)) <= BATCH_ITEMS_MAX
        assert json_bytes(batch) <= 2 * BATCH_BYTES_MAX + 1_000
        records += batch.records
        voids += batch.voids
        pile.remove(batch)
    assert records == [record for batch in added for record in batch.records]
    assert voids == [void for batch in added for void in batch.voids]
    assert pile.bytes == 0


@given(added=batches)
def test_what_is_left_after_the_surplus_fits_into_one_payload(added: list[BacklogBatch]) -> None:
    pile = Pile()
    for batch in added:
        pile.add(batch)
    count, handed_on = len(pile), 0
    while piece := pile.surplus():
        assert len(packed(piece)) < 1.5 * PIECE_BYTES_MAX
        assert unpacked(packed(piece)) == piece
        handed_on += len(piece.records) + len(piece.voids)
        pile.remove(piece)
    start = BacklogStart(ledger="default", waiting=packed(pile.all()))
    assert json_bytes(start) < 0.8 * TEMPORAL_PAYLOAD_BYTES
    assert handed_on + len(pile_of(unpacked(start.waiting or ""))) == count


def test_a_full_start_of_what_cannot_be_compressed_fits_into_one_payload() -> None:
    """With everything else that a run carries."""
    set_aside = SetAside([record(n) for n in range(1_000)])
    pile = pile_of(BacklogBatch(records=tuple(record(n, {"a": noise(15_000, n)}) for n in range(62))))
    assert 0.9 * PIECE_BYTES_MAX < pile.bytes <= PIECE_BYTES_MAX
    start = BacklogStart(
        ledger="default",
        waiting=packed(pile.all()),
        set_aside=tuple(set_aside.records),
        set_aside_more=set_aside.more,
        pieces=10**9,
        pieces_waiting=10**12,
    )
    assert json_bytes(start) < 0.9 * TEMPORAL_PAYLOAD_BYTES


def test_one_that_is_larger_than_a_batch_goes_alone() -> None:
    """From a sender of 0.1.0, or forged; nothing waits behind it for ever."""
    attempts = tuple(ATTEMPT.model_copy(update={"number": n, "error": noise(1_500)}) for n in range(900))
    large = record(1).model_copy(update={"attempts": attempts})
    assert json_bytes(large) > PIECE_BYTES_MAX
    pile = pile_of(BacklogBatch(records=(large, record(2)), voids=("v",)))
    assert pile.first() == BacklogBatch(records=(large,), voids=("v",))
    pile.remove(pile.first())
    assert pile.first() == BacklogBatch(records=(record(2),))


def test_metadata_beyond_its_bound_is_left_out_and_the_money_is_whole() -> None:
    large = record(1, {"a": "x" * 1_200_000})
    pile = pile_of(BacklogBatch(records=(large, record(2, {"a": "x" * (METADATA_BYTES_MAX - 1)}))))
    kept, other = pile.first().records
    assert kept.metadata == {"metadata_left_out": "1,200,001 bytes"}
    assert settlement_of(kept) == settlement_of(large)
    assert len(other.metadata["a"]) == METADATA_BYTES_MAX - 1


def test_what_is_set_aside_is_bounded_and_its_money_is_not_lost() -> None:
    set_aside = SetAside()
    for start in range(0, 1_000, 100):
        set_aside.add(record(n, {"a": "x" * 10_000}) for n in range(start, start + 100))
    assert sum(map(json_bytes, set_aside.records)) <= SET_ASIDE_BYTES_MAX
    assert set_aside.records[-1] == record(999).model_copy(
        update={"attempts": (ATTEMPT.model_copy(update={"error": None}),)}
    )
    assert set_aside.sum().records == 1_000
    assert set_aside.sum().cost_nanos == 1_000 * settlement_of(record(0)).cost_nanos
    again = SetAside(set_aside.records, set_aside.more)
    assert (again.records, again.sum()) == (set_aside.records, set_aside.sum())


@pytest.mark.parametrize("kept", [0, 1])
def test_a_backlog_with_something_set_aside_stays(kept: int) -> None:
    assert bool(SetAside([record(1)] * kept)) is bool(kept)
    assert SetAside(more=SetAside([record(1)]).sum())


@pytest.mark.parametrize(
    "forged",
    [
        {"granted_at_ms": 10**18},
        {"granted_at_ms": -(10**15)},
        {"bound_nanos": -5},
        {"model": "m" * 100_000},
        {"price": GRANT.price.model_copy(update={"input_nanos": -1})},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_a_record_that_nobody_could_store_does_not_wait(forged: dict[str, object]) -> None:
    """It would be tried for ever, and all others behind it."""
    bad = record(1).model_copy(update={"grant": GRANT.model_copy(update=forged)})
    pile = Pile()
    assert pile.add(BacklogBatch(records=(bad, record(2)), voids=("v" * 1_000, "v"))) == [bad]
    assert pile.all() == BacklogBatch(records=(record(2),), voids=("v",))
    assert SetAside([bad]).sum().records == 1


def test_the_longest_steps_of_a_backlog_take_a_fraction_of_a_second() -> None:
    """The SDK gives an activation 2 s, and no workflow of ours may take more than half a second."""
    pile = Pile()
    started = time.process_time()
    signal = BacklogBatch(records=tuple(record(n) for n in range(BATCH_ITEMS_MAX))).model_dump_json()
    while pile.bytes < PIECE_BYTES_MAX:
        pile.add(BacklogBatch.model_validate_json(signal))
    took = {"so many signals that a piece is full": time.process_time() - started}
    started = time.process_time()
    text = packed(pile.all())
    took["packing it"] = time.process_time() - started
    started = time.process_time()
    assert len(pile_of(unpacked(text))) == len(pile)
    took["beginning with it"] = time.process_time() - started
    print(len(pile), "records:", {what: f"{seconds * 1_000:.0f} ms" for what, seconds in took.items()})
    assert max(took.values()) < 0.5
