"""The command line without a Temporal: exit codes, messages that say what to do, and exact output."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from command_line import CONFIGURATION, ENVIRONMENT, NOWHERE, PAYMASTER, Run, assert_ends_with_advice
from pydantic import JsonValue
from sqlalchemy import text

import paymaster
from paymaster.admission.burn_rate import burn_nanos_per_hour, cap_reached_at_ms
from paymaster.cli.budget import print_accounts
from paymaster.cli.exits import CommandError
from paymaster.cli.forecasts import forecast_in_words
from paymaster.cli.present import print_json, print_line, print_table, printable, usd
from paymaster.cli.worker import worker
from paymaster.devstack import EmbeddedStack
from paymaster.messages import AccountStatus, DeskStatus, UsageEntry, WindowStatus
from paymaster.reports.forecast import Forecast
from paymaster.security.signing_key import SigningKey
from paymaster.settings import load_settings
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import SCHEMA_REVISION
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.cost_lines import CostLine
from paymaster.values.money import NANOS_MAX, TokenUsage

# ---------------------------------------------------------------- usage and configuration


def test_help_names_every_command_and_is_quick(run_process: Run) -> None:
    started = time.monotonic()
    helped = run_process("--help")
    print(f"paymaster --help: {time.monotonic() - started:.2f} s")
    assert helped.returncode == 0
    for command in ("worker", "call", "budget", "usage", "reconcile", "migrate", "doctor"):
        assert command in helped.stdout


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version").stdout == f"paymaster {version('paymaster')}\n"


@pytest.mark.parametrize("arguments", [["-h"], ["budget", "raise", "-h"]])
def test_h_is_help(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage: " in ended.stdout


@pytest.mark.parametrize("arguments", [["config", "docs"], ["config", "check", "--json"]])
def test_a_reader_that_goes_is_not_the_answer_no(folder: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([PAYMASTER, *arguments], cwd=folder, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_full_disk_is_said_in_words(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [PAYMASTER, "config", "docs"], cwd=folder, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (2, "paymaster: the answer cannot be written: No space left on device\n")


def test_the_commands_themselves_import_nothing_heavy() -> None:
    # The parent packages are imported first: what they need is not the commands' doing.
    program = (
        "import sys, paymaster; before = set(sys.modules); import paymaster.cli; print(*set(sys.modules) - before)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"temporalio", "sqlalchemy", "asyncpg", "alembic", "pydantic_settings", "httpx", "rich"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)


def test_commands_run_without_the_packages_of_the_embedded_stack(folder: Path) -> None:
    """An agent's project has none of the packages of the group `stack`."""
    groups = tomllib.loads(Path("pyproject.toml").read_text())["dependency-groups"]
    modules = [re.split("[<>=]", package)[0].replace("-", "_") for package in groups["stack"]]
    program = f"import sys; sys.modules.update(dict.fromkeys({modules})); from paymaster.cli import main; main()"

    assert "xllamacpp" in modules
    shown = subprocess.run(
        [sys.executable, "-c", program, "budget", "show"],
        cwd=folder,
        env={**ENVIRONMENT, "TEMPORAL_ADDRESS": NOWHERE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_ends_with_advice(shown, 2, f"no Temporal at {NOWHERE}")


@pytest.mark.parametrize("arguments", [["nonsense"], ["usage", "--nonsense"], ["worker", "--role", "boss"], ["call"]])
def test_wrong_usage_is_2(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["call", "writer", "hi"],
        ["budget", "show", "--json"],
        ["budget", "raise", "acme", "--window", "day", "--by", "5", "--reason", "r"],
        ["usage", "--json"],
        ["reconcile", "--json"],
        ["migrate"],
    ],
)
def test_without_a_configuration_every_command_says_how_to_write_one(run: Run, arguments: list[str]) -> None:
    assert_ends_with_advice(run(*arguments, "--config", "missing.toml"), 2, "missing.toml", "name one that is there")


def test_a_wrong_configuration_is_2_and_names_the_key(run_process: Run, folder: Path) -> None:
    (folder / "wrong.toml").write_text("[ledger]\nnam = 'x'\n")
    ended = run_process("usage", PAYMASTER_CONFIG="wrong.toml")
    assert_ends_with_advice(ended, 2, "wrong.toml", "ledger.nam", "did you mean name?")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (
            ["usage", "--by", "service,colour"],
            "--by colour: write some of service, model, budget, run, day, status, dialect, kind, metadata.KEY",
        ),
        (["usage", "--html", "x.html", "--by", "model"], "--html writes one page with all of it: leave --by out"),
        (["call", "writer", " "], "the prompt is empty"),
        (["usage", "--since", "yesterday"], "--since yesterday: write a duration like 7d"),
        (["call", "nowhere", "hi"], "there is no route 'nowhere'; configured: writer"),
        (["call", "writer", "hi", *("--budget", "acme") * 5], "a request names 1 to 4 budgets, and this one 5"),
        (["budget", "raise", "acme", "--window", "year", "--by", "5", "--reason", "r"], "'day'"),
        (["budget", "raise", "acme", "--window", "day", "--by", "five", "--reason", "r"], 'write it like "12.50"'),
        (["budget", "raise", "acme", "--window", "day", "--by", "0", "--reason", "r"], "more than zero"),
        (["budget", "raise", "acme", "--window", "day", "--by", "-1", "--reason", "r"], "more than zero"),
        (["budget", "raise", "\udcff", "--window", "day", "--by", "1", "--reason", "r"], "account: "),
        (["services", "pause", "local", "--reason", "r" * 1_001], "reason: String should have at most 1000"),
        (["services", "pause", "local", "--reason", "\udcff"], "reason: "),
        (["services", "resume", "\udcff"], "service: "),
    ],
)
def test_a_wrong_value_says_what_is_right(run: Run, arguments: list[str], advice: str) -> None:
    assert_ends_with_advice(run(*arguments), 2, advice)


def test_a_call_without_a_budget_takes_the_only_one_or_asks(run: Run) -> None:
    two = '{"acme": {"cap_usd": {"day": "5"}}, "umbra": {}}'
    asked = run("call", "writer", "hi", PAYMASTER__BUDGETS=two)
    assert_ends_with_advice(asked, 2, "--budget; configured: acme, umbra")


# ---------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    "arguments",
    [
        ["call", "writer", "hi"],
        ["budget", "show", "--json"],
        ["budget", "raise", "acme", "--window", "day", "--by", "5", "--reason", "r"],
        ["reconcile"],
    ],
)
def test_without_a_temporal_a_command_says_where_it_looked_and_what_to_do(run: Run, arguments: list[str]) -> None:
    started = time.monotonic()
    ended = run(*arguments)
    assert_ends_with_advice(ended, 2, f"no Temporal at {NOWHERE} (", "Set TEMPORAL_ADDRESS", "paymaster dev")
    assert len(ended.stderr.splitlines()) == 2
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.full)])
def test_a_ledger_that_was_not_started_is_2_and_the_interpreter_ends_with_that(
    run_process: Run, stack: EmbeddedStack, times: int
) -> None:
    for _ in range(times):  # temporalio's threads could abort the interpreter, now and then; `run_async` prevents that
        ended = run_process("budget", "show", TEMPORAL_ADDRESS=stack.temporal_address)
        assert_ends_with_advice(ended, 2, "no ledger 'default' answered", "`paymaster worker`")


@pytest.mark.parametrize("named", [["--config", "other.toml"], []])
def test_a_silent_ledger_is_told_with_where_it_was_asked(
    run: Run, folder: Path, stack: EmbeddedStack, named: list[str]
) -> None:
    (folder / "other.toml").write_text(CONFIGURATION)
    at = {"TEMPORAL_ADDRESS": stack.temporal_address}
    ended = run("services", "--ledger", "acme", *named, **at)
    file = "other.toml" if named else "paymaster.toml"
    assert_ends_with_advice(ended, 2, "no ledger 'acme' answered in the Temporal namespace 'default'")
    assert f"Asked was Temporal at {stack.temporal_address}, with the configuration {file}. " in ended.stderr
    assert "--config FILE or --ledger NAME name another" in ended.stderr
    told = run("doctor", "--ledger", "acme", *named, **at).stdout
    assert f"starts one. Asked was Temporal at {stack.temporal_address}, with the configuration {file}. " in told


def test_where_no_key_is_named_the_list_says_so(run: Run, folder: Path) -> None:
    (folder / "paymaster.toml").write_text(CONFIGURATION.replace('key = "local-key"', ""))
    assert "the configuration names no key" in run("keys", "list").stderr


@pytest.mark.parametrize("command", ["usage", "migrate"])
def test_without_a_database_a_command_says_so_and_shows_no_password(run: Run, command: str) -> None:
    assert_ends_with_advice(run(command), 2, "no database is configured", "PAYMASTER__DATABASE__URL")
    ended = run(command, PAYMASTER__DATABASE__URL=f"postgresql://user:geheim@{NOWHERE}/name")
    assert_ends_with_advice(ended, 2, f"user:***@{NOWHERE}/name cannot be used", "Check database.url")
    assert "geheim" not in ended.stderr


def test_doctor_finds_every_problem_and_shows_no_key(run: Run, run_process: Run) -> None:
    doctor = run_process("doctor", "--json", LOCAL_KEY="geheim")
    assert (doctor.returncode, doctor.stderr) == (1, "")
    assert "geheim" not in doctor.stdout
    document = json.loads(doctor.stdout)
    assert document["ok"] is False
    checks = {check["name"]: (check["ok"], check["detail"]) for check in document["checks"]}
    assert checks["configuration"][0]
    assert checks["key local-key"] == (True, "in LOCAL_KEY")
    assert checks["price local/good"][0]
    assert not checks["temporal"][0]
    assert "no database is configured" in checks["database"][1]
    assert 'add [services.local.models."unpriced"]' in checks["price local/unpriced"][1]

    lines = run("doctor").stdout.splitlines()
    assert len(lines) == len(document["checks"])
    assert any(line.startswith("PROBLEM  key local-key") and "PAYMASTER_KEY_LOCAL_KEY" in line for line in lines)


def test_doctor_with_a_wrong_configuration_is_a_problem_found(run: Run) -> None:
    doctor = run("doctor", "--json", "--config", "missing.toml")
    assert doctor.returncode == 1
    assert [check["name"] for check in json.loads(doctor.stdout)["checks"]] == ["configuration"]


# ---------------------------------------------------------------- with a database


async def test_migrate_makes_an_empty_database_usable(run: Run, database_url: str) -> None:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await engine.dispose()
    reached = {"PAYMASTER__DATABASE__URL": database_url}
    assert_ends_with_advice(run("usage", **reached), 2, "run `paymaster migrate`")
    migrated = run("migrate", **reached)
    assert (migrated.returncode, migrated.stdout) == (0, f"the database has schema {SCHEMA_REVISION}\n")
    assert run("usage", **reached).stdout == "no usage is stored for this\n"


async def test_usage_says_why_no_call_has_a_run(run: Run, database_url: str) -> None:
    engine = create_engine(database_url)
    await insert_entries(engine, [_entry("c-1", service="local", cost_nanos=1)])
    await engine.dispose()
    ended = run("usage", "--by", "run", PAYMASTER__DATABASE__URL=database_url)
    assert (ended.returncode, ended.stdout.splitlines()[0].split()[0]) == (0, "run")
    assert "rules of version 0.1.0 stores none (`paymaster upgrade`)" in ended.stderr


def test_doctor_says_that_a_file_has_no_services(run: Run, tmp_path: Path) -> None:
    (tmp_path / "paymaster.toml").write_text('[budgets.acme]\ncap_usd = { day = "1" }\n')
    ended = run("doctor", "--json", "--config", str(tmp_path / "paymaster.toml"))
    checks = {each["name"]: each for each in json.loads(ended.stdout)["checks"]}
    assert ended.returncode == 1
    assert not checks["configuration"]["ok"]
    assert "names no service, so no call can be made" in checks["configuration"]["detail"]


async def test_usage_is_exact_in_json_and_has_a_total_of_different_calls(run: Run, database_url: str) -> None:
    entries = [
        _entry("a-1", service="openai", status="failed", usage=None, cost_nanos=0),
        _entry("a-2", service="local", cost_nanos=123_000),
        _entry("b-1", call_id="b", service="local", state="unconfirmed", status="unknown", usage=None, cost_nanos=1),
    ]
    engine = create_engine(database_url)
    await insert_entries(engine, entries)
    await engine.dispose()

    def usage(*arguments: str) -> Any:
        ended = run("usage", "--json", *arguments, PAYMASTER__DATABASE__URL=database_url)
        assert (ended.returncode, ended.stderr) == (0, "")
        return json.loads(ended.stdout)

    report = usage("--by", "service")
    assert [(row["service"], row["calls"], row["cost_usd"]) for row in report["rows"]] == [
        ("local", 2, "0.000123001"),
        ("openai", 1, "0.000000000"),
    ]
    assert report["rows"][1]["input_tokens"] is None
    assert report["total"] == {
        "calls": 2,
        "attempts": 3,
        "input_tokens": 100,
        "cached_input_tokens": 40,
        "output_tokens": 7,
        "cost_usd": "0.000123001",
        "unconfirmed_usd": "0.000000001",
    }
    assert usage("--by", "day", "--since", "2026-03-01")["rows"][0]["day"] == "2026-03-01"
    assert usage("--since", "2026-03-02")["rows"] == []
    assert usage("--budget", "acm")["total"]["calls"] == 0


async def test_usage_by_kind_adds_up_in_each_form(run: Run, database_url: str) -> None:
    """What was stored before there were kinds has a line of its own."""
    lines = (
        CostLine(kind="input", quantity=1_234, unit_price_nanos=10**8, cost_nanos=123_400),
        CostLine(kind="web_search", quantity=2, unit_price_nanos=10**7, cost_nanos=20_000_000),
    )
    paid = _entry("a-1", service="openai", cost_nanos=20_123_400, paid_for=lines)
    engine = create_engine(database_url)
    await insert_entries(engine, [paid, _entry("b-1", service="local", cost_nanos=7)])
    await engine.dispose()

    def usage(*arguments: str) -> str:
        ended = run("usage", *arguments, PAYMASTER__DATABASE__URL=database_url)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    report = json.loads(usage("--json", "--by", "kind"))
    assert (report["by"], report["total"]) == (["kind"], {"cost_usd": "0.020123407"})
    assert report["rows"] == [
        {"kind": "input", "quantity": 1_234, "unit": "tokens", "cost_usd": "0.000123400"},
        {"kind": "web_search", "quantity": 2, "unit": "searches", "cost_usd": "0.020000000"},
        {"kind": "not recorded", "quantity": None, "unit": None, "cost_usd": "0.000000007"},
    ]
    rows = list(csv.DictReader(io.StringIO(usage("--csv", "--by", "kind,service"), newline="")))
    assert [list(row.values()) for row in rows] == [
        ["not recorded", "local", "", "", "0.000000007", "7"],
        ["input", "openai", "1234", "tokens", "0.000123400", "123400"],
        ["web_search", "openai", "2", "searches", "0.020000000", "20000000"],
    ]
    table = [line.split() for line in usage("--by", "service,kind").splitlines()]
    assert ["openai", "input", "1,234", "tokens", "$0.0001234"] in table
    assert table[-1] == ["total", "$0.020123407"]
    assert usage("--by", "kind", "--budget", "nobody") == "no usage is stored for this\n"


async def test_finance_gets_exact_csv_in_which_no_name_is_a_formula(run: Run, database_url: str) -> None:
    names = ("=1+1", " @cmd", "-2", "\t=x", 'plain, with "quotes"', "two\nlines", "<b>", "\uff1d1")
    entries = [
        _entry(f"a-{n}", call_id=f"c{n}", service="local", cost_nanos=10**n + n, metadata={"team,x": name})
        for n, name in enumerate(names)
    ]
    engine = create_engine(database_url)
    await insert_entries(engine, [*entries, _entry("z", call_id="z", service="local", cost_nanos=10**20 - 1)])
    await engine.dispose()
    reached = {"PAYMASTER__DATABASE__URL": database_url}
    ended = run("usage", "--csv", "--by", "metadata.team\\,x", "--by", "service,status", **reached)
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(ended.stdout, newline="")))
    found = {row["metadata.team,x"]: row for row in rows}
    assert set(found) == {"'=1+1", "' @cmd", "'-2", "'\t=x", *names[4:-1], "'\uff1d1", ""}
    assert {row["cost_nanos"] for row in rows} == {*(str(10**n + n) for n in range(len(names))), str(10**20 - 1)}
    assert found[""]["cost_usd"] == "99999999999.999999999"
    assert found["two\nlines"]["cost_usd"] == "0.000100005"
    assert list(rows[0])[1:3] == ["service", "status"]

    page = run("usage", "--html", "usage.html", **reached)
    assert (page.returncode, page.stdout) == (0, "wrote usage.html\n")
    assert "the page has no caps: no Temporal" in page.stderr
    assert_ends_with_advice(run("usage", "--html", "no/such/folder.html", **reached), 2, "no such folder")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--csv", "--json"], "choose one of --json, --csv, --html and --focus"),
        (["--by", "day", "--focus", "a.csv"], "leave --by out"),
        (["--focus", "november.xlsx"], "--focus november.xlsx: it is CSV or Parquet, so name it .csv or .parquet"),
        (["--focus", "no/such/folder.csv"], "--focus no/such/folder.csv: there is no such folder"),
        (["--by", "metadata."], "--by metadata.: write some of"),
        (["--since", "2026-02-02", "--until", "2026-02-01"], "is not before"),
        (["--since", "9999-12-31", "--until", "0001-01-01"], "--since 9999-12-31 is not before --until 0001-01-01"),
        (["--until", "10000-01-01"], "--until 10000-01-01: write a duration"),
        (["--since", "99999d"], "at most 366d; or write a day like 2026-01-31"),
    ],
)
def test_usage_says_what_does_not_go_together(run: Run, arguments: list[str], advice: str) -> None:
    assert_ends_with_advice(run("usage", *arguments), 2, advice)


def _entry(attempt_id: str, **fields: object) -> UsageEntry:
    usual: dict[str, object] = {
        "attempt_id": attempt_id,
        "state": "final",
        "hold_id": attempt_id,
        "call_id": "a",
        "workflow_id": "call/a",
        "run_id": "run",
        "ledger": "default",
        "epoch": "epoch",
        "budget": "acme/content",
        "model": "small",
        "granted_at_ms": 1_772_323_200_000,
        "status": "completed",
        "usage": TokenUsage(input_tokens=100, cached_input_tokens=40, output_tokens=7),
        "price_source": "test",
    }
    return UsageEntry.model_validate(usual | fields)


# ---------------------------------------------------------------- the worker


def test_worker_becomes_the_checkouts_worker_with_role_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def execv(_: str, arguments: list[str]) -> None:
        started.append(arguments)

    monkeypatch.setattr(os, "execv", execv)
    worker("activities", Path("other.toml"))
    worker("all", None)
    program = str(Path(paymaster.__file__).resolve().parent.parent / "worker.py")
    assert started == [
        [sys.executable, program, "--role", "activities", "--config", "other.toml"],
        [sys.executable, program, "--role", "all"],
    ]


def test_worker_in_an_installed_wheel_says_where_workers_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paymaster, "__file__", str(tmp_path / "site-packages" / "paymaster" / "__init__.py"))
    with pytest.raises(CommandError, match="workers run from Paymaster's checkout or image") as refused:
        worker()
    assert refused.value.exit_code == 2


# ---------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.000000000"), (123_000, "0.000123000"), (10**20 - 1, "99999999999.999999999"), (-1, "-0.000000001")],
)
def test_money_in_json_is_exact_text_with_nine_decimals(nanos: int, text: str) -> None:
    assert usd(nanos) == text


def test_what_others_named_neither_styles_the_output_nor_commands_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile = "[red]x[/red] :smile: \x1b[2J\x9b2J\x07"
    print_table(["name"], [[hostile]])
    print_line(hostile)
    out = capsys.readouterr().out
    assert out.count("[red]x[/red] :smile: \ufffd[2J\ufffd2J\ufffd") == 2
    assert printable("two\nlines\tand a tab") == "two\nlines\tand a tab"
    for mark in "\u061c\u200e\u200f\u202a\u202e\u2066\u2069":  # would show $5 of what follows as 5$
        assert printable(f"a{mark}b") == "a\ufffdb"


def test_json_is_one_document_that_no_terminal_can_spoil(capsys: pytest.CaptureFixture[str]) -> None:
    document: JsonValue = {"text": "Wörter \x1b[2J \ud800"}
    print_json(document)
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == document


def test_a_table_keeps_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["budget", "cost"], [["acme/" + "x" * 150, "$1.00"]], right=["cost"])
    assert len(capsys.readouterr().out.splitlines()) == 3


DAY_MS = 86_400_000
TODAY_MS = 1_772_323_200_000  # 2026-03-01


def today(cap: int | None, posted: int, pending: int = 0) -> WindowStatus:
    return WindowStatus(
        window="day", cap_nanos=cap, posted_nanos=posted, pending_nanos=pending, ends_at_ms=TODAY_MS + DAY_MS
    )


@pytest.mark.parametrize(
    ("window", "rate", "reached_ms"),
    [
        (today(100, 12), 2, None),  # two an hour from six in the morning on: 48 by the end
        (today(30, 12), 2, TODAY_MS + 15 * 3_600_000),
        (today(30, 12, pending=12), 2, TODAY_MS + 9 * 3_600_000),
        (today(30, 0), 0, None),
        (today(10, 12), 2, TODAY_MS + 6 * 3_600_000),
        (today(0, 0), 0, TODAY_MS + 6 * 3_600_000),
        (today(None, 12), 2, None),
        (today(NANOS_MAX, NANOS_MAX // 2), NANOS_MAX // 12, TODAY_MS + 12 * 3_600_000 - 1),
        (WindowStatus(window="total", cap_nanos=5, posted_nanos=1, pending_nanos=0, ends_at_ms=None), None, None),
    ],
)
def test_the_burn_rate_says_when_a_cap_is_reached(
    window: WindowStatus, rate: int | None, reached_ms: int | None
) -> None:
    now_ms = TODAY_MS + 6 * 3_600_000
    assert burn_nanos_per_hour(window, now_ms) == rate
    found = cap_reached_at_ms(window, now_ms)
    assert found == reached_ms or (found and reached_ms and abs(found - reached_ms) <= 1)
    assert burn_nanos_per_hour(window, TODAY_MS) is None, "just begun"


def test_accounts_are_readable_in_80_columns_without_colour_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    account = AccountStatus(account="budget:acme/content", parked=3, windows=(today(5_000_000_000, 4_900_000_001, 5),))
    status = DeskStatus(
        ledger="default", epoch="e", config_digest="d", accounts=(account,), holds=1, parked=3, outbox=0, unconfirmed=0
    )
    print_accounts(status, status.accounts)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "budget:acme/content, 3 parked"
    assert lines[1] == "  day    ██████████ $4.900000001 of $5.00, $0.000000005 held"
    assert lines[2].strip().startswith("$0.099999994 left until 03-02 00:00 UTC; $0.204/h")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("posted_nanos", "says"),
    [
        (5_000_000_000, "USED UP; free again 03-02 00:00 UTC"),
        (9_530_000_000, "USED UP, $4.53 over; free again 03-02 00:00 UTC"),
        (4_999_999_999, "$0.000000001 left until 03-02 00:00 UTC"),
    ],
)
def test_a_cap_that_is_used_up_is_said(posted_nanos: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    account = AccountStatus(account="budget:acme", parked=0, windows=(today(5_000_000_000, posted_nanos),))
    status = DeskStatus(
        ledger="default", epoch="e", config_digest="d", accounts=(account,), holds=0, parked=0, outbox=0, unconfirmed=0
    )
    print_accounts(status, status.accounts)
    assert says in capsys.readouterr().out


def test_what_lapses_with_the_window_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    day = today(5_000_000_000, 1_000_000_000).model_copy(update={"lapsing_nanos": 2_000_000_000})
    account = AccountStatus(account="budget:acme", parked=0, windows=(day,))
    status = DeskStatus(
        ledger="default", epoch="e", config_digest="d", accounts=(account,), holds=0, parked=0, outbox=0, unconfirmed=0
    )
    print_accounts(status, status.accounts)
    assert "$4.00 left until 03-02 00:00 UTC; $2.00 lapse then; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("forecast", "said"),
    [
        (Forecast(204_000_000, None, None, False), "at the last hour's $0.204/h it lasts until then"),
        (
            Forecast(204_499_999, TODAY_MS + 60_000, TODAY_MS + 3_600_000, True),
            "at the last hour's $0.204/h used up by 03-01 00:01; by four weeks' pattern used up by 03-01 01:00",
        ),
        (
            Forecast(0, None, TODAY_MS, True),
            "at the last hour's $0.00/h it lasts until then; by four weeks' pattern used up by 03-01 00:00",
        ),
        (Forecast(0, None, None, True), ""),
        (Forecast(9, TODAY_MS - 1, None, False), ""),
    ],
)
def test_a_forecast_is_one_sentence(forecast: Forecast, said: str) -> None:
    assert forecast_in_words(forecast, today(1, 0), TODAY_MS - 1) == said


@pytest.mark.parametrize(("parked", "said"), [(0, "/h, enough"), (1, "/h")])
def test_what_calls_wait_for_is_not_called_enough(parked: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    now_ms = time.time_ns() // 1_000_000
    day = WindowStatus(
        window="day",
        cap_nanos=10**10,
        posted_nanos=500_000_000,
        pending_nanos=0,
        began_at_ms=now_ms - 12 * 3_600_000,
        ends_at_ms=now_ms + 12 * 3_600_000,
    )
    account = AccountStatus(account="budget:acme", parked=parked, windows=(day,))
    status = DeskStatus(
        ledger="default",
        epoch="e",
        config_digest="d",
        accounts=(account,),
        holds=0,
        parked=parked,
        outbox=0,
        unconfirmed=0,
    )
    print_accounts(status, status.accounts)
    assert capsys.readouterr().out.splitlines()[2].endswith(said)


# ---------------------------------------------------------------- signing keys


def test_a_new_signing_key_comes_with_its_line_for_the_configuration(run: Run, folder: Path) -> None:
    """The line works as it is printed; a second key never takes the place of the first."""
    made = run("admin", "new-key", "alice.pem", "--name", "alice@acme.com")
    assert made.returncode == 0
    table = made.stdout.partition("\n\n")[2]
    (folder / "signed.toml").write_text(f"{CONFIGURATION}\n[admin]\nrequire_signature = true\n{table}")
    keys = load_settings(folder / "signed.toml", environ={}).admin.keys
    assert keys == {"alice@acme.com": SigningKey.read(folder / "alice.pem").public}
    assert_ends_with_advice(run("admin", "new-key", "alice.pem"), 2, "alice.pem exists already", "name another file")
    assert SigningKey.read(folder / "alice.pem").public in keys.values()
