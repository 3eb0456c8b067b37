"""A command that names a tag is carried out only where nobody changed what its sender saw."""

import pytest
from desk_kit import USD, Site, capped, config

from paymaster.admission.stale import Stale
from paymaster.admission.tags import NOTHING, account_tag, service_tag
from paymaster.messages import AcceptLower, AdminMessage, EndRun, PauseService, RaiseCap, SetCap


def check(site: Site, change: AdminMessage) -> None:
    site.desk.check_tag(change, site.now_ms)


def tag(site: Site, account: str = "budget:acme") -> str:
    return account_tag(site.desk.ledger, account)


def test_a_tag_changes_with_a_cap_and_not_with_money_spent() -> None:
    site = Site()
    before = tag(site)
    site.settle(site.granted(), 1)
    assert tag(site) == before
    site.raise_cap("1", lapses=True)
    raised = tag(site)
    assert raised != before
    site.wait(24 * 3_600_000)
    site.desk.advance(site.now_ms)
    assert tag(site) == before  # the raise has lapsed
    site.set_cap("11")
    assert tag(site) not in (before, raised)


def test_a_stale_command_is_refused_in_words() -> None:
    site = Site()
    change = SetCap(account="budget:acme", window="day", to="7", if_tag=tag(site))
    check(site, change)
    site.set_cap("8")
    with pytest.raises(Stale, match="budget:acme was changed since it was read"):
        check(site, change)
    check(site, change.model_copy(update={"if_tag": tag(site)}))
    check(site, change.model_copy(update={"if_tag": None}))
    assert site.balance().cap_nanos == 8 * USD


def test_what_is_not_there_has_a_tag_too() -> None:
    site = Site(config(budgets={"acme": capped(day=5)}))
    check(site, SetCap(account="budget:new", window="day", to="7", if_tag=NOTHING))
    check(site, EndRun(run="r", if_tag=NOTHING))
    with pytest.raises(Stale):
        check(site, RaiseCap(account="budget:acme", window="day", by="7", if_tag=NOTHING))


def test_a_service_has_the_tag_of_its_pause() -> None:
    site = Site()
    before = service_tag(site.desk.state, "s")
    pause = PauseService(service="s", who="ada", if_tag=before)
    check(site, pause)
    site.desk.pause_service(pause, site.now_ms)
    with pytest.raises(Stale):
        check(site, pause)


def test_other_commands_and_the_rules_of_0_1_0_take_no_tag() -> None:
    with pytest.raises(ValueError, match="takes no tag"):
        check(Site(), AcceptLower(account="all", if_tag=NOTHING))
    with pytest.raises(ValueError, match=r"rules of version 0\.1\.0"):
        check(Site(rules=1), SetCap(account="budget:acme", window="day", to="7", if_tag=NOTHING))


def test_a_copy_has_the_tags() -> None:
    site = Site()
    copy = site.desk.copies.take(site.now_ms)
    assert {each.account: each.tag for each in copy.accounts}["budget:acme"] == tag(site)
    assert [each.tag for each in copy.status.services] == [service_tag(site.desk.state, "s")]
