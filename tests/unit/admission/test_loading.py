"""Loading: a desk that begins without a state, or is told to look again, knows in the end exactly what was spent.

The database here is a list of rows, written by the rule that the activities follow: the row of an attempt is stored
before its settlement is sent. What the desk adds up after any interleaving must be the sum of what was really spent.
"""

import random
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, SECOND, USD, Site, at, candidate, capped, config, is_ended, service
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission import settling
from paymaster.admission.desk import Desk
from paymaster.admission.state import DeskState
from paymaster.messages import (
    CapChange,
    Delivery,
    Denied,
    ExpiredHold,
    Granted,
    LoadedSpend,
    LoadSpend,
    RaiseCap,
    SetCap,
    Settle,
    Settled,
    UnconfirmedEntry,
    Window,
)
from paymaster.values.windows import WINDOWS, window_start_ms

ACCOUNTS = ("budget:acme", "budget:acme/team", "service:s")


@dataclass
class Row:
    """What `api_usage` says about one hold: the final amount if there is one, else the unconfirmed one."""

    granted_at_ms: int
    unconfirmed_nanos: int | None = None
    final_nanos: int | None = None

    @property
    def counts_nanos(self) -> int:
        return self.final_nanos if self.final_nanos is not None else self.unconfirmed_nanos or 0


@dataclass
class Database:
    rows: dict[str, Row] = field(default_factory=dict[str, Row])

    def spent(self, window: Window, now_ms: int, without: tuple[str, ...] = ()) -> int:
        start_ms = window_start_ms(window, now_ms)
        rows = [row for hold_id, row in self.rows.items() if hold_id not in without]
        return sum(row.counts_nanos for row in rows if row.granted_at_ms >= start_ms)

    def read(self, wanted: LoadSpend) -> LoadedSpend:
        """Reads like the activity: by the windows and without the holds that the desk named."""
        posted: dict[str, dict[Window, int]] = {}
        for account in wanted.accounts:
            rows = [row for hold_id, row in self.rows.items() if hold_id not in wanted.known_holds]
            posted[account] = {
                window: sum(
                    row.counts_nanos for row in rows if row.granted_at_ms >= wanted.window_starts_ms.get(window, 0)
                )
                for window in WINDOWS
            }
        rows = [row for hold_id, row in self.rows.items() if hold_id not in wanted.known_holds]
        unconfirmed = [row.counts_nanos for row in rows if row.final_nanos is None]
        folded = dict.fromkeys(wanted.accounts, (len(unconfirmed), sum(unconfirmed))) if unconfirmed else {}
        return LoadedSpend(number=wanted.number, posted_nanos=posted, unconfirmed=folded)


@dataclass
class Call:
    hold_id: str
    granted_at_ms: int
    bound: int
    cost: int
    epoch: str


steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, 3), st.integers(0, 4)),
        st.tuples(st.just("call"), st.integers(1, 3), st.integers(1, 2)),
        st.tuples(st.sampled_from(["settle", "settle", "unconfirm", "void", "store"]), st.integers(0, 5), st.just(0)),
        st.tuples(st.sampled_from(["read", "answer", "answer", "reload", "cut", "cap"]), st.just(0), st.just(0)),
        st.tuples(
            st.just("wait"), st.sampled_from([1, 20 * SECOND, MINUTE, 16 * MINUTE, HOUR, DAY, 31 * DAY]), st.just(0)
        ),
    ),
    max_size=40,
)


@settings(max_examples=examples(500), deadline=None, derandomize=True, database=None)
@given(
    steps=steps,
    loaded=st.booleans(),
    keep=st.sampled_from([0, 1, 1_000]),
    start_ms=st.sampled_from([NOON, at(2028, 2, 29, 23, 59, 30), at(2027, 12, 31, 23, 59, 59)]),
)
def test_after_loading_the_books_are_what_was_spent_whatever_happened_meanwhile(
    steps: list[tuple[str, int, int]], loaded: bool, keep: int, start_ms: int
) -> None:
    """Calls that are pending, unconfirmed, expired, folded, settled, resolved, voided before, while and after the
    database is read, at any number of reloads, cuts and window ends: in the end both agree for every account and
    window. `keep`: how many unconfirmed holds the desk keeps one by one."""
    with patch.object(settling, "UNCONFIRMED_MAX", keep), patch.object(settling, "FOLDED_AT_ONCE", 1):
        _books_are_what_was_spent(steps, Site(config(budgets={"acme": capped(total=10**6)}), start_ms, load=loaded))


def _books_are_what_was_spent(steps: list[tuple[str, int, int]], site: Site) -> None:
    site.desk.state.rules = 2
    database, running = Database(), list[Call]()
    read: LoadedSpend | None = None

    def stored_before_settled(call: Call, cost: int, *, final: bool) -> None:
        row = database.rows.setdefault(call.hold_id, Row(call.granted_at_ms))
        if final:
            row.final_nanos = cost * USD
        elif row.unconfirmed_nanos is None:
            row.unconfirmed_nanos = cost * USD

    def store_expired() -> None:
        """The outbox's notices reach the database at last, perhaps after the final row."""
        for notice in site.desk.state.outbox.notices:
            if isinstance(notice, ExpiredHold) and not notice.settled:
                row = database.rows.setdefault(notice.grant.hold_id, Row(notice.grant.granted_at_ms))
                row.unconfirmed_nanos = notice.grant.bound_nanos
        site.desk.state.outbox.notices.clear()

    for what, number, share in steps:
        match what:
            case "call":
                answer = site.reserve(candidate(usd=number), budget="acme/team/x", wait_ms=1)
                if isinstance(answer, Granted):
                    call = Call(answer.grant.hold_id, answer.grant.granted_at_ms, number, number * share // 2, "")
                    running.append(call)
                else:
                    site.void(answer.hold_id)
            case "settle" | "unconfirm" | "void" if running:
                call = running[number % len(running)]
                if what == "unconfirm":
                    stored_before_settled(call, call.bound, final=False)
                    site.settle(call.hold_id, call.bound, confirmed=False)
                else:
                    running.remove(call)
                    is_held = call.hold_id in site.desk.ledger.holds
                    if what == "void":  # of a folded one, the entry stays unconfirmed until somebody resolves it
                        if is_held and (call.hold_id in database.rows or _is_unconfirmed(site, call)):
                            stored_before_settled(call, 0, final=True)
                        site.void(call.hold_id)
                    else:
                        row = database.rows.get(call.hold_id)
                        resolved = _entry(call, row) if number % 2 and row is not None else None
                        stored_before_settled(call, call.cost, final=True)
                        settle(site, call, resolved)
            case "store":
                store_expired()
            case "read":
                wanted = site.desk.to_load()
                read = read if wanted is None else database.read(wanted)
            case "answer" if read is not None:
                site.desk.loaded(read, site.now_ms)
                read = None
            case "reload":
                site.desk.reload(site.now_ms)
            case "cut":
                site.cut()
            case "cap":
                site.set_cap("1000000", "budget:acme/team")
            case "wait":
                site.wait(number)
            case _:
                pass
    while (wanted := site.desk.to_load()) is not None:
        site.desk.loaded(database.read(wanted), site.now_ms)
    for call in running:
        if _is_unconfirmed(site, call):
            continue
        stored_before_settled(call, call.cost, final=True)
        settle(site, call)
    store_expired()
    while (wanted := site.desk.to_load()) is not None:
        site.desk.loaded(database.read(wanted), site.now_ms)
    site.desk.advance(site.now_ms)
    for account, line in site.desk.ledger.accounts.items():
        assert not line.loading
        for window in WINDOWS:
            assert line.balances[window].pending_nanos == 0
            assert line.balances[window].posted_nanos == database.spent(window, site.now_ms), (account, window)


def settle(site: Site, call: Call, corrects: UnconfirmedEntry | None = None) -> None:
    command = Settle(hold_id=call.hold_id, cost_nanos=call.cost * USD, epoch="this run", corrects=corrects)
    for _ in range(2):  # sent again, it changes nothing
        assert isinstance(site.desk.handle(command, site.now_ms), Settled)
    site.desk.advance(site.now_ms)


def _entry(call: Call, row: Row) -> UnconfirmedEntry | None:
    """What `unconfirmed resolve` has read before it writes the final entry."""
    if row.final_nanos is not None or row.unconfirmed_nanos is None:
        return None
    return UnconfirmedEntry(
        budget="acme/team/x", service="s", granted_at_ms=call.granted_at_ms, posted_nanos=row.unconfirmed_nanos
    )


def _is_unconfirmed(site: Site, call: Call) -> bool:
    hold = site.desk.ledger.holds.get(call.hold_id)
    return hold is not None and hold.state == "unconfirmed"


# ---------------------------------------------------------------- before it is known


def test_a_new_ledger_parks_all_calls_until_it_knows_what_was_spent() -> None:
    """In both modes; then they are served in order, under what is left."""
    site = Site(config(budgets={"acme": capped(day=10)}), load=False)
    waiting = [site.parked(candidate(usd=3), mode=mode) for mode in ("wait", "fail", "wait")]
    assert [account.loading for account in site.desk.status().accounts] == [True, True]
    site.wait(10 * SECOND)
    site.load({"budget:acme": {"day": 4 * USD, "month": 50 * USD, "total": 400 * USD}})
    assert site.served() == waiting[:2]
    assert (site.posted(), site.pending()) == (4, 6)
    assert site.posted(window="total") == 400


def test_what_can_never_be_is_denied_also_while_it_is_loading() -> None:
    """No price: waiting for the database would not help. A budget may be among what is stored."""
    site = Site(load=False)
    assert site.denied(candidate(price=None)).reason == "no_price"
    waiting = site.parked(budget="nowhere", mode="fail")
    site.load()
    (denied,) = site.answers().values()
    assert isinstance(denied, Denied)
    assert (denied.hold_id, denied.reason) == (waiting, "unknown_budget")
    assert site.denied(budget="nowhere").reason == "unknown_budget"


def test_the_question_to_the_database_stays_the_same_until_it_is_answered() -> None:
    """The activity may fail and be started again, also after a cut."""
    site = Site(load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    site.wait(HOUR)
    site.cut()
    assert site.desk.to_load() == wanted
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={}), site.now_ms)
    assert site.desk.to_load() is None


def test_an_answer_to_an_earlier_question_is_not_taken() -> None:
    """A reload was asked for meanwhile: what was read may be old."""
    site = Site(load=False)
    old = site.desk.to_load()
    assert old is not None
    site.desk.reload(site.now_ms)
    new = site.desk.to_load()
    assert new is not None
    assert new.number != old.number
    site.desk.loaded(LoadedSpend(number=old.number, posted_nanos={"budget:acme": {"day": 9 * USD}}), site.now_ms)
    assert site.desk.status().accounts[0].loading
    site.desk.loaded(LoadedSpend(number=new.number, posted_nanos={"budget:acme": {"day": 7 * USD}}), site.now_ms)
    site.desk.loaded(LoadedSpend(number=new.number, posted_nanos={"budget:acme": {"day": 7 * USD}}), site.now_ms)
    assert site.posted() == 7


def test_a_window_that_ended_while_it_was_loading_starts_at_zero() -> None:
    """Asked before midnight, answered after it: the day is new, the month goes on."""
    site = Site(now_ms=at(2027, 3, 11) - 1, load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    site.wait(1)
    spent: dict[Window, int] = dict.fromkeys(WINDOWS, 5 * USD)
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={"budget:acme": spent}), site.now_ms)
    assert [site.posted(window=window) for window in WINDOWS] == [0, 0, 0, 5, 5, 5]


def test_an_account_that_is_opened_while_others_load_is_loaded_after_them() -> None:
    """Its own question follows."""
    site = Site(load=False)
    first = site.desk.to_load()
    site.set_cap("5", "budget:acme/team")
    assert site.desk.to_load() == first
    site.load()
    second = site.desk.to_load()
    assert second is not None
    assert second.accounts == ("budget:acme/team",)
    waiting = site.parked(candidate(usd=2), budget="acme/team")
    site.load({"budget:acme/team": {"day": 3 * USD}})
    assert site.served() == [waiting]


# ---------------------------------------------------------------- epochs


def test_a_settlement_of_another_epoch_is_read_and_not_posted() -> None:
    """Its rows are in the database, with those of all others: everything is read again, and calls wait meanwhile."""
    site = Site()
    held = site.granted(candidate(usd=2))
    settle = Settle(hold_id="before/1", cost_nanos=3 * USD, epoch="an earlier run")
    assert site.desk.handle(settle, site.now_ms) == Settled(hold_id="before/1")
    assert site.posted() == 0
    assert site.alerts() == []
    waiting = site.parked()
    wanted = site.desk.to_load()
    assert wanted is not None
    assert wanted.known_holds == (held.hold_id,)
    site.load({account: {"day": 3 * USD, "total": 3 * USD} for account in ("budget:acme", "service:s")})
    assert (site.posted(), site.pending()) == (3, 3)
    assert site.served() == [waiting]
    site.settle(held, 2)
    assert site.posted() == 5


def test_a_settlement_of_this_epoch_that_nobody_knows_reloads_nothing() -> None:
    """Under the rules of 0.1.0 it is a difference, for `reconcile`."""
    site = Site()
    site.desk.state.rules = 1
    for epoch in ("this run", ""):
        answer = site.desk.handle(Settle(hold_id="nobody/1", cost_nanos=1, epoch=epoch), site.now_ms)
        assert answer.kind == "unknown_hold"
    assert site.desk.to_load() is None


def test_a_call_taken_for_gone_that_settles_is_read_again() -> None:
    """Its grant was sent twice; it had used the first one, and its settlement comes later, by way of the backlog."""
    site = Site()
    held = site.granted(candidate(usd=10))
    waiting = site.parked()
    site.void(held)
    [answer] = site.desk.state.outbox.messages
    site.desk.delivered(Delivery(gone=(answer.sequence,)), site.now_ms)
    assert site.pending() == 0
    site.cut()
    site.settle(waiting, 1)
    assert site.alerts("unknown_hold") == []
    site.load({account: {"day": USD, "total": USD} for account in ("budget:acme", "service:s")})
    assert (site.posted(), site.pending()) == (1, 0)


# ---------------------------------------------------------------- the caps that admins set before


def change(
    by: int | None = None,
    to: int = 15,
    file: int | None = 10,
    account: str = "budget:acme",
    window: Window = "day",
    lapses: bool = False,
    at_ms: int = NOON - HOUR,
) -> CapChange:
    return CapChange(
        sequence=1,
        at_ms=at_ms,
        account=account,
        window=window,
        from_nanos=None,
        to_nanos=to * USD,
        by_nanos=None if by is None else by * USD,
        file_nanos=None if file is None else file * USD,
        until_window_end=lapses,
        who="ada",
        reason="",
    )


@pytest.mark.parametrize(
    ("changes", "cap"),
    [
        ([], 10),
        ([change(by=5)], 15),
        ([change(to=8)], 8),
        ([change(by=5), change(by=2, to=17)], 17),
        ([change(by=5), change(to=3), change(by=1, to=4)], 4),
        ([change(by=5, file=9)], 10),  # the file says something else since
        ([change(by=5, file=9), change(by=1, to=11)], 11),
        ([change(by=5, lapses=True)], 15),
        ([change(by=5, lapses=True, at_ms=NOON - DAY)], 10),  # it lapsed at midnight
        ([change(by=5, at_ms=NOON - 40 * DAY), change(by=2, to=17, lapses=True, at_ms=NOON - DAY)], 15),
    ],
)
@pytest.mark.parametrize("tomorrow", [False, True])
def test_what_admins_changed_before_is_in_force_again(changes: list[CapChange], cap: int, tomorrow: bool) -> None:
    """In their order, unless it lapsed or the file's own value has changed; and what was to lapse still does."""
    site = Site(config(budgets={"acme": capped(day=10)}), load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    assert wanted.with_cap_changes
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={}, cap_changes=tuple(changes)), site.now_ms)
    lapses = sum(c.by_nanos or 0 for c in changes if c.until_window_end and c.at_ms > at(2027, 3, 10)) // USD
    if tomorrow:
        site.wait(DAY)
        site.desk.advance(site.now_ms)
    assert site.balance().cap_nanos == (cap - lapses if tomorrow else cap) * USD


def test_an_admins_cap_on_a_budget_that_the_file_does_not_name_is_in_force_again() -> None:
    """Its account is opened, and loaded before anything is granted; a service that is gone stays gone."""
    site = Site(load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    changes = (
        change(to=4, file=None, account="budget:acme/team"),
        change(to=1, file=None, account="service:gone"),
    )
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={}, cap_changes=changes), site.now_ms)
    assert sorted(site.desk.ledger.accounts) == ["budget:acme", "budget:acme/team", "service:s"]
    waiting = site.parked(candidate(usd=2), budget="acme/team")
    again = site.desk.to_load()
    assert again is not None
    assert (again.accounts, again.with_cap_changes) == (("budget:acme/team",), False)
    site.load({"budget:acme/team": {"day": 2 * USD}})
    assert site.served() == [waiting]
    site.parked(candidate(usd=1), budget="acme/team")


@settings(max_examples=examples(80), deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["raise", "lapse", "set", "wait"]),
            st.sampled_from(["hour", "day", "month"]),
            st.integers(1, 9),
        ),
        max_size=12,
    )
)
def test_a_ledger_that_lost_its_state_has_the_same_caps_as_the_one_that_did_not(
    changes: list[tuple[str, Window, int]],
) -> None:
    """Whatever admins did, at whatever times: the caps of the old desk and of one that begins with what is stored."""
    file = config(budgets={"acme": capped(hour=10, day=20)})
    site = Site(file)
    for what, window, number in changes:
        if what == "wait":
            site.wait(number * number * 20 * MINUTE)
        elif what == "set":
            site.set_cap(str(number), window=window)
        elif site.balance(window=window).cap_nanos is not None:
            site.raise_cap(str(number), window=window, lapses=what == "lapse")
    site.desk.advance(site.now_ms)
    new = Site(file, site.now_ms, load=False)
    wanted = new.desk.to_load()
    assert wanted is not None
    new.desk.loaded(
        LoadedSpend(number=wanted.number, posted_nanos={}, cap_changes=tuple(site.cap_changes())), new.now_ms
    )
    for _ in range(2):
        for window in WINDOWS:
            assert new.balance(window=window).cap_nanos == site.balance(window=window).cap_nanos, window
        for one in (site, new):
            one.now_ms += 32 * DAY
            one.desk.advance(one.now_ms)


def test_a_change_of_this_epoch_is_not_applied_twice() -> None:
    """A reload reads what was spent, and no cap changes any more."""
    site = Site()
    site.raise_cap("5")
    site.desk.reload(site.now_ms)
    wanted = site.desk.to_load()
    assert wanted is not None
    assert not wanted.with_cap_changes
    site.desk.loaded(
        LoadedSpend(number=wanted.number, posted_nanos={}, cap_changes=tuple(site.cap_changes())), site.now_ms
    )
    assert site.balance().cap_nanos == 15 * USD


def test_a_call_that_is_cancelled_while_it_waits_for_the_database_is_over() -> None:
    """Nothing is granted to it when the answer comes."""
    site = Site(config(services={"s": service(concurrent=1)}), load=False)
    cancelled, waiting = site.parked(), site.parked()
    site.void(cancelled)
    site.load()
    assert site.served() == [waiting]
    assert is_ended(site.reserve(hold_id=cancelled))


def test_an_admin_may_raise_and_set_caps_before_the_ledger_knows_what_was_spent() -> None:
    """What is decided meanwhile waits, and then counts."""
    desk = Desk(DeskState(ledger="test", epoch="this run"))
    desk.configure(config(), NOON)
    desk.raise_cap(RaiseCap(account="budget:acme", window="day", by="5"), NOON)
    desk.set_cap(SetCap(account="service:s", window="day", to="7"), NOON)
    wanted = desk.to_load()
    assert wanted is not None
    desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={"service:s": {"day": 6 * USD}}), NOON)
    assert desk.ledger.accounts["budget:acme"].balances["day"].cap_nanos == 15 * USD
    assert desk.ledger.accounts["service:s"].balances["day"].posted_nanos == 6 * USD


# ---------------------------------------------------------------- folded holds


@pytest.mark.parametrize("seed", range(20))
def test_a_folded_hold_is_settled_exactly_whoever_settles_it(seed: int) -> None:
    """A desk that keeps three unconfirmed holds, and hundreds of timeouts: resolved, reported late or never, sent
    twice, read again, cut. In the end each account and window has what the rows say; no hold id is granted twice."""
    chance = random.Random(seed)
    with patch.object(settling, "UNCONFIRMED_MAX", 3), patch.object(settling, "FOLDED_AT_ONCE", 1):
        site = Site(config(budgets={"acme": capped(total=10**6)}))
        site.desk.state.rules = 2
        database, unsettled, folded = Database(), list[Call](), 0
        for _ in range(150):
            match chance.choice(["call"] * 6 + ["settle", "settle", "again", "load", "reload", "cut", "wait", "cap"]):
                case "call":
                    answer = site.reserve(candidate(usd=3), budget="acme/team/x", wait_ms=1)
                    if not isinstance(answer, Granted):
                        site.void(answer.hold_id)
                        continue
                    grant = answer.grant
                    call = Call(grant.hold_id, grant.granted_at_ms, 3, chance.choice([0, 1, 3, 5]), "")
                    unsettled.append(call)
                    database.rows[call.hold_id] = Row(call.granted_at_ms, unconfirmed_nanos=3 * USD)
                    site.settle(call.hold_id, 3, confirmed=False)
                case "settle" if unsettled:
                    call = unsettled.pop(chance.randrange(len(unsettled)))
                    folded += call.hold_id not in site.desk.ledger.holds
                    row = database.rows[call.hold_id]
                    entry = _entry(call, row) if chance.random() < 0.5 else None
                    row.final_nanos = call.cost * USD
                    settle(site, call, entry)
                case "again" if unsettled:
                    call = chance.choice(unsettled)
                    again = site.request(candidate(usd=3), budget="acme/team/x", hold_id=call.hold_id)
                    again = again.model_copy(update={"asked_at_ms": call.granted_at_ms})
                    assert is_ended(site.desk.handle(again, site.now_ms))
                case "load" if (wanted := site.desk.to_load()) is not None:
                    site.desk.loaded(database.read(wanted), site.now_ms)
                case "reload":
                    site.desk.reload(site.now_ms)
                case "cut":
                    site.cut()
                case "wait":
                    site.wait(chance.choice([SECOND, MINUTE, 3 * HOUR, 20 * DAY]))
                case "cap":
                    site.set_cap("1000000", "budget:acme/team")
                case _:
                    pass
        while (wanted := site.desk.to_load()) is not None:
            site.desk.loaded(database.read(wanted), site.now_ms)
    site.desk.advance(site.now_ms)
    assert folded
    assert site.alerts("unknown_hold") == []
    for account, line in site.desk.ledger.accounts.items():
        for window in WINDOWS:
            assert line.balances[window].posted_nanos == database.spent(window, site.now_ms), (account, window)
    unconfirmed = [row for row in database.rows.values() if row.final_nanos is None]
    assert site.desk.status().unconfirmed == len(unconfirmed)
