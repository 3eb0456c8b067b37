"""What a file that says less may do: nothing at a worker's start, everything by `config apply --yes`."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Site, configuration, running_site, until, write_configuration

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.errors import LedgerNotFound

pytestmark = pytest.mark.timeout(120)
FULL = {"acme": {"cap_usd": {"day": "5", "total": "9"}}, "other": {"cap_usd": {"day": "3"}}}
LESS = {"acme": {"cap_usd": {"day": "4"}}, "more": {"cap_usd": {"day": "1"}}}


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service("config-apply")


def tables(service: FakeService, budgets: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    return configuration([service], budgets=budgets)


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(stack.temporal_address, database_url, tmp_path, tables(service, FULL)) as site:
        yield site


async def caps(site: Site) -> dict[str, str]:
    """What `paymaster budget show` says is in force: "budget:acme day" → "5.000000000"."""
    shown = await site.document("budget", "show")
    return {
        f"{account['account'].removeprefix('budget:')} {window['window']}": window["cap_usd"]
        for account in shown["accounts"]
        for window in account["windows"]
        if window["cap_usd"] is not None
    }


def usd(whole: int) -> str:
    return f"{whole}.000000000"


def ask(service: FakeService, budget: str) -> LLMRequest:
    return LLMRequest(route=service.name, budget=budget, prompt="Say hello", on_exhausted="fail")


async def test_only_config_apply_removes_and_only_when_somebody_agreed(site: Site, service: FakeService) -> None:
    """A file that lacks a cap and a budget: shown, not applied unasked, kept by a worker's start, then applied."""
    less = site.folder / "less.toml"
    write_configuration(less, tables(service, LESS))
    before = {"acme day": usd(5), "acme total": usd(9), "other day": usd(3)}
    assert await caps(site) == before

    same = await site.command("config", "diff")
    assert (same.code, same.output) == (0, "no difference: the ledger has this configuration\n")
    shown = await site.command("config", "diff", file=less)
    lines = [
        "acme total $9.00 → no cap",
        "other (day $3.00) → removed",
        "acme day $5.00 → $4.00",
        "more: new, day $1.00",
    ]
    assert (shown.code, shown.output.splitlines()) == (1, lines)
    refused = await site.command("config", "apply", file=less)
    assert (refused.code, refused.output.splitlines(), "give --yes" in refused.errors) == (2, lines, True)
    assert await caps(site) == before

    (worker,) = await site.start_workers(file=less)
    kept = "acme total $9.00 → no cap; other (day $3.00) → removed"
    assert f"keeps what this file lacks: {kept}; `paymaster config diff` shows it" in worker.log()
    after_start = before | {"acme day": usd(4), "more day": usd(1)}
    assert await caps(site) == after_start
    assert (await generate(site.client, ask(service, "other/writer"))).outcome is Outcome.COMPLETED

    # Another worker with the first file, and one more with the second: nothing changes any more.
    await site.start_workers()
    assert "a newer one superseded it" in site.workers[-1].log()
    await site.start_workers(file=less)
    assert await caps(site) == after_start

    applied = await site.command("config", "apply", "--yes", file=less)
    assert (applied.code, applied.output.splitlines()) == (0, [*lines[:2], "applied"])
    assert await caps(site) == {"acme day": usd(4), "more day": usd(1)}
    again = await site.command("config", "apply", file=less)
    assert (again.code, again.output) == (0, "nothing to do: the ledger has this configuration\n")
    count = service.count
    denied = await try_generate(site.client, ask(service, "other/writer"))
    assert (denied.outcome, denied.reason, service.count) == (Outcome.DENIED, "unknown_budget", count)

    async def told() -> bool:
        return len(await site.alerts("config_changed")) == 2

    await until(told, "each change is an alert")
    assert len(await site.alerts("config_kept")) == 1
    by_worker, by_admin = [row["text"] for row in await site.alerts("config_changed")]
    assert by_worker.startswith("the configuration was changed by worker on ")
    assert "config apply: acme total $9.00 → no cap; other (day $3.00) → removed" in by_admin
    log = (await site.document("budget", "log"))["changes"]
    assert [change["what"] for change in log] == [
        "the configuration that is stored first",
        "acme day $5.00 → $4.00; more: new, day $1.00",
        kept,
    ]
    assert [change["who"].endswith("config apply") for change in log] == [False, False, True]


async def test_a_ledger_that_lost_its_state_has_the_same_caps(site: Site, service: FakeService) -> None:
    """A raise that the file ended does not come back, one that it left does; a smaller file removes nothing."""
    twenty, less = site.folder / "twenty.toml", site.folder / "less.toml"
    write_configuration(twenty, tables(service, {**FULL, "acme": {"cap_usd": {"day": "20", "total": "9"}}}))
    write_configuration(less, tables(service, LESS))
    fair = ("--by", "5", "--reason", "fair", "--who", "ada")
    await site.document("budget", "raise", "acme", "--window", "day", *fair)
    await site.document("budget", "raise", "acme", "--window", "total", *fair)
    assert (await site.document("config", "apply", file=twenty))["applied"]
    assert (await site.document("config", "apply", "--force"))["applied"]
    expected = {"acme day": usd(5), "acme total": usd(14), "other day": usd(3)}
    assert await caps(site) == expected

    async def stored() -> bool:
        return (await site.ledger.status()).outbox == 0

    await until(stored, "what the ledger tells is stored")
    await site.workers[-1].terminate()
    await site.client.get_workflow_handle("budget/default").terminate()
    await site.start_workers(file=less)

    async def restored() -> bool:
        try:
            return await caps(site) == expected | {"acme day": usd(4), "more day": usd(1)}
        except LedgerNotFound:
            return False

    await until(restored, "the caps are those of the ledger that was lost, and of the worker's file")
    log = [change["what"] for change in (await site.document("budget", "log", "acme"))["changes"]]
    assert log == [
        "acme day $5.00 → $10.00",
        "acme total $9.00 → $14.00",
        "acme day $5.00 → $20.00",
        "acme day $20.00 → $5.00",
        "acme day $5.00 → $4.00",
    ]


async def test_books_of_another_name_begin_empty_and_are_told(site: Site, service: FakeService) -> None:
    """In words: the worker that starts them, an alert, and `doctor`."""
    await generate(site.client, ask(service, "acme"))

    async def stored() -> bool:
        return bool((await site.document("usage"))["rows"])

    await until(stored, "an entry of this ledger is stored")
    other = site.folder / "other.toml"
    write_configuration(other, {**tables(service, FULL), "ledger": {"name": "renamed"}})
    words = "nothing is stored of ledger 'renamed', and something of: default"
    doctor = await site.command("doctor", file=other)
    assert words in doctor.output
    await site.workers[-1].terminate()
    await site.launch_worker(file=other).ready()

    async def told() -> bool:
        return [words in row["text"] for row in await site.alerts("empty_books")] == [True]

    await until(told, "an alert says so")
    assert words in site.logs()
