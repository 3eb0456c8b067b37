"""What somebody types who takes old rows out, and what each report says of them afterwards."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import Run, assert_ends_with_advice
from records import usual_entry
from sqlalchemy import text

from paymaster.messages import UsageEntry
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries

WHAT_IF = ("budget", "what-if", "paymaster.toml")
SUMMED = ("service,model", "budget", "day", "service,model,budget,day")


def month(ago: int) -> datetime:
    now = datetime.now(UTC)
    number = now.year * 12 + now.month - 1 - ago
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def entry(number: int, at: datetime, **fields: object) -> UsageEntry:
    granted = {"granted_at_ms": round(at.timestamp() * 1000), "run": "nightly@1", "service": "local"}
    return UsageEntry.model_validate(usual_entry(number) | granted | fields)


@pytest.fixture
async def reached(database_url: str) -> dict[str, str]:
    """The environment that reaches a database with two old attempts, one of them unconfirmed, and a new one."""
    engine = create_engine(database_url)
    at = month(10) + timedelta(minutes=90)
    old = [entry(1, at), entry(2, at, state="unconfirmed", cost_nanos=7)]
    await insert_entries(engine, [*old, entry(3, datetime.now(UTC))])
    await engine.dispose()
    return {"PAYMASTER__DATABASE__URL": database_url}


async def test_a_look_takes_nothing_and_nobody_is_taken_for_yes(run: Run, reached: dict[str, str]) -> None:
    none = run("usage", "prune", "--older-than", "13mo", **reached)
    assert (none.returncode, none.stdout) == (0, f"no rows were granted before {month(13):%Y-%m-%d} (UTC)\n")
    looked = run("usage", "prune", "--older-than", "9mo", "--dry-run", "--json", **reached)
    assert json.loads(looked.stdout) == {
        "before": f"{month(9):%Y-%m-%d}T00:00:00+00:00",
        "would_go": [
            {
                "partition": "usage_entries_default",
                "entries": 1,
                "cost_usd": "0.000001000",
                "unconfirmed_stay": 1,
            }
        ],
    }
    asked = run("usage", "prune", "--older-than", "9mo", **reached)
    assert "usage_entries_default" in asked.stdout
    assert asked.returncode == 2
    assert asked.stderr.splitlines()[-1].endswith("give --yes")
    assert "total" in run("usage", "--by", "run", **reached).stdout
    [row] = json.loads(run("usage", "--by", "run", "--json", **reached).stdout)["rows"]
    assert row["attempts"] == 3


async def test_reports_say_what_they_lack(run: Run, folder: Path, reached: dict[str, str]) -> None:
    """Those of sums lack nothing, the others say so, for people and for programs."""
    before = {by: run("usage", "--by", by, "--json", **reached).stdout for by in SUMMED}
    said = f"rows granted before {month(9):%Y-%m-%d %H:%M} (UTC) are pruned"
    focus, page = ("usage", "--focus", "rows.csv"), ("usage", "--html", "page.html")
    of_rows = (("usage", "--by", "run"), ("usage", "--by", "kind", "--csv"), ("usage", "--run", "nightly@1"), WHAT_IF)
    assert not any(said in run(*command, **reached).stderr for command in (*of_rows, focus))
    pruned = run("usage", "prune", "--older-than", "9mo", "--yes", **reached)
    assert (pruned.returncode, pruned.stdout) == (0, "usage_entries_default: 1 row has gone, its sums stay\n")
    assert {by: run("usage", "--by", by, "--json", **reached).stdout for by in SUMMED} == before
    assert run("usage", **reached).stderr == ""
    for command in (*of_rows, focus):
        assert said in run(*command, **reached).stderr, command
    assert len((folder / "rows.csv").read_text().splitlines()) == 3
    run(*page, **reached)
    assert said in (folder / "page.html").read_text()
    lacks = f"{month(9):%Y-%m-%d}T00:00:00+00:00"
    for command in (("usage", "--by", "run"), ("usage", "--by", "kind"), WHAT_IF):
        assert json.loads(run(*command, "--json", **reached).stdout)["lacks_pruned_before"] == lacks
    later = run("usage", "--by", "run", "--since", "1d", **reached)
    assert (later.returncode, later.stderr) == (0, "")


async def test_a_bill_of_pruned_days_is_refused(run: Run, folder: Path, reached: dict[str, str]) -> None:
    run("usage", "prune", "--older-than", "9mo", "--yes", **reached)
    (folder / "bill.csv").write_text(f"usage_date_utc,model,cost_usd\n{month(10):%Y-%m-%d},m,1\n")
    refused = run("bill", "check", "bill.csv", "--service", "local", **reached)
    assert_ends_with_advice(refused, 2, f"rows granted before {month(9):%Y-%m-%d} (UTC) are pruned")


async def test_a_prune_for_programs_says_what_has_gone(run: Run, reached: dict[str, str]) -> None:
    gone = json.loads(run("usage", "prune", "--older-than", "9mo", "--yes", "--json", **reached).stdout)
    assert gone["pruned"] == [{"partition": "usage_entries_default", "entries": 1}]
    again = json.loads(run("usage", "prune", "--older-than", "9mo", "--yes", "--json", **reached).stdout)
    assert again["pruned"] == []


async def test_whoever_is_not_the_owner_is_told(run: Run, database_url: str, reached: dict[str, str]) -> None:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE ROLE pruner LOGIN PASSWORD 'prune'"))
        await connection.execute(text("GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA public TO pruner"))
    try:
        address = engine.url.set(username="pruner", password="prune").render_as_string(hide_password=False)
        refused = run("usage", "prune", "--older-than", "9mo", "--yes", PAYMASTER__DATABASE__URL=address)
        assert_ends_with_advice(refused, 2, "the role that migrates")
        async with engine.begin() as connection:
            await connection.execute(text("REVOKE SELECT ON usage_entries_default FROM pruner"))  # as a worker's role
        refused = run("usage", "prune", "--older-than", "9mo", "--dry-run", PAYMASTER__DATABASE__URL=address)
        assert_ends_with_advice(refused, 2, "permission denied for table usage_entries_default: run it as the role")
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("DROP OWNED BY pruner"))
            await connection.execute(text("DROP ROLE pruner"))
        await engine.dispose()
    assert run("usage", "--by", "run", **reached).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("--older-than", "1mo"), "2 months"),
        (("--older-than", "400d"), "13mo or 2y"),
        (("--older-than", "0y"), "2 months"),
        (("--older-than", "13mo", "--json"), "--dry-run"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, arguments: tuple[str, ...], advice: str) -> None:
    assert_ends_with_advice(run("usage", "prune", *arguments), 2, advice)


def test_a_prune_is_of_no_single_ledger(run: Run) -> None:
    assert "--ledger" in run("usage", "prune", "--older-than", "13mo", "--ledger", "other").stderr
