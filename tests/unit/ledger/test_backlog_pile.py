"""What waits in the usage backlog is cut by bytes as well as by number, and nothing of it is lost or changed."""

import gc
import random
import time
import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import ATTEMPT, GRANT, record, text_of

from paymaster.calls.usage_records import settlement_of
from paymaster.ledger.backlog_pile import Pile, SetAside, unpacked
from paymaster.messages import BacklogBatch, BacklogStart, UsageRecord, json_bytes
from paymaster.values.collection import keep_what_is_there
from paymaster.values.limits import (
    BATCH_BYTES_MAX,
    BATCH_ITEMS_MAX,
    METADATA_BYTES_MAX,
    PIECE_BYTES_MAX,
    SET_ASIDE_BYTES_MAX,
    TEMPORAL_PAYLOAD_BYTES,
)
from paymaster.values.packed import pack

pytestmark = [
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
    pytest.mark.usefixtures("heap_of_a_worker"),
]
ResultT = TypeVar("ResultT")


def noise(size: int, seed: int = 0) -> str:
    """Text that cannot be compressed much."""
    return "".join(map(chr, random.Random(seed).choices(range(0x4E00, 0x9FFF), k=size // 3)))


def batch_of(sizes: list[int], voids: list[str]) -> BacklogBatch:
    return BacklogBatch(records=tuple(record(n, {"a": "x" * size}) for n, size in enumerate(sizes)), voids=tuple(voids))


def no_refusal(why: str, record: UsageRecord | None) -> None:
    raise AssertionError(why)


def pile_of(*batches: BacklogBatch) -> Pile:
    pile = Pile(no_refusal)
    for batch in batches:
        pile.add(text_of(batch))
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
    pile = pile_of(*added)
    records: list[UsageRecord] = []
    voids: list[str] = []
    while pile:
        batch = pile.first()
        assert batch.records or batch.voids
        assert max(len(batch.records), len(batch.voids)) <= BATCH_ITEMS_MAX
        assert json_bytes(batch) <= 2 * BATCH_BYTES_MAX + 1_000
        records += batch.records
        voids += batch.voids
        pile.remove(batch)
    assert records == [record for batch in added for record in batch.records]
    assert voids == [void for batch in added for void in batch.voids]
    assert (pile.bytes, len(pile)) == (0, 0)


@given(added=batches)
def test_what_waits_is_counted_before_it_is_taken_apart(added: list[BacklogBatch]) -> None:
    """Something always waits as long as anything can: whoever sums up what was spent relies on it."""
    pile = pile_of(*added)
    count = sum(len(batch.records) + len(batch.voids) for batch in added)
    empty = added.count(BacklogBatch())
    assert len(pile) == count + empty
    pile.read_all()
    assert len(pile) == count


@pytest.mark.parametrize(
    "forged", [b'{ "voids" : [ "v" ] }', b'{"records": [], "voids": ["v"], "more": "\\"voids\\":[]}"}']
)
def test_a_message_that_none_of_ours_wrote_is_counted_at_least_once(forged: bytes) -> None:
    pile = Pile(no_refusal)
    pile.add(forged)
    assert len(pile) >= 1
    assert pile.first() == BacklogBatch(voids=("v",))


@given(added=batches, taken=st.integers(0, 3))
def test_an_unpatched_run_sends_the_batches_of_0_1_0(added: list[BacklogBatch], taken: int) -> None:
    """By number alone; and when `first` is the same, nothing is said to be different."""
    pile = pile_of(*added)
    records = [record for batch in added for record in batch.records]
    voids = [void for batch in added for void in batch.voids]
    for _ in range(taken + 1):
        by_number = BacklogBatch(records=tuple(records[:BATCH_ITEMS_MAX]), voids=tuple(voids[:BATCH_ITEMS_MAX]))
        first = pile.first()
        if not pile.would_have_more():
            assert first == by_number
        assert pile.first_by_number() == by_number
        del records[:BATCH_ITEMS_MAX], voids[:BATCH_ITEMS_MAX]
        pile.remove(by_number)


def test_records_of_ordinary_size_make_no_other_batches_than_those_of_0_1_0() -> None:
    """So that workers of 0.1.0 can go on with the run."""
    pile = pile_of(*[batch_of([0] * BATCH_ITEMS_MAX, [])] * 10)
    while pile:
        batch = pile.first()
        assert not pile.would_have_more()
        pile.remove(batch)


@given(added=batches, begun=st.booleans())
def test_what_is_left_after_the_surplus_fits_into_one_payload(added: list[BacklogBatch], begun: bool) -> None:
    """Nothing is lost on the way, also when a batch was under way."""
    pile = pile_of(*added)
    if begun:
        pile.first()
    handed_on = list[BacklogBatch]()
    while piece := pile.take_surplus():
        count, text = piece
        assert len(pack(text)) < 1.5 * PIECE_BYTES_MAX
        assert unpacked(pack(text)) == text
        handed_on.append(BacklogBatch.model_validate_json(text))
        assert 0 < count == len(handed_on[-1].records) + len(handed_on[-1].voids)
    start = BacklogStart(ledger="default", waiting=pack(pile.all()))
    assert json_bytes(start) < 0.8 * TEMPORAL_PAYLOAD_BYTES
    handed_on.append(BacklogBatch.model_validate_json(unpacked(start.waiting or "")))
    assert [record for batch in handed_on for record in batch.records] == [
        record for batch in added for record in batch.records
    ]
    assert [void for batch in handed_on for void in batch.voids] == [void for batch in added for void in batch.voids]


def test_a_full_start_of_what_cannot_be_compressed_fits_into_one_payload() -> None:
    """With everything else that a run carries."""
    set_aside = SetAside([record(n) for n in range(1_000)])
    pile = pile_of(BacklogBatch(records=tuple(record(n, {"a": noise(15_000, n)}) for n in range(62))))
    assert 0.9 * PIECE_BYTES_MAX < pile.bytes <= PIECE_BYTES_MAX
    assert pile.take_surplus() is None
    start = BacklogStart(
        ledger="default",
        waiting=pack(pile.all()),
        set_aside=tuple(set_aside.records),
        set_aside_more=set_aside.more,
        pieces=10**9,
        pieces_waiting=10**12,
    )
    assert json_bytes(start) < 0.9 * TEMPORAL_PAYLOAD_BYTES


def test_one_that_is_larger_than_a_piece_goes_without_what_is_no_money() -> None:
    """From a sender of 0.1.0, or forged; nothing waits behind it for ever."""
    attempts = tuple(ATTEMPT.model_copy(update={"number": n, "error": noise(1_500)}) for n in range(900))
    large = record(1).model_copy(update={"attempts": attempts})
    assert json_bytes(large) > PIECE_BYTES_MAX
    pile = pile_of(BacklogBatch(records=(large, record(2)), voids=("v",)))
    kept, other = pile.first().records
    assert json_bytes(kept) <= PIECE_BYTES_MAX
    assert settlement_of(kept) == settlement_of(large)
    assert other == record(2)


def test_one_that_stays_larger_than_a_piece_is_set_aside() -> None:
    attempts = tuple(ATTEMPT.model_copy(update={"number": n, "model_answered": noise(1_500)}) for n in range(900))
    large = record(1).model_copy(update={"attempts": attempts})
    refused: list[UsageRecord | None] = []
    pile = Pile(lambda why, record: refused.append(record))
    pile.add(text_of(BacklogBatch(records=(large, record(2)))))
    assert pile.first() == BacklogBatch(records=(record(2),))
    assert refused == [large]


def test_metadata_beyond_its_bound_is_left_out_and_the_money_is_whole() -> None:
    large = record(1, {"a": "x" * 1_200_000})
    pile = pile_of(BacklogBatch(records=(large, record(2, {"a": "x" * (METADATA_BYTES_MAX - 1)}))))
    kept, other = pile.first().records
    assert kept.metadata == {"metadata_left_out": "1,200,001 bytes"}
    assert settlement_of(kept) == settlement_of(large)
    assert len(other.metadata["a"]) == METADATA_BYTES_MAX - 1


@given(added=batches)
def test_a_run_of_0_1_0_can_go_on_with_what_a_new_one_hands_on(added: list[BacklogBatch]) -> None:
    """It reads the start of a run as one BacklogBatch, in JSON, compressed, in base64."""
    pile = pile_of(*added)
    read = BacklogBatch.model_validate_json(zlib.decompress(b64decode(pack(pile.all()))))
    assert read.records == tuple(record for batch in added for record in batch.records)


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
    refused: list[UsageRecord | None] = []
    pile = Pile(lambda why, record: refused.append(record))
    pile.add(text_of(BacklogBatch(records=(bad, record(2)), voids=("v" * 1_000, "v"))))
    assert pile.first() == BacklogBatch(records=(record(2),), voids=("v",))
    assert [record for record in refused if record] == [bad]
    assert SetAside([bad]).sum().records == 1


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"{",
        b"[]",
        b"17",
        b"{}",
        b'{"records":null}',
        b'{"voids":{}}',
        b'{"voids":[7,null]}',
        b'{"records":[7,{}]}',
        b'{"records":[{"grant":{}}]}',
        b"[" * 10_000,
    ],
)
def test_a_message_that_is_none_holds_up_nobody(forged: bytes) -> None:
    refused: list[str] = []
    pile = Pile(lambda why, record: refused.append(why))
    pile.add(forged)
    assert not pile
    pile.add(text_of(BacklogBatch(records=(record(1),))))
    assert pile.first() == BacklogBatch(records=(record(1),))
    assert len(pile) == 1


def test_what_is_refused_is_looked_at_little_by_little() -> None:
    """Thousands of forged records make no step long; the batch is empty until a good one is found."""
    bad = record(1).model_copy(update={"grant": GRANT.model_copy(update={"bound_nanos": -5})})
    pile = Pile(lambda why, record: None)
    for _ in range(10):
        pile.add(text_of(BacklogBatch(records=(bad,) * 500)))
    pile.add(text_of(BacklogBatch(records=(record(2),))))
    rounds = 1
    while pile and not (batch := pile.first()).records:
        assert pile.first() == batch == BacklogBatch()
        pile.remove(batch)
        rounds += 1
    assert 10 < rounds < 20
    assert pile.first() == BacklogBatch(records=(record(2),))


def test_the_longest_steps_of_a_backlog_take_a_fraction_of_a_second() -> None:
    """The SDK gives an activation 2 s, and no workflow of ours may take more than half a second."""
    signal = text_of(BacklogBatch(records=tuple(record(n) for n in range(BATCH_ITEMS_MAX))))
    pile = Pile(no_refusal)
    took: dict[str, float] = {}

    def measured(what: str, step: Callable[[], ResultT]) -> ResultT:
        started = time.process_time()
        result = step()
        took[what] = max(took.get(what, 0), time.process_time() - started)
        return result

    def come() -> None:
        for _ in range(500):
            pile.add(signal)

    keep_what_is_there()  # as worker.py does: what other tests left is not looked at again and again
    try:
        measured("100,000 records come", come)
        measured("a batch", pile.first)
        while piece := measured("a piece", pile.take_surplus):
            measured("packing it", lambda text=piece[1]: pack(text))
        text = measured("handing on the rest", lambda: pack(pile.all()))
        pile = Pile(no_refusal)
        measured("beginning with it", lambda: (pile.add(unpacked(text)), pile.first()))
    finally:
        gc.unfreeze()
    print({what: f"{seconds * 1_000:.0f} ms" for what, seconds in took.items()})
    assert max(took.values()) < 0.5
