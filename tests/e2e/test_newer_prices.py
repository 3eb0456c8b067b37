"""A list of prices is brought while a worker runs: calls are priced by it without a restart, and nobody empties a
budget by changing the list."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from counting_server import CountingServer, FakeService
from gateway_process import running_gateway
from loopback_server import LoopbackServer
from paymaster_process import MODEL, Site, configuration, running_site, until
from sqlalchemy import text

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack

ADMIN = "ada-0123456789abcdef0123456789abcdef"
pytestmark = pytest.mark.timeout(180)


class ListServer:
    """Where the list of prices is: on loopback, without TLS, which only this machine may be asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"[]"
        self.server = LoopbackServer(self._serve)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/data.json"

    def publish(self, service: FakeService, **rates: float) -> None:
        prices = {f"{name}_mtok": rate for name, rate in rates.items()}
        model = {"id": MODEL, "match": {"equals": MODEL}, "prices": prices}
        provider = {"id": "fake", "name": "Fake", "api_pattern": re.escape(service.base_url), "models": [model]}
        self.status, self.body = 200, json.dumps([provider]).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {self.status} X\r\nlocation: /other\r\ncontent-length: {len(self.body)}\r\n\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        return True


@pytest.fixture
async def published() -> AsyncIterator[ListServer]:
    served = ListServer()
    await served.server.listen()
    yield served
    await served.server.refuse()


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service("newer-prices")


@pytest.fixture
async def site(
    stack: EmbeddedStack, database_url: str, service: FakeService, published: ListServer, tmp_path: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"day": "5"}}},
        service={"models": {MODEL: {"max_output_tokens": 100}}, "price_factor": "0.5"},
    )
    tables["prices"] = {"list_url": published.url}
    digest = hashlib.sha256(ADMIN.encode()).hexdigest()
    tables["gateway"] = {"admins": {"ada": {"key_sha256": digest, "may": ["prices"]}}}
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


def ask(service: FakeService) -> LLMRequest:
    return LLMRequest(route=service.name, budget="acme", prompt="Say hello", on_exhausted="fail")


async def used(site: Site) -> str:
    """The worker's list."""
    found = re.findall(r"prices are looked up in (genai-prices [^\"]*Z)", site.logs())
    return found[-1] if found else ""


async def rows(site: Site) -> list[tuple[Decimal, str]]:
    async with site.engine.connect() as connection:
        found = await connection.execute(text("SELECT cost_usd, price_source FROM usage_entries ORDER BY granted_at"))
        return [(row.cost_usd, row.price_source) for row in found]


async def refreshed(site: Site, *options: str) -> None:
    before = await used(site)
    ended = await site.command("prices", "refresh", *options)
    assert ended.code == 0, ended

    async def is_taken() -> bool:
        return await used(site) != before

    await until(is_taken, "the worker takes the list")


async def test_a_running_worker_takes_a_list_that_was_brought(
    site: Site, service: FakeService, published: ListServer
) -> None:
    """Before there is a price calls are refused; then each is paid at the list that it was granted with, by half."""
    assert (await try_generate(site.client, ask(service))).outcome is Outcome.DENIED
    assert service.count == 0

    published.publish(service, input=2, output=4)
    shown = await site.command("prices", "diff")
    assert shown.code == 1
    assert f"{service.name}/{MODEL}: new, input $2, output $4" in shown.output
    await refreshed(site)
    first = await used(site)
    await generate(site.client, ask(service))

    published.publish(service, input=3, output=4)
    await refreshed(site)
    await generate(site.client, ask(service))
    # 12 tokens of input and 5 of output, at half of the list's price.
    assert await rows(site) == [
        (Decimal("0.000022000"), f"{first} * 0.5: fake/{MODEL}"),
        (Decimal("0.000028000"), f"{await used(site)} * 0.5: fake/{MODEL}"),
    ]
    assert (await site.balance("budget:acme", "day")).posted_nanos == 50_000
    assert (await site.command("reconcile")).code == 0
    await until(lambda: _told(site), "the change is alerted")
    (alert,) = await site.alerts("price_changed")
    assert f"{service.name}/{MODEL} price input $1.00 → $1.50 per million tokens" in alert["text"]

    again = await site.command("prices", "refresh")
    assert (again.code, again.output.splitlines()[-1]) == (0, "nothing to do: this list is in force")
    log = (await site.command("budget", "log")).output
    assert f"prices refresh: {service.name}/{MODEL}: input $2 → $3 ({published.url})" in log
    assert "a worker: a price changed" in log


async def _told(site: Site) -> bool:
    return bool(await site.alerts("price_changed"))


@pytest.mark.full
async def test_a_price_of_zero_is_taken_only_when_somebody_agrees(
    site: Site, service: FakeService, published: ListServer
) -> None:
    published.publish(service, input=2, output=4)
    await refreshed(site)
    before = await used(site)
    published.publish(service, input=2, output=0)
    for arguments in (["prices", "refresh"], ["prices", "refresh", "--json"]):
        ended = await site.command(*arguments)
        assert ended.code == 2
        assert "give --yes" in ended.errors
    shown: Any = json.loads((await site.command("prices", "diff", "--json")).output)
    assert shown["list"] == [
        {"model": f"{service.name}/{MODEL}", "text": f"{service.name}/{MODEL}: output $4 → $0", "needs_consent": True}
    ]
    assert await used(site) == before
    await refreshed(site, "--yes")

    # What is no list, or not there, changes nothing.
    for status, body, said in ((200, b"<html>", "cannot be used"), (302, b"", "HTTP 302"), (500, b"", "HTTP 500")):
        published.status, published.body = status, body
        ended = await site.command("prices", "refresh", "--yes")
        assert (ended.code, said in ended.errors) == (2, True), ended
    await published.server.refuse()
    assert "does not answer" in (await site.command("prices", "refresh", "--yes")).errors
    started = await site.start_workers()  # it needs the database alone
    assert f"prices are looked up in {await used(site)}" in started[0].log()


async def test_an_admin_brings_a_list_over_http(site: Site, service: FakeService, published: ListServer) -> None:
    """The list that was looked at and no other; one whose price falls where the admin says so."""
    published.publish(service, input=2, output=4)
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with (
        running_gateway(site) as gateway,
        httpx.AsyncClient(base_url=f"{gateway.url}/v1/paymaster/admin", headers=headers, timeout=30) as admin,
    ):
        assert (await admin.get("/prices")).json()["prices"][0]["source"] is None
        newer = (await admin.get("/prices/newer")).json()
        assert [each["text"] for each in newer["changes"]] == [f"{service.name}/{MODEL}: new, input $2, output $4"]
        brought = await admin.put("/prices", json={"sha256": newer["sha256"], "reason": "it is new"})
        assert (brought.status_code, brought.json()["brought_by"]) == (200, "ada (it is new)")
        [price] = brought.json()["prices"]
        assert (price["input_usd"], price["output_usd"]) == ("1.000000000", "2.000000000")  # by half
        assert (await admin.put("/prices", json={"sha256": newer["sha256"]})).json() == brought.json()

        published.publish(service, input=0, output=4)
        assert (await admin.put("/prices", json={"sha256": newer["sha256"]})).status_code == 412
        newer = (await admin.get("/prices/newer")).json()
        refused = await admin.put("/prices", json={"sha256": newer["sha256"]})
        assert (refused.status_code, "input $2 → $0" in refused.json()["detail"]) == (409, True)
        accepted = await admin.put("/prices", json={"sha256": newer["sha256"], "accept_falls": True})
        assert accepted.json()["prices"][0]["input_usd"] == "0.000000000"
        published.status = 500
        assert (await admin.get("/prices/newer")).status_code == 502
        logged = (await admin.get("/changes")).json()["items"]
    assert [each["who"] for each in logged if each["reason"] == published.url] == ["ada (it is new)", "ada"]
