"""Put back to another time: what was posted is never forgotten, and what is stored is never overlooked."""

import pytest
from desk_kit import DAY, MINUTE, NOON, USD, Site, candidate, capped, config
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.messages import AcceptLower, CorrectSpend, StoredRows, Window
from paymaster.values.windows import WINDOWS

BOTH = ("budget:acme", "service:s")


def spent(usd: float, *accounts: str) -> dict[str, dict[Window, int]]:
    """What the database says of both accounts."""
    return {account: dict.fromkeys(WINDOWS, round(usd * USD)) for account in accounts or BOTH}


def with_spending(usd: int = 8) -> Site:
    site = Site()
    site.settle(site.granted(candidate(usd=usd)), usd)
    return site


# ---------------------------------------------------------------- the database was put back


def test_what_was_posted_stays_when_the_database_has_less() -> None:
    """$8 posted, $3 stored: $8 stay, in every window that is open, with one alert that has the command."""
    site = with_spending(8)
    site.desk.reload(site.now_ms)
    site.load(spent(3))
    assert [site.posted(window=window) for window in WINDOWS] == [8] * 6
    (alert,) = site.alerts()
    assert (alert.what, alert.window) == ("spending_missing", "total")
    assert "paymaster reconcile --accept-lower all" in alert.text
    windows = site.desk.status().accounts[0].windows
    assert {line.window: line.missing_nanos for line in windows} == {"day": 5 * USD, "total": 5 * USD}
    assert site.denied(candidate(usd=3)).reason == "cap_reached"
    site.desk.reload(site.now_ms)
    site.load(spent(3))
    assert len(site.alerts("spending_missing")) == 1, "it is no news the second time"


def test_what_was_missing_is_forgotten_when_its_window_ends() -> None:
    """The next day begins with nothing; the total keeps it."""
    site = with_spending(8)
    site.desk.reload(site.now_ms)
    site.load(spent(3))
    site.wait(DAY)
    site.granted(candidate(usd=10))
    assert (site.posted(), site.posted(window="total")) == (0, 8)
    assert site.balance().missing_nanos == 0


def test_an_admin_accepts_the_lower_sum() -> None:
    """Of the account that is named; the other one keeps what it has."""
    site = with_spending(8)
    site.desk.reload(site.now_ms)
    site.load(spent(3))
    change = AcceptLower(account="budget:acme", reason="a test", who="ada")
    assert site.desk.accept_lower(change, site.now_ms).accounts == ("budget:acme",)
    waiting = site.parked(candidate(usd=7))
    site.load(spent(3, "budget:acme"))
    assert site.served() == [waiting]
    assert (site.posted(), site.posted("service:s")) == (3, 8)
    assert site.alerts()[-1].text == "ada (a test) accepts what the database says was spent: budget:acme"
    with pytest.raises(ValueError, match="there is no account 'budget:nowhere'"):
        site.desk.accept_lower(AcceptLower(account="budget:nowhere"), site.now_ms)


@settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["call", "settle", "unsure", "reload", "answer", "cut", "lose"]), st.integers(0, 3)),
        max_size=25,
    )
)
def test_no_loading_ever_gives_less_than_was_posted(steps: list[tuple[str, int]]) -> None:
    """Rows vanish, loadings begin again, calls settle meanwhile: the books are at least what was settled."""
    site = Site(config(budgets={"acme": capped(total=10**6)}))
    rows: dict[str, float] = {}
    running: list[str] = []
    settled: dict[str, float] = {}
    read = None
    for what, number in steps:
        match what:
            case "call":
                answer = site.reserve(candidate(usd=number), wait_ms=1)
                if answer.kind == "granted":
                    running.append(answer.grant.hold_id)
                else:
                    site.void(answer.hold_id)
            case "settle" | "unsure" if running:
                hold_id = running.pop(number % len(running))
                rows[hold_id] = settled[hold_id] = number
                site.settle(hold_id, number, confirmed=what == "settle")
            case "reload":
                site.desk.reload(site.now_ms)
                read = None
            case "answer" if (wanted := site.desk.to_load()) is not None:
                read = sum(usd for hold_id, usd in rows.items() if hold_id not in wanted.known_holds)
                site.load(spent(read))
            case "cut":
                site.cut()
            case "lose":
                for hold_id in list(rows)[:number]:
                    del rows[hold_id]
            case _:
                pass
    while (wanted := site.desk.to_load()) is not None:
        site.load(spent(sum(usd for hold_id, usd in rows.items() if hold_id not in wanted.known_holds)))
    for window in WINDOWS:
        assert site.posted(window=window) == pytest.approx(sum(settled.values()))


# ---------------------------------------------------------------- the ledger was put back


def test_a_ledger_that_was_put_back_reads_what_it_does_not_know() -> None:
    """An old state, and rows of two hours later: the higher sum counts, and calls wait until it is known."""
    site = Site()
    site.settle(site.granted(candidate(usd=2)), 2)
    pending = site.granted(candidate(usd=1))
    site.cut()
    stored = StoredRows(latest_granted_ms=NOON + 2 * 60 * MINUTE)
    assert site.desk.compare_rows(stored, site.now_ms).accounts == BOTH
    (alert,) = site.alerts()
    assert alert.what == "ledger_behind"
    wanted = site.desk.to_load()
    assert wanted is not None
    assert wanted.known_holds == (), "what is stored of a pending hold is of an attempt before the state was put back"
    site.load(spent(7))
    assert (site.posted(), site.pending()) == (7, 1)
    site.settle(pending, 1)
    assert site.posted() == 8
    assert site.desk.compare_rows(stored, site.now_ms).accounts == ()


def test_a_ledger_that_knows_all_rows_reads_nothing_again() -> None:
    """The newest row is of its own newest grant, or older, or there is none."""
    site = with_spending(2)
    for latest_ms in (0, NOON - DAY, NOON):
        assert site.desk.compare_rows(StoredRows(latest_granted_ms=latest_ms), site.now_ms).accounts == ()
    assert site.desk.to_load() is None
    assert site.alerts() == []


def test_unconfirmed_holds_are_shown_with_what_they_are_posted_at() -> None:
    site = Site()
    unsure, expired = site.granted(candidate(usd=3)), site.granted(candidate(usd=2))
    site.settle(unsure, 3, confirmed=False)
    site.wait(16 * MINUTE)
    site.desk.advance(site.now_ms)
    shown = site.desk.unconfirmed_holds()
    assert [(each.grant.hold_id, each.posted_nanos, each.expired) for each in shown.holds] == [
        (unsure.hold_id, 3 * USD, False),
        (expired.hold_id, 2 * USD, True),
    ]
    assert not shown.more
    assert site.desk.unconfirmed_holds(unsure.hold_id).holds == shown.holds[1:]


# ---------------------------------------------------------------- corrections


@pytest.mark.parametrize(("cost", "posted"), [(1, 4), (3, 6), (9, 12)])
def test_a_correction_makes_the_rows_count_also_where_they_are_less(cost: int, posted: int) -> None:
    """$5 were written down for an attempt, and $3 for others: the correction may take off what it says, and no more."""
    site = with_spending(8)
    change = CorrectSpend(
        hold_id="run-1/1", budget="acme/x", service="s", granted_at_ms=NOON, from_usd="5", to_usd=str(cost)
    )
    assert set(site.desk.correct_spend(change, site.now_ms).accounts) == set(BOTH)
    site.load(spent(3 + cost))
    assert site.posted() == posted
    site.desk.correct_spend(change, site.now_ms)
    site.load(spent(3 + cost))
    assert site.posted() == posted, "the same again changes nothing"
    assert [alert.what for alert in site.alerts()] == ["spending_corrected"] * 2


def test_a_correction_of_a_hold_that_is_here_is_refused() -> None:
    site = Site()
    unsure = site.granted(candidate(usd=3))
    site.settle(unsure, 3, confirmed=False)
    change = CorrectSpend(
        hold_id=unsure.hold_id, budget="acme", service="s", granted_at_ms=NOON, from_usd="3", to_usd="0"
    )
    with pytest.raises(ValueError, match="settle it instead"):
        site.desk.correct_spend(change, site.now_ms)


def test_a_newest_row_from_the_far_future_hides_no_later_one() -> None:
    """Somebody made it up, or a clock was wrong: what comes next is still told from it a day later."""
    site = with_spending()
    forged = StoredRows(latest_granted_ms=site.now_ms + 1_000 * DAY)
    assert site.desk.compare_rows(forged, site.now_ms).accounts
    site.load(spent(8))
    assert not site.desk.compare_rows(StoredRows(latest_granted_ms=site.now_ms), site.now_ms).accounts
    site.wait(2 * DAY)
    assert site.desk.compare_rows(StoredRows(latest_granted_ms=site.now_ms), site.now_ms).accounts
