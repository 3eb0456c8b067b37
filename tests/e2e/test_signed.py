"""Where signatures are required, nobody raises a cap without one: the real commands, a real worker, plain signals."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer
from paymaster_process import Databases, Site, configuration, running_site, until, write_configuration
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack
from paymaster.errors import AdminRefused
from paymaster.messages import RaiseCap
from paymaster.security.signing_key import SigningKey

pytestmark = pytest.mark.timeout(90)
RAISE = {"account": "budget:acme", "window": "total", "by": "1", "reason": "more for me"}
COMMAND = ("budget", "raise", "acme", "--window", "total", "--by", "1", "--reason", "launch")


@pytest.fixture(scope="module")
def tables(server: CountingServer) -> dict[str, Any]:
    return configuration([server.service("signed")], budgets={"acme": {"cap_usd": {"total": "1"}}})


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, module_folder: Path, tables: dict[str, Any]
) -> AsyncIterator[Site]:
    """It runs without signatures first; then an admin makes a key and has them required."""
    url = await databases.create()
    async with running_site(stack.temporal_address, url, module_folder, tables) as site:
        made = await site.document("admin", "new-key", "alice.pem", "--name", "alice")
        tables["admin"] = {"require_signature": True, "keys": {"alice": made["public"]}}
        write_configuration(module_folder / "paymaster.toml", tables)
        assert (await site.document("config", "apply"))["applied"]
        yield site


async def cap_nanos(site: Site) -> int | None:
    return (await site.balance("budget:acme")).cap_nanos


async def refused(site: Site, count: int) -> list[str]:
    """The texts in the status, once there are so many. The first of a minute are alerts, each of its own."""
    texts: list[str] = []

    async def shown() -> bool:
        texts[:] = (await site.ledger.status()).refused_messages
        return len(texts) == count

    async def alerted() -> bool:
        first = {text.rpartition(" (")[0] for text in texts[:2]}  # without when
        return {row["text"] for row in await site.alerts("refused_message")} >= first

    await until(shown, f"{count} refused messages")
    await until(alerted, "the first are alerts")
    return texts


async def test_only_a_signed_raise_changes_a_cap_and_every_other_is_refused_and_alerted(site: Site) -> None:
    """Unsigned by the command and as a plain signal, replayed as an update and as a plain signal, and forged."""
    ended = await site.command(*COMMAND)
    assert (ended.code, ended.output) == (1, "")
    assert "refused: raise_cap must be signed here: give `--sign-with FILE`" in ended.errors
    plain = await Client.connect(site.temporal_address, namespace=site.namespace)
    budget = plain.get_workflow_handle("budget/default")
    await budget.signal("raise_cap", RAISE)
    texts = await refused(site, 2)
    assert all("raise_cap must be signed here" in text for text in texts)
    assert await cap_nanos(site) == 10**9

    assert (await site.document(*COMMAND, "--sign-with", "alice.pem"))["cap_usd"] == "2.000000000"
    assert [row["who"] for row in await site.cap_changes()] == ["alice"]

    key = SigningKey.read(site.folder / "alice.pem")
    ledger, epoch = site.ledger, await site.ledger.epoch()
    change = key.sign("raise_cap", RaiseCap.model_validate(RAISE), by="alice", ledger=ledger.name, epoch=epoch)
    await budget.signal("raise_cap", json.loads(change.model_dump_json()))

    async def raised() -> bool:
        return await cap_nanos(site) == 3 * 10**9

    await until(raised, "a signed command works as a plain signal too")
    with pytest.raises(AdminRefused, match="alice's signature was used before"):
        await ledger.raise_cap(change)
    await budget.signal("raise_cap", json.loads(change.model_dump_json()))
    document = json.loads(change.model_dump_json())
    for forged in (
        {"by": "100"},
        *({"signature": document["signature"] | {"value": value}} for value in ("", "A" * 88, "none", "A" * 87 + "=")),
    ):
        await budget.signal("raise_cap", document | forged)
    texts = await refused(site, 9)
    assert ["used before" in text for text in texts] == [False, False, True, True, *[False] * 5]
    assert all("not what alice signed" in text for text in texts[4:])
    assert await cap_nanos(site) == 3 * 10**9
    assert [row["who"] for row in await site.cap_changes()] == ["alice", "alice"]


async def test_a_configuration_that_takes_the_requirement_away_must_be_signed_too(
    site: Site, tables: dict[str, Any]
) -> None:
    """A worker with another file changes nothing and says so; neither does the command; signed, it is applied."""
    weak = {**tables, "admin": {}, "budgets": {"acme": {"cap_usd": {"total": "1000"}}}}
    file = site.folder / "weak.toml"
    write_configuration(file, weak)
    (worker,) = await site.start_workers(file=file)
    assert "the ledger keeps the configuration that it has: it changes caps, budgets or [admin]" in worker.log()
    ended = await site.command("config", "apply", "--force", file=file)
    assert (ended.code, "`paymaster config apply --sign-with FILE`" in ended.output) == (1, True)
    ended = await site.command("config", "apply", "--sign-with", "alice.pem", file=file)
    assert (ended.code, "[admin.keys] of the configuration does not have the key" in ended.errors) == (2, True)
    assert await cap_nanos(site) == 3 * 10**9
    alerts = [row["text"] for row in await site.alerts("refused_message")]
    assert sum("a configuration (" in text for text in alerts) == 1

    write_configuration(file, {**weak, "admin": {"keys": tables["admin"]["keys"]}})
    assert (await site.document("config", "apply", "--sign-with", "alice.pem", file=file))["applied"]
    assert await cap_nanos(site) == 1000 * 10**9
    await site.ledger.raise_cap(RaiseCap.model_validate(RAISE))
