"""`paymaster budget what-if` on stored rows: what it says for people and programs, and what it needs."""

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import CONFIGURATION, Ended, Run, assert_ends_with_advice
from desk_kit import HOUR, USD, at
from sqlalchemy import text

from paymaster.messages import UsageEntry
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import TokenUsage

NOON = at(2027, 3, 10, 12)
WhatIf = Callable[..., Ended]


def stored(call: str, usd: float, at_ms: int, *budgets: str) -> UsageEntry:
    return UsageEntry(
        attempt_id=f"{call}/1/1",
        state="final",
        hold_id=f"{call}/1",
        call_id=call,
        workflow_id=f"call/{call}",
        run_id=call,
        ledger="default",
        epoch="epoch",
        budget=budgets[0],
        further_budgets=budgets[1:],
        service="local",
        model="good",
        granted_at_ms=at_ms,
        started_at_ms=at_ms,
        duration_ms=1_000,
        status="completed",
        usage=TokenUsage(input_tokens=100, output_tokens=7),
        cost_nanos=round(usd * USD),
        price_source="test",
    )


CALLS = (
    stored("first", 2, NOON, "acme/content"),
    stored("second", 2, NOON + HOUR, "acme/content"),
    stored("third", 0.5, NOON + 2 * HOUR, "acme/ads", "customers/42"),
    stored("fourth", 1, at(2027, 3, 12), "acme/content"),
)


@pytest.fixture
async def url(database_url: str) -> AsyncIterator[str]:
    """A database with some calls, to which this role may only look."""
    engine = create_engine(database_url)
    await insert_entries(engine, CALLS)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE ROLE reader LOGIN PASSWORD 'read'"))
        await connection.execute(text("GRANT SELECT ON api_usage_counted, usage_pruned, paymaster_schema TO reader"))
    address = engine.url.set(username="reader", password="read")
    yield address.render_as_string(hide_password=False)
    async with engine.begin() as connection:
        await connection.execute(text("DROP OWNED BY reader"))
        await connection.execute(text("DROP ROLE reader"))
    await engine.dispose()


@pytest.fixture
def what_if(run: Run, url: str) -> WhatIf:
    """Asks about the file `other.toml`."""
    return lambda *arguments: run("budget", "what-if", "other.toml", *arguments, PAYMASTER__DATABASE__URL=url)


def write(folder: Path, budgets: str) -> None:
    (folder / "other.toml").write_text(CONFIGURATION[: CONFIGURATION.index('[budgets."acme"]')] + budgets)


LOWER = """
[budgets."acme"]
cap_usd = { day = "3", total = "100" }
[budgets."customers"]
cap_usd = { day = "0.25" }
[budgets."customers/42"]
cap_usd = { month = "0.1" }
enforce = false
"""


def columns(line: str) -> str:
    return " | ".join(re.split(r"  +", line.strip()))


def test_people_see_which_caps_would_have_held_up_what(folder: Path, what_if: WhatIf) -> None:
    write(folder, LOWER)
    ended = what_if()
    assert (ended.returncode, ended.stderr) == (1, "")
    caps, budgets, last = ended.stdout.split("\n\n")
    assert list(map(columns, caps.splitlines()[2:])) == [
        "budget:acme | day $3.00 | 2 | $2.50 | 1 | 2027-03-10 13:00 second | 11h",
        "budget:customers | day $0.25 | 1 | $0.50 | 1 | 2027-03-10 14:00 third | 10h",
        "budget:customers/42 | month $0.10, watched only | 1 | $0.50 | 1 | 2027-03-10 14:00 third | 21d 10h",
    ]
    assert list(map(columns, budgets.splitlines()[2:])) == [
        "acme/ads | 1 | 0 | 1 | $0.50 | $0.50",
        "acme/content | 3 | 1 | 0 | $5.00 | $2.00",
    ]
    assert last.startswith(
        "of 4 calls 1 would have waited, or been denied where they do not want to, and 1 would have been denied anyway"
    )
    assert "approximately: each call counts as what it cost" in last


def test_programs_get_one_exact_document(folder: Path, what_if: WhatIf) -> None:
    write(folder, LOWER)
    ended = what_if("--json")
    assert (ended.returncode, ended.stderr) == (1, "")
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["total"] == {
        "calls": 4,
        "would_have_waited": 1,
        "denied": 1,
        "cost_usd": "5.500000000",
        "would_have_waited_usd": "2.000000000",
        "denied_usd": "0.500000000",
    }
    assert [each["budget"] for each in found["budgets"]] == ["acme/ads", "acme/content"]
    second = {"call_id": "second", "granted_at": "2027-03-10T13:00:00+00:00", "cost_usd": "2.000000000"}
    assert found["held_up"][0] == {
        "account": "budget:acme",
        "window": "day",
        "cap_usd": "3.000000000",
        "limit": None,
        "most": None,
        "enforced": True,
        "calls": 2,
        "never_fit": 0,
        "cost_usd": "2.500000000",
        "longest_wait_ms": 11 * HOUR,
        "first": second,
        "windows": 1,
        "first_windows": [
            {
                "began_at": "2027-03-10T00:00:00+00:00",
                "ends_at": "2027-03-11T00:00:00+00:00",
                "calls": 2,
                "cost_usd": "2.500000000",
                "first": second,
            }
        ],
    }
    assert [each["enforced"] for each in found["held_up"]] == [True, True, False]
    assert len(found["approximate"]) > 2


def test_where_nothing_would_have_waited_the_exit_code_is_0(folder: Path, what_if: WhatIf) -> None:
    write(folder, '[budgets."acme"]\ncap_usd = { day = "5" }\n[budgets."customers"]')
    ended = what_if()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("of 4 calls 0 would have waited")


def test_a_part_knows_what_was_spent_before_it(folder: Path, what_if: WhatIf) -> None:
    write(folder, '[budgets."acme"]\ncap_usd = { month = "5" }\n[budgets."customers"]')
    [month] = json.loads(what_if("--json", "--since", "2027-03-11").stdout)["held_up"]
    assert (month["calls"], month["first"]["call_id"]) == (1, "fourth")
    before = what_if("--json", "--until", "2027-03-11")
    assert (before.returncode, json.loads(before.stdout)["total"]["calls"]) == (0, 3)
    assert json.loads(what_if("--json", "--budget", "customers").stdout)["total"]["calls"] == 1
    assert what_if("--since", "2027-04-01").stdout == "no usage is stored for this\n"


def test_what_the_file_does_not_have_is_said_in_the_desks_words(folder: Path, what_if: WhatIf) -> None:
    write(folder, '[budgets."customers"]\ncap_usd = { day = "5" }')
    said = what_if().stdout
    assert "4 unknown_budget: budget 'acme/content': neither it nor an ancestor is configured" in said
    assert 'add [budgets."acme/content"] and restart the worker' in said
    assert "there are: customers (the first: 2027-03-10 12:00 first)" in said


def test_a_wrong_file_is_2_and_says_what_to_do(folder: Path, run: Run) -> None:
    assert_ends_with_advice(run("budget", "what-if", "other.toml"), 2, "there is no file other.toml")
    write(folder, '[budgets."acme"]\ncap_usd = { dya = "5" }\nunknown = 1')
    assert_ends_with_advice(run("budget", "what-if", "other.toml"), 2, "other.toml", "budgets.acme.unknown")
    write(folder, LOWER)
    assert_ends_with_advice(run("budget", "what-if", "other.toml"), 2, "no database is configured")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("usage",), "--budget"),
        (("usage",), "--run"),
        (("budget", "what-if", "other.toml"), "--budget"),
    ],
)
def test_what_tells_of_one_is_not_asked_for_two_in_silence(command: tuple[str, ...], option: str, run: Run) -> None:
    assert_ends_with_advice(
        run(*command, option, "a", option, "b"), 2, f"{option} is given 2 times", "ask once for each"
    )
