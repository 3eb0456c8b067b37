"""Who decides what a cap is: the file, an admin, a worker with another file; through the real command."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Site, configuration, running_site, until, write_configuration

from paymaster import LLMRequest
from paymaster.client import generate
from paymaster.devstack import EmbeddedStack
from paymaster.values.money import nanos_to_usd

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service("two-files")


def tables(service: FakeService, acme: str, other: str = "3") -> Mapping[str, object]:
    budgets = {"acme": {"cap_usd": {"total": acme, "day": "5"}}, "other": {"cap_usd": {"total": other}}}
    limits = {"requests_per_minute": 600, "tokens_per_minute": 90_000, "max_concurrent": 7}
    return configuration([service], budgets=budgets, service=limits)


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(stack.temporal_address, database_url, tmp_path, tables(service, "1")) as site:
        yield site


async def cap(site: Site, account: str, window: str = "total") -> tuple[str, str]:
    """The cap and who it comes from, as `paymaster budget show` prints them."""
    shown = await site.document("budget", "show", account)
    (found,) = [each for each in shown["accounts"][0]["windows"] if each["window"] == window]
    return found["cap_usd"], found["cap_from"]


def usd(nanos: int) -> str:
    return f"{nanos_to_usd(nanos):f}"


async def restart(site: Site, file: Path | None = None) -> None:
    await site.workers[-1].terminate()
    await site.start_workers(file=file)


async def test_an_admins_raise_stays_until_the_files_own_value_changes_and_an_old_file_does_not_come_back(
    site: Site, service: FakeService
) -> None:
    """Workers bring the first file again, one that differs elsewhere, one with another value for this cap, and then the
    first one."""
    one, more, three = usd(1_000_000_000), usd(1_250_000_000), usd(3_000_000_000)
    assert await cap(site, "acme") == (one, "file")
    raised = await site.document(
        "budget", "raise", "acme", "--window", "total", "--by", "0.25", "--reason", "fair", "--who", "ada"
    )
    assert raised == {"account": "budget:acme", "window": "total", "cap_usd": more}
    assert await cap(site, "acme") == (more, "admin")

    await restart(site)
    assert await cap(site, "acme") == (more, "admin")

    elsewhere = site.folder / "elsewhere.toml"
    write_configuration(elsewhere, tables(service, "1", other="4"))
    await restart(site, elsewhere)
    assert await cap(site, "acme") == (more, "admin")
    assert await cap(site, "other") == (usd(4_000_000_000), "file")

    # Another worker with the first file, beside this one: what was superseded does not come back by itself.
    await site.start_workers()
    assert "a newer one superseded it" in site.workers[-1].log()
    assert await cap(site, "other") == (usd(4_000_000_000), "file")
    refused = await site.command("config", "apply")
    assert (refused.code, "superseded" in refused.output) == (1, True), refused
    assert await cap(site, "other") == (usd(4_000_000_000), "file")
    applied = await site.document("config", "apply", "--force")
    assert applied["applied"]
    assert await cap(site, "other") == (three, "file")
    assert await cap(site, "acme") == (more, "admin")

    changed = site.folder / "changed.toml"
    write_configuration(changed, tables(service, "0.75"))
    await site.start_workers(file=changed)
    assert await cap(site, "acme") == (usd(750_000_000), "file")


async def test_the_commands_show_and_change_the_running_ledger(site: Site, service: FakeService) -> None:
    """`budget set` and `show`, `services` with `pause` and `resume`; a refusal has exit code 1 and a reason."""
    result = await generate(site.client, LLMRequest(route=service.name, budget="acme/writer", prompt="Say hello"))
    fair = ("--reason", "fair", "--who", "ada")
    assert await site.document("budget", "set", "acme", "--window", "total", "--to", "2.5", *fair) == {
        "account": "budget:acme",
        "window": "total",
        "cap_usd": usd(2_500_000_000),
    }
    shown = await site.document("budget", "show")
    accounts = {each["account"]: each for each in shown["accounts"]}
    assert set(accounts) == {"budget:acme", "budget:other", f"service:{service.name}"}
    windows = {each["window"]: each for each in accounts["budget:acme"]["windows"]}
    assert {name: window["cap_from"] for name, window in windows.items()} == {"day": "file", "total": "admin"}
    assert windows["total"] == {
        "window": "total",
        "cap_from": "admin",
        "cap_usd": usd(2_500_000_000),
        "posted_usd": usd(result.cost_nanos),
        "pending_usd": usd(0),
        "available_usd": usd(2_500_000_000 - result.cost_nanos),
        "ends_at": None,
        "let_through": 0,
        "lapsing_usd": usd(0),
        "burn_usd_per_hour": None,
        "cap_reached_at": None,
        "forecast": {"last_hour_usd": usd(result.cost_nanos), "used_up_at": None, "by_pattern": None},
    }

    async def asks_first() -> bool:
        """By the copy in the database, which may be a second behind."""
        asked = await site.command("budget", "raise", "acme", "--window", "total", "--by", "1000000", *fair)
        assert asked.code == 2, asked
        return "400,000 times as much" in asked.errors

    await until(asks_first, "the command asks, and knows the new cap")
    slip = await site.command("budget", "set", "acmee", "--window", "day", "--to", "1", *fair)
    assert (slip.code, "acmee is a new account; did you mean acme?" in slip.errors) == (2, True)
    refused = await site.command("budget", "raise", "nobody", "--window", "day", "--by", "1", "--reason", "why")
    assert (refused.code, "there are: budget:acme, budget:other" in refused.errors) == (1, True)

    async def services() -> dict[str, object]:
        (shown,) = (await site.document("services"))["services"]
        return shown

    (found := await services()).pop("limits")
    assert found == {
        "service": service.name,
        "breaker": "closed",
        "failures": 0,
        "open_until": None,
        "paused_until": None,
        "paused_by": None,
        "parked": 0,
    }
    limits = (await services())["limits"]
    assert isinstance(limits, dict)
    assert {name: limit["limit"] for name, limit in limits.items()} == {
        "requests_per_minute": 600,
        "tokens_per_minute": 90_000,
        "max_concurrent": 7,
    }
    paused = await site.document("services", "pause", service.name, "--reason", "bill unclear", "--who", "ada")
    assert paused == {"service": service.name, "paused": True, "paused_by": "ada (bill unclear)"}
    assert (await services())["paused_by"] == "ada (bill unclear)"
    refused = await site.command("services", "pause", "nobody", "--reason", "why")
    assert (refused.code, service.name in refused.errors) == (1, True)
    assert "paused by ada (bill unclear)" in (await site.command("services")).output
    await site.document("services", "resume", service.name)
    assert (await services())["paused_by"] is None

    async def kept() -> bool:
        return [row["who"] for row in await site.cap_changes()] == ["ada"]

    await until(kept, "the change is stored")
