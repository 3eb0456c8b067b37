"""Parked calls in the copies of the status: a database that takes them in knows who waits, for what, and in which
order."""

from desk_kit import Site, candidate, capped, config
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from paymaster.admission.changed_calls import CALLS_AT_ONCE, ChangedCalls
from paymaster.admission.status import waiting_call
from paymaster.messages import AccountConfig, PauseService, StatusCopy, WaitingCall
from paymaster.messages.status import CopiedCall, ShortOf
from paymaster.values.limits import CARRIED_BYTES_MAX


class Database:
    """What `store_parked` does, with a table in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, CopiedCall]] = {}

    def take_in(self, copy: StatusCopy) -> None:
        if copy.anew:
            self.rows.clear()
        self.rows |= {each.hold_id: (copy.version, each) for each in copy.calls}
        for hold_id in copy.calls_gone:
            self.rows.pop(hold_id, None)
        self.rows = {key: row for key, row in self.rows.items() if row[0] >= copy.calls_from}

    def read(self) -> list[WaitingCall]:
        rows = sorted((row for _, row in self.rows.values()), key=lambda row: (-row.priority, row.sequence))
        return [row.call for row in rows]


def copy_all(site: Site, database: Database) -> int:
    """How many copies it took."""
    copies = 0
    while site.desk.copies.is_due:
        database.take_in(site.desk.copies.take(site.now_ms))
        copies += 1
    return copies


def waiting(site: Site) -> list[WaitingCall]:
    return [waiting_call(call) for call in site.desk.queue]


def short_site(**budgets: AccountConfig) -> Site:
    """$8 are spent in the last of these budgets; without any, of $10 each in a and b."""
    if budgets:
        site, spending = Site(config(budgets=budgets)), [*budgets][-1:]
    else:
        site, spending = Site(config(budgets={"a": capped(day=10), "b": capped(day=10)})), ["a", "b"]
    for budget in spending:
        site.settle(site.granted(candidate(usd=8), budget=budget), 8)
    return site


@given(data=st.data())
def test_the_copy_is_the_queue(data: DataObject) -> None:
    """Whatever comes, goes and fails; after a new run of the ledger too."""
    site, database = short_site(), Database()
    for _ in range(data.draw(st.integers(1, 12))):
        parked = [call.reserve.hold_id for call in site.desk.queue]
        match data.draw(st.sampled_from(["park", "leave", "raise", "copy", "lose", "cut"])):
            case "park":
                budget, priority = data.draw(st.sampled_from(["a", "b"])), data.draw(st.integers(0, 2))
                for _ in range(data.draw(st.integers(1, 3))):
                    site.reserve(candidate(usd=5), budget=budget, priority=priority)
            case "leave" if parked:
                site.void(data.draw(st.sampled_from(parked)))
            case "raise":
                site.raise_cap("4", account=f"budget:{data.draw(st.sampled_from(['a', 'b']))}")
            case "lose" if site.desk.copies.is_due:
                site.desk.copies.again(site.desk.copies.take(site.now_ms))
            case "cut":
                site.cut()
            case _:
                copy_all(site, database)
    copy_all(site, database)
    assert database.read() == waiting(site)


def test_many_calls_go_in_several_copies() -> None:
    """Nobody is missing meanwhile of those that were copied before, and none is too large for Temporal."""
    site, database = short_site(a=capped(day=10)), Database()
    for _ in range(3 * CALLS_AT_ONCE + 1):
        site.parked(candidate(usd=5), budget="a")
    assert copy_all(site, database) == 4
    assert database.read() == waiting(site)
    before = len(database.rows)
    site.cut()
    site.void(next(iter(database.rows)))
    for _ in range(4):
        copy = site.desk.copies.take(site.now_ms)
        assert len(copy.model_dump_json()) < CARRIED_BYTES_MAX // 10
        database.take_in(copy)
        assert len(database.rows) >= before - 1
    assert not site.desk.copies.is_due
    assert database.read() == waiting(site)


def test_an_idle_ledger_copies_no_calls_again() -> None:
    site, database = short_site(), Database()
    site.parked(candidate(usd=5), budget="a")
    copy_all(site, database)
    site.wait(1_000)
    assert not site.desk.copies.is_due
    site.granted(candidate(usd=1), budget="b")
    assert site.desk.copies.take(site.now_ms).calls == ()


def test_of_more_changes_than_there_is_room_all_are_copied() -> None:
    changed = ChangedCalls()
    changed.take([], 1)
    for number in range(6_000):
        changed.mark(str(number))
    assert changed.take(["a"], 7) == (["a"], 7)
    assert not changed


def test_a_call_says_what_it_can_cost_and_which_caps_lack_it() -> None:
    """By the candidate that needs least; none of them, where money is not what it waits for."""
    site, database = short_site(a=capped(day=10), **{"a/b": capped(month=9)}), Database()
    money = site.parked(candidate(usd=5), candidate(usd=4), budget="a/b")
    copy_all(site, database)
    [(_, row)] = [row for key, row in database.rows.items() if key == money]
    assert row.bound_nanos == 4 * 10**9
    assert row.short_of == (ShortOf(account="budget:a/b", window="month"), ShortOf(account="budget:a", window="day"))
    site.desk.pause_service(PauseService(service="s", who="ada", reason="incident"), site.now_ms)
    paused = site.parked(candidate(usd=1), budget="a")
    copy_all(site, database)
    assert database.rows[paused][1].short_of == ()
    assert "incident" in database.rows[paused][1].call.detail
