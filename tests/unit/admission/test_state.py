"""What a state says of the rules that it goes by, and what happens where they are not known."""

import binascii
import zlib
from base64 import b64decode
from weakref import ref

import pytest
from desk_kit import NOON, Site, capped, config

from paymaster.admission import state
from paymaster.admission.desk import Desk
from paymaster.admission.state import RULES, NewerState
from paymaster.messages import Upgrade
from paymaster.values.collection import no_collection


def test_a_new_desk_goes_by_the_newest_rules() -> None:
    assert Site().desk.state.rules == RULES


@pytest.mark.parametrize("rules", range(1, RULES + 1))
def test_a_desk_keeps_its_rules_through_continue_as_new(rules: int) -> None:
    site = Site(rules=rules)
    site.cut()
    assert site.desk.state.rules == rules


def test_rules_one_are_dumped_as_0_1_0_reads_it() -> None:
    text = Site(rules=1).desk.dump()
    assert zlib.decompress(b64decode(text)).startswith(b'{"ledger":"test"')


def test_newer_rules_are_dumped_so_that_0_1_0_fails() -> None:
    """0.1.0 ignores fields that it does not know: it must not go on with a part of the state."""
    text = Site(rules=2).desk.dump()
    with pytest.raises((binascii.Error, zlib.error)):
        zlib.decompress(b64decode(text))


def test_a_state_of_newer_rules_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RULES", RULES + 1)
    site = Site()
    site.desk.state.rules = RULES + 1
    text = site.desk.dump()
    monkeypatch.setattr(state, "RULES", RULES)
    with pytest.raises(NewerState, match=rf"rules {RULES + 1}, .* rules up to {RULES} .* update this worker"):
        Desk.load(text)
    with pytest.raises(NewerState):
        Desk.load(text.splitlines()[0] + "\nnot even data")


def test_an_upgrade_begins_with_the_next_run() -> None:
    site = Site(rules=1)
    answer = site.desk.upgrade(Upgrade(rules=RULES), NOON)
    assert (answer.before, answer.rules) == (1, RULES)
    assert site.desk.state.rules == 1
    with pytest.raises(ValueError, match="update it first"):
        site.desk.upgrade(Upgrade(rules=RULES + 1), NOON)


def test_an_upgrade_never_goes_back() -> None:
    answer = Site().desk.upgrade(Upgrade(rules=1), NOON)
    assert (answer.before, answer.rules) == (RULES, RULES)


def test_a_desk_that_nobody_needs_is_gone_at_once() -> None:
    """To find thousands of holds as garbage takes a tenth of a second."""
    site = Site(config(budgets={"acme": capped(day=2)}))
    site.granted(run="a/b")
    site.granted()
    site.parked()
    ledger = ref(site.desk.ledger)
    with no_collection():
        site.cut()
        assert ledger() is None
