"""Who asks the gateway: clients that are made at run time, at two gateways, and tokens of an identity provider."""

import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from counting_server import CountingServer
from gateway_process import GatewayProcess, running_gateway
from identity_provider import IdentityProvider
from key_search import find_key
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from readable_places import everything_readable
from sdk_agents import asked

from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack,
    databases: Databases,
    server: CountingServer,
    provider: IdentityProvider,
    module_folder: Path,
) -> AsyncIterator[Site]:
    tables = configuration([server.service("chat")], budgets={"acme": {"cap_usd": {"total": "1"}}})
    tables["gateway"] = {"jwt": provider.settings("acme/{team}/{sub}", tags={"team": "{team}"})}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def gateways(site: Site) -> AsyncIterator[list[GatewayProcess]]:
    """Two that know nothing of each other."""
    async with running_gateway(site, name="gateway-1") as first, running_gateway(site, name="gateway-2") as second:
        yield [first, second]


def sdk(gateway: GatewayProcess, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


async def answer(gateway: GatewayProcess, key: str, **options: Any) -> str | None:
    async with sdk(gateway, key) as client:
        return (await client.chat.completions.create(**asked("chat", **options))).choices[0].message.content


async def refusal(gateway: GatewayProcess, key: str) -> str:
    """Why the key is not taken. Empty: it is."""
    try:
        async with sdk(gateway, key) as client:
            await client.models.list()
    except openai.AuthenticationError as error:
        return error.body["paymaster"]["reason"] if isinstance(error.body, dict) else ""
    return ""


async def test_a_revoked_key_ends_at_every_gateway(site: Site, gateways: list[GatewayProcess]) -> None:
    """Within seconds, although each has used it just before; and `last used` is there when they have stopped."""
    made = await site.document("clients", "create", "bot", "--budget", "acme/bot", "--routes", "chat")
    assert [await answer(gateway, made["key"]) for gateway in gateways] == ["answer to Hello"] * 2
    await site.document("clients", "revoke", made["key_id"])
    began = time.monotonic()
    for gateway in gateways:

        async def is_revoked(gateway: GatewayProcess = gateway) -> bool:
            return await refusal(gateway, made["key"]) == "revoked_key"

        await until(is_revoked, f"the key is refused by {gateway.url}", deadline_s=15)
    print(f"revoked everywhere after {time.monotonic() - began:.1f} s")
    await settled_books(site)
    [row] = (await site.document("usage", "--by", "budget", "--budget", "acme/bot"))["rows"]
    assert row["budget"] == "acme/bot"


async def test_a_key_ends_at_its_time(site: Site, gateways: list[GatewayProcess]) -> None:
    made = await site.document("clients", "create", "short", "--budget", "acme", "--expires", "2s")

    async def has_ended() -> bool:
        return await refusal(gateways[0], made["key"]) == "key_expired"

    await until(has_ended, "the key is refused", deadline_s=15)


async def test_a_client_stays_below_its_budget(site: Site, gateways: list[GatewayProcess]) -> None:
    made = await site.document("clients", "create", "below", "--budget", "acme/below", "--requests-at-once", "5")
    below = {"x-paymaster-budget": "acme/below/alice"}
    assert await answer(gateways[0], made["key"], extra_headers=below) == "answer to Hello"
    for budget in ("acme", "acme/bot", "acme/below2", "acme/belo"):
        with pytest.raises(openai.PermissionDeniedError, match="name the budget acme/below or one below it"):
            await answer(gateways[0], made["key"], extra_headers={"x-paymaster-budget": budget})
    await settled_books(site)


async def test_whoever_the_company_knows_needs_no_key(
    site: Site, gateways: list[GatewayProcess], provider: IdentityProvider
) -> None:
    assert await answer(gateways[0], provider.token(sub="ada")) == "answer to Hello"
    assert await refusal(gateways[0], provider.token(aud="other")) == "bad_token"
    with pytest.raises(openai.PermissionDeniedError, match="claim team is not one name"):
        await answer(gateways[0], provider.token(team="../bot"))
    await settled_books(site)
    [row] = (await site.document("usage", "--by", "budget", "--budget", "acme/tides/ada"))["rows"]
    assert row["budget"] == "acme/tides/ada"


async def test_no_clients_key_is_anywhere(
    site: Site, gateways: list[GatewayProcess], provider: IdentityProvider, server: CountingServer
) -> None:
    """After good and bad requests, with the key in every place that a program may put it by mistake."""
    ended = await site.command("clients", "create", "searched", "--budget", "acme/searched")
    key, token, url = ended.output.strip(), provider.token(sub="eve"), gateways[0].url
    secrets = (key[-43:], token.split(".")[2])
    said: list[str] = [ended.errors]
    async with httpx.AsyncClient() as http:
        for secret in (key, token):
            bearer = {"authorization": f"Bearer {secret}"}
            await answer(gateways[0], secret)
            for path, headers in (
                ("/v1/chat/completions", {"authorization": f"Basic {b64encode(secret.encode()).decode()}"}),
                ("/v1/chat/completions", {"authorization": secret}),
                ("/v1/chat/completions", bearer | {"x-api-key": "another"}),
                ("/v1/chat/completions", {"x-api-key": f"{secret}x"}),
                (f"/v1/chat/completions?key={secret}", bearer),
                (f"/{secret}", bearer),
            ):
                refused = await http.post(f"{url}{path}", headers=headers, content=b"{}")
                assert refused.status_code >= 400
                said.append("" if secret in path else refused.text)
    await settled_books(site)
    for command in (["list"], ["show", "searched"], ["list", "--json"], ["revoke", "searched"]):
        ended = await site.command("clients", *command)
        said += [ended.output, ended.errors]
    places = await everything_readable(site)
    places |= {"gateways": "".join(gateway.log() for gateway in gateways), "answers": "".join(said)}
    places["providers"] = "".join(str(received.headers) for received in server.service("chat").requests)
    assert "searched" in places["gateways"], "the gateways' log has no requests, so this proves nothing"
    assert key[:16] in places["rows"], "the table of clients was not looked at"
    found = [name for name, place in places.items() for secret in secrets if find_key(place, secret)]
    assert found == []
