"""Rules are versioned: what the desk decides may not change for a ledger that is running.

A recorded sequence of commands (`recorded_commands.json`) is played to a new desk, and a digest of all its answers and
of its final state is compared with the recorded one. Replaying a workflow's history alone does not notice a changed
decision: the commands to Temporal are the same when the desk holds 30 calls where it held 20.

When this test fails, a rule has changed: a bound, a limit, an order, a window. If that was not the purpose, it is a
defect. If it was:

1. give `RULES` in `paymaster/admission/state.py` a new number, and let a desk whose state carries the old one decide as
   before, until no running ledger has it any more;
2. write the digest of the new rules beside the old one: `.venv/bin/python tests/support/recorded_commands.py`.

Sentences for people are left out of the digest, and so are new fields that have their default.
"""

import json
from typing import Any

import pytest
from desk_kit import Site
from recorded_commands import RECORDED, play

from paymaster.admission import limiter, parked_call, routing, settling
from paymaster.admission.state import RULES


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())


@pytest.mark.parametrize("rules", range(1, RULES + 1))
def test_the_desk_decides_as_it_did_when_this_was_recorded(recorded: dict[str, Any], rules: int) -> None:
    """For each number of rules there is one digest; how to renew it is said above."""
    assert play(recorded["commands"], rules) == recorded["digests"][str(rules)]


def test_the_digest_is_the_same_when_the_desk_is_cut_at_every_command(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continue-as-new is no change of rules."""
    monkeypatch.setattr(Site, "__setattr__", _cut_when_time_is_set)
    assert play(recorded["commands"]) == recorded["digests"][str(RULES)]


def _cut_when_time_is_set(site: Site, name: str, value: object) -> None:
    object.__setattr__(site, name, value)
    if name == "now_ms" and hasattr(site, "desk"):
        site.cut()


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (routing, "INPUT_OVERHEAD_TOKENS", 1_025),
        (routing, "BYTES_PER_TOKEN", 5),
        (parked_call, "CLAIM_AFTER_MS", 50_000),
        (limiter, "_UNIT", 660_000),
        (settling, "REMEMBER_ENDED_MS", 60_000),
    ],
)
def test_a_changed_rule_changes_the_digest(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object
) -> None:
    """A copy of the desk with another bound, estimate, patience, limit or memory."""
    monkeypatch.setattr(module, name, value)
    assert play(recorded["commands"]) != recorded["digests"][str(RULES)]
