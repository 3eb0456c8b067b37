"""Ledgers of rules 1 belong to 0.1.0's desk too: each of the two goes on where the other one stopped.

The commands of `recorded_commands.json` are played to one desk and from some point on to the other, which loads what
the first one dumped. Whichever did which part, the answers and the final state are those that 0.1.0 alone gave.
"""

import json
import subprocess
import sys
from hashlib import sha256
from typing import Any, get_args

import pytest
from desk_kit import NOON, Site
from old_version import OldVersion, unpack
from paymaster_process import ROOT
from recorded_commands import NOT_COMPARED, RECORDED, STATE, configuration, do, facts

from paymaster.admission.desk import Desk
from paymaster.messages import AlertKind

CUTS = (1, 40, 90, 150, 211, 260)
PLAY = """
import json, sys
import test_rules as recorded
plays = []
for dumped, lines in json.load(sys.stdin):
    site = recorded.Site(recorded.configuration(1), recorded.NOON)
    if dumped:
        site.desk = recorded.desk.Desk.load(dumped)
    answers = []
    for at_ms, what, *arguments in lines:
        site.now_ms = at_ms
        answers.append(recorded._do(site, what, arguments))
    final = recorded.STATE.dump_python(site.desk.state, mode="json", exclude_defaults=True)
    plays.append([answers, site.desk.dump(), final])
print(json.dumps(plays))
"""


@pytest.fixture(scope="module")
def old_version(tmp_path_factory: pytest.TempPathFactory) -> OldVersion:
    return unpack(tmp_path_factory.mktemp("0.1.0"))


@pytest.fixture(scope="module")
def commands() -> list[list[Any]]:
    return json.loads(RECORDED.read_text())["commands"]


def old_plays(old: OldVersion, plays: list[tuple[str | None, list[list[Any]]]]) -> list[list[Any]]:
    """What 0.1.0's desk answers, dumps and is after each of the plays: a dump to begin with, and commands."""
    path = f"{old.folder}:{old.folder / 'tests' / 'admission'}"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", PLAY],
        input=json.dumps(plays),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path},
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def today_plays(dumped: str | None, lines: list[list[Any]]) -> tuple[list[Any], str, Any]:
    site = Site(configuration(1), NOON, rules=1)
    if dumped:
        site.desk = Desk.load(dumped)
    answers: list[Any] = []
    for at_ms, what, *arguments in lines:
        site.now_ms = at_ms
        answers.append(do(site, what, arguments))
    final = STATE.dump_python(site.desk.state, mode="json", exclude_defaults=True, exclude=NOT_COMPARED)
    return answers, site.desk.dump(), final


def digest(answers: list[Any], final: Any) -> str:
    return sha256(json.dumps(facts({"answers": answers, "final": final}), sort_keys=True).encode()).hexdigest()


def recorded_digest() -> str:
    return json.loads(RECORDED.read_text())["digests"]["1"]


def test_0_1_0_goes_on_where_this_desk_stopped(old_version: OldVersion, commands: list[list[Any]]) -> None:
    heads = [today_plays(None, commands[:cut]) for cut in CUTS]
    tails = old_plays(old_version, [(dumped, commands[cut:]) for cut, (_, dumped, _) in zip(CUTS, heads, strict=True)])
    for cut, (answers, _, _), (more, _, final) in zip(CUTS, heads, tails, strict=True):
        assert digest(answers + more, final) == recorded_digest(), f"cut at {cut}"


def test_this_desk_goes_on_where_0_1_0_stopped(old_version: OldVersion, commands: list[list[Any]]) -> None:
    heads = old_plays(old_version, [(None, commands[:cut]) for cut in CUTS])
    for cut, (answers, dumped, _) in zip(CUTS, heads, strict=True):
        more, _, final = today_plays(dumped, commands[cut:])
        assert digest(answers + more, final) == recorded_digest(), f"cut at {cut}"


def test_0_1_0_reads_every_kind_of_alert(old_version: OldVersion) -> None:
    site = Site(rules=1)
    for kind in get_args(AlertKind):
        site.desk.outbox.alert(NOON, kind, f"about {kind}")
    (played,) = old_plays(old_version, [(site.desk.dump(), [])])
    assert {f"about {kind}" for kind in get_args(AlertKind)} <= {
        each["text"] for each in played[2]["outbox"]["notices"]
    }


def test_0_1_0_fails_on_newer_rules(old_version: OldVersion) -> None:
    with pytest.raises(AssertionError, match="Error"):
        old_plays(old_version, [(Site(rules=2).desk.dump(), [])])
