"""A worker's memory does not fill with calls that have ended."""

import gc
from weakref import WeakSet

from paymaster.admission.desk import Desk
from paymaster.admission.state import RULES, DeskState
from paymaster.values.collection import ENDED_BYTES_MAX, YOUNG_MAX, EndedRequests, keep_what_is_there, no_collection

SIZE = 200_000


class Call:
    """Refers to itself, as the SDK's instance of a workflow does."""

    def __init__(self) -> None:
        self.itself = self
        self.request = "x" * SIZE


def test_ended_calls_hold_no_more_bytes_than_they_may() -> None:
    calls, ended, most = WeakSet[Call](), EndedRequests(), 0
    with no_collection():  # Python's own search comes too late: they are few
        for _ in range(2 * ENDED_BYTES_MAX // SIZE):
            calls.add(Call())
            ended.add(SIZE)
            most = max(most, len(calls))
    assert most * SIZE < 1.1 * ENDED_BYTES_MAX


def test_young_objects_are_searched_less_often() -> None:
    """At Python's own 700, holds that live for seconds were searched with all the old ones every few seconds."""
    before = gc.get_threshold()
    try:
        keep_what_is_there()
        assert gc.get_threshold() == (YOUNG_MAX, *before[1:])
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_imports_do_not_put_off_the_search_for_garbage() -> None:
    """Python looks at old objects when a quarter of those that its last search left has come since."""
    before = gc.get_threshold()
    keep_what_is_there()
    try:
        searched = _full_searches()
        for _ in range(200):
            _ = [[] for _ in range(2 * YOUNG_MAX)]
        assert gc.get_freeze_count() > 100_000
        assert _full_searches() > searched
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_what_is_kept_stays_kept_when_a_ledger_is_read() -> None:
    """A search that looks at the imports again takes a fifth of a busy ledger's time."""
    desk = Desk(DeskState(ledger="test", epoch="this run", rules=RULES))
    gc.collect()
    gc.freeze()
    try:
        kept = gc.get_freeze_count()
        Desk.load(desk.dump())
        assert gc.get_freeze_count() >= kept - 100
    finally:
        gc.unfreeze()


def _full_searches() -> int:
    return gc.get_stats()[2]["collections"]
