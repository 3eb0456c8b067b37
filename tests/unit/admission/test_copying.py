"""The copy of the status: only what changed goes into it, and it tells later what the ledger itself would tell then."""

import pytest
from copied_status import CopiedStatus, every_copy
from desk_kit import DAY, HOUR, MINUTE, NOON, USD, Site, candidate, capped, config, service

from paymaster.admission.copying import ACCOUNTS_AT_ONCE
from paymaster.admission.pressure import relieve
from paymaster.messages import AccountConfig, AccountStatus, CapState, RaiseCap, StatusCopy
from paymaster.values.limits import ACCOUNTS_MAX, COPY_PLAIN_BYTES_MAX


def copied(site: Site) -> CopiedStatus:
    """A database that has taken everything in."""
    copies = CopiedStatus()
    for copy in every_copy(site.desk, site.now_ms):
        copies.take_in(copy, site.now_ms)
    return copies


def asked(site: Site) -> dict[str, AccountStatus]:
    """What the ledger says at this moment."""
    return {each.account: each for each in site.desk.status(now_ms=site.now_ms).accounts}


def names(copy: StatusCopy) -> list[str]:
    return [each.account for each in copy.accounts]


def test_a_copy_has_the_accounts_that_changed() -> None:
    site = Site(config(budgets={"acme": capped(day=10), "acme/a": capped(day=5), "other": capped(day=5)}))
    copied(site)
    assert not site.desk.copies.is_due
    grant = site.granted(budget="acme/a")
    copy = site.desk.copies.take(site.now_ms)
    assert sorted(names(copy)) == ["budget:acme", "budget:acme/a", "service:s"]
    assert (copy.anew, copy.gone, copy.status.holds, copy.status.accounts) == (False, (), 1, ())
    site.settle(grant, 1)
    site.desk.configure(config("second", budgets={"acme": capped(day=10)}), site.now_ms, may_remove=True)
    assert site.desk.copies.take(site.now_ms).gone == ("budget:acme/a", "budget:other")


@pytest.mark.parametrize("later", [MINUTE, HOUR, 11 * HOUR, 13 * HOUR, 2 * DAY, 40 * DAY])
def test_windows_end_in_a_copy_as_in_the_ledger(later: int) -> None:
    caps: AccountConfig = capped(minute=9, hour=9, day=9, week=9, month=9, total=9)
    caps = caps.model_copy(update={"caps_nanos": {**caps.caps_nanos, "24h": 9 * USD, "30d": 9 * USD}})
    site = Site(config(budgets={"acme": caps}, services={"s": service(requests=60, concurrent=5)}))
    site.raise_cap("2", lapses=True)
    site.settle(site.granted(), 1)
    site.wait(2 * HOUR)
    site.settle(site.granted(candidate(usd=3)), 2)
    copies = copied(site)
    assert copies.read(site.now_ms) == asked(site)
    site.now_ms += later  # nothing happens at the desk
    assert copies.read(site.now_ms) == asked(site)


def test_a_copy_that_did_not_arrive_comes_first_in_the_next_one() -> None:
    site = Site(config(budgets={name: capped(day=5) for name in ("a", "b")}))
    copied(site)
    site.granted(budget="b")
    lost = site.desk.copies.take(site.now_ms)
    site.granted(budget="a")
    site.desk.copies.again(lost)
    site.cut()
    again = site.desk.copies.take(site.now_ms)
    assert names(again)[: len(lost.accounts)] == names(lost)
    assert sorted(names(again)) == ["budget:a", "budget:b", "service:s"]
    assert again.version == lost.version + 1


def test_the_first_copy_of_new_books_says_so_until_it_arrived() -> None:
    site = Site()
    first = site.desk.copies.take(site.now_ms)
    assert (first.anew, first.version) == (True, 1)
    site.desk.copies.again(first)
    assert site.desk.copies.take(site.now_ms).anew
    site.granted()
    assert not site.desk.copies.take(site.now_ms).anew


def test_of_more_changes_than_there_is_room_all_is_copied_anew() -> None:
    site = Site(config(budgets={name: capped(day=5) for name in ("a", "b")}))
    copied(site)
    before, dumped = site.desk.state.version, len(site.desk.dump())
    for number in range(3 * ACCOUNTS_MAX):  # of names that are forgotten while no copy is taken
        site.desk.ledger.mark([f"budget:users/{number}"])
    assert len(site.desk.dump()) < dumped + 100
    site.cut()
    copy = site.desk.copies.take(site.now_ms)
    assert (copy.anew, copy.version, copy.gone) == (True, before + 1, ())
    assert sorted(names(copy)) == ["budget:a", "budget:b", "service:s"]
    assert not site.desk.copies.is_due


def test_in_a_state_that_is_too_large_changes_go_first() -> None:
    site = Site(config(budgets={name: capped(day=5) for name in ("a", "b")}))
    copied(site)
    site.granted(budget="a")
    ended = dict(site.desk.state.ended)
    assert relieve(site.desk.state, 1) == 0
    assert site.desk.state.ended == ended
    assert names(copy := site.desk.copies.take(site.now_ms)) == list(site.desk.ledger.accounts)
    assert copy.anew


def test_an_answer_says_which_copy_will_have_it() -> None:
    budgets = {f"b/{number}": capped(day=5) for number in range(2 * ACCOUNTS_AT_ONCE)}
    site = Site(config(budgets=budgets))
    copied(site)
    site.desk.reload(site.now_ms)  # which changes them all
    site.set_cap("7", "budget:new")
    raised = RaiseCap(account="budget:new", window="day", by="1")
    answer = site.desk.copies.told(site.desk.raise_cap(raised, site.now_ms))
    copies = every_copy(site.desk, site.now_ms)
    assert [copy.version for copy in copies if "budget:new" in names(copy)] == [answer.version]
    assert all(len(copy.accounts) <= ACCOUNTS_AT_ONCE for copy in copies)


def test_under_the_rules_of_0_1_0_nothing_is_told_and_carried() -> None:
    site = Site(rules=1)
    answer = CapState(account="budget:acme", window="day", cap_nanos=USD)
    assert site.desk.copies.told(answer) == answer
    site.cut()
    assert (site.desk.state.books.changed, site.desk.state.version) == ({}, 0)


def test_many_accounts_are_compressed_in_a_copy() -> None:
    site = Site(config(budgets={f"acme/team-{number}": capped(day=5) for number in range(ACCOUNTS_AT_ONCE)}))
    copy = site.desk.copies.take(site.now_ms)
    text = copy.model_dump_json()
    assert StatusCopy.model_validate_json(text) == copy
    plain = sum(len(each.model_dump_json()) for each in copy.accounts)
    assert plain > COPY_PLAIN_BYTES_MAX
    assert len(text) < plain / 5


def test_an_idle_ledger_has_nothing_to_copy() -> None:
    site = Site(now_ms=NOON)
    copied(site)
    site.wait(11 * HOUR)
    assert not site.desk.copies.is_due
