"""Keys from a vault under a running worker: changed while calls run, ended by the provider, and with the vault down.

The worker is a process of its own that signs in to the vault over TLS, as it does in production.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import ANSWER, CountingServer, FakeService, Received, Reply
from key_vault_server import KeyVaultServer
from paymaster_process import (
    MODEL,
    PRICE,
    Databases,
    Site,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
)
from sqlalchemy import text

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import WORKER_LOST

pytestmark = pytest.mark.timeout(120)
CALLS = 200


@pytest.fixture(scope="module")
def vault(module_folder: Path) -> Iterator[KeyVaultServer]:
    with KeyVaultServer(module_folder) as vault:
        yield vault


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, vault: KeyVaultServer, module_folder: Path
) -> AsyncIterator[Site]:
    rotated, spare, late = (server.service(name) for name in ("rotated", "spare", "late"))
    tables: dict[str, Any] = configuration(
        [rotated, spare, late],
        routes={"writer": [rotated, spare], "latecomer": [late, spare]},
        budgets={"acme": {"cap_usd": {"total": "10"}}},
        only={"rotated": {"key": "provider-key"}, "late": {"key": "late-key"}},
    )
    azure = {
        **tables["services"]["spare"],
        "api": "azure-openai",
        "auth": "entra",
        "stream": False,
        "models": {MODEL: {"max_output_tokens": 100, "price": PRICE}},
    }
    tables["services"]["azure"] = azure | {"base_url": server.service("azure").base_url}
    responses = {"api": "openai-responses", "base_url": server.service("azure-responses").base_url}
    tables["services"]["azure-responses"] = azure | responses
    tables["routes"] |= {"azure": [f"azure/{MODEL}"], "azure-responses": [f"azure-responses/{MODEL}"]}
    tables |= vault.tables()
    tables["keys"] |= {"refresh_after": "1h"}
    vault.set("provider-key", "sk-key-1")
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


class Provider:
    """Accepts one key at a time, as a provider does that ends the old one with the change."""

    def __init__(self, service: FakeService, vault: KeyVaultServer) -> None:
        self.key = "sk-key-1"
        self.refused = 0
        self.changes: dict[int, str] = {}
        """At the arrival of which request the key is changed, in the vault and then here."""
        self._vault = vault
        service.reply = self.reply

    def reply(self, request: Received) -> Reply:
        if request.number in self.changes:
            self.change(self.changes[request.number])
        if request.authorization == f"Bearer {self.key}":
            return ANSWER
        self.refused += 1
        return Reply(401, message=f"wrong key: {request.authorization}")

    def change(self, key: str) -> None:
        self._vault.set("provider-key", key)
        self.key = key


async def error_classes(site: Site, service: str) -> Counter[str]:
    """How often each kind of failure was stored for this service."""
    async with site.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT error_class FROM usage_entries WHERE service = :service AND error_class IS NOT NULL"),
            {"service": service},
        )
        return Counter(rows.scalars())


def request(route: str = "writer", prompt: str = "hello") -> LLMRequest:
    return LLMRequest(route=route, budget="acme/writer", prompt=prompt)


async def test_every_call_completes_while_the_key_changes(
    site: Site, server: CountingServer, vault: KeyVaultServer
) -> None:
    """200 calls, two changes while they run: no restart, no failed call, no other service, no alert."""
    service, spare = server.service("rotated"), server.service("spare")
    provider = Provider(service, vault)
    provider.changes = {60: "sk-key-2", 130: "sk-key-3"}
    calls = await asyncio.gather(*(start(site.client, request(prompt=f"call {number}")) for number in range(CALLS)))
    results = await results_of(calls, 90)
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    assert {result.service for result in results} == {"rotated"}
    assert not any(result.fell_back for result in results)
    await settled_books(site, service, spare)
    assert provider.refused >= 2, "both changes were noticed by calls"
    failed = await error_classes(site, "rotated")
    failed.pop(WORKER_LOST, None)  # short of processor, Temporal starts some that no worker gets: docs/performance.md
    assert failed == {"key_replaced": provider.refused}
    assert await site.alerts("service_refuses") == []
    assert (await site.service_status("rotated")).breaker == "closed"
    assert vault.gets <= 6, "the first (with its challenge), and one for each change, perhaps twice"
    print(f"{CALLS} calls, 2 changes: {provider.refused} refused and retried, the vault was asked {vault.gets} times")


async def test_the_newest_key_is_bad(site: Site, server: CountingServer, vault: KeyVaultServer) -> None:
    """The provider ended it and nobody made a new one: the next service answers, and somebody is told."""
    service, spare = server.service("rotated"), server.service("spare")
    provider = Provider(service, vault)
    provider.key = "sk-key-that-nobody-put-into-the-vault"
    gets = vault.gets
    result = await try_generate(site.client, request())
    assert (result.outcome, result.service, result.attempts) == (Outcome.COMPLETED, "spare", 2)
    assert vault.gets == gets + 1
    await until(lambda: site.alerts("service_refuses"), "somebody is told")
    vault.set("provider-key", provider.key)
    result = await try_generate(site.client, request())
    assert (result.service, result.attempts) == ("rotated", 2)
    await settled_books(site, service, spare)


async def test_with_the_vault_down_calls_go_on_with_the_kept_key(
    site: Site, server: CountingServer, vault: KeyVaultServer
) -> None:
    """Those whose key is not kept fall back; a change is found when the vault is back; somebody is told."""
    service, spare = server.service("rotated"), server.service("spare")
    provider = Provider(service, vault)
    provider.change("sk-key-4")
    assert (await try_generate(site.client, request())).service == "rotated"
    vault.go_down()
    assert (await try_generate(site.client, request())).attempts == 1
    late = await try_generate(site.client, request("latecomer"))
    assert (late.outcome, late.service, late.attempts) == (Outcome.COMPLETED, "spare", 4)
    # Nobody can know whether this key is bad or changed: it is tried again, as often as the policy says.
    provider.key = "sk-key-5"
    refused = await try_generate(site.client, request())
    assert (refused.outcome, refused.service, refused.attempts) == (Outcome.COMPLETED, "spare", 4)
    await until(lambda: site.alerts("key_source_down"), "somebody is told")
    vault.come_up()
    vault.set("provider-key", "sk-key-5")
    vault.set("late-key", "sk-late")
    assert (await try_generate(site.client, request())).service == "rotated"
    assert (await try_generate(site.client, request("latecomer"))).service == "late"
    await settled_books(site, service, spare)


RESPONSE = {
    "model": MODEL,
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
    "usage": {"input_tokens": 12, "output_tokens": 5},
}


@pytest.mark.parametrize(
    ("name", "answer"),
    [("azure", ANSWER), ("azure-responses", Reply(body=json.dumps(RESPONSE).encode()))],
)
async def test_azure_openai_is_called_with_a_token_of_entra_id(
    site: Site, server: CountingServer, vault: KeyVaultServer, name: str, answer: Reply
) -> None:
    """One token for many calls, for the scope of the setting and by the credential that the vault is asked with."""
    azure = server.service(name)
    azure.reply = lambda request: answer
    for _ in range(3):
        result = await try_generate(site.client, request(name))
        assert (result.outcome, result.service) == (Outcome.COMPLETED, name)
    tokens = {each.authorization for each in azure.requests}
    assert len(tokens) == 1
    assert tokens.pop().startswith("Bearer token-SENTINEL-")
    assert vault.scopes.count("https://cognitiveservices.azure.com/.default") == 1
    azure.reply = lambda request: Reply(401, message="no role at this resource")
    refused = await try_generate(site.client, request(name))
    assert (refused.outcome, refused.reason, refused.attempts) == (Outcome.UNAVAILABLE, "auth", 1)
    await settled_books(site, azure)
    assert "SENTINEL" not in site.logs()


async def test_the_commands_show_where_keys_are_and_how_old(site: Site, vault: KeyVaultServer) -> None:
    """`keys list`, `keys check` and `doctor`: never a value, and what to do where one cannot be used."""
    version = vault.set("provider-key", "sk-SENTINEL-shown-nowhere")
    found = {each["key"]: each for each in (await site.document("keys", "list"))["keys"]}
    assert found["provider-key"] | {"changed_at": ""} == {
        "key": "provider-key",
        "used_by": ["rotated"],
        "problem": None,
        "source": f"{vault.url}/secrets/provider-key",
        "version": version,
        "changed_at": "",
        "expires_at": None,
    }
    assert found["https://cognitiveservices.azure.com/.default"]["source"] == "Entra ID"
    vault.set("late-key", "sk-late", enabled=False)
    checked, doctor = await asyncio.gather(site.command("keys", "check"), site.command("doctor"))
    assert checked.code == 1
    assert "PROBLEM  late-key: " in checked.output
    assert "the secret is disabled" in checked.output
    assert "PROBLEM  key late-key: " in doctor.output
    assert f"ok       key provider-key: in {vault.url}/secrets/provider-key, version {version}" in doctor.output
    for ended in (checked, doctor):
        assert "SENTINEL" not in ended.output + ended.errors
        assert "Unclosed" not in ended.errors
