"""Nobody takes a call, or Temporal is lost while its answer is awaited: callers are told, and nothing is paid twice."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from counting_server import CountingServer, FakeService
from gateway_process import KEY, GatewayProcess, client_table, running_gateway
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from slow_proxy import SlowProxy

from paymaster.devstack import EmbeddedStack
from paymaster.generations import CallHandle

pytestmark = pytest.mark.timeout(90)
HEADERS = {"authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def site_of(
    stack: EmbeddedStack, databases: Databases, service: FakeService, folder: Path
) -> AsyncGenerator[Site]:
    """Without workers."""
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "10"}}})
    tables["gateway"] = {"wait_at_most": "2s", "clients": {"tester": client_table(KEY, "acme")}}
    async with running_site(stack.temporal_address, await databases.create(), folder, tables, workers=0) as site:
        yield site


async def asked(gateway: GatewayProcess, service: FakeService, **headers: str) -> httpx.Response:
    body = {"model": service.name, "messages": [{"role": "user", "content": "Hello"}]}
    async with httpx.AsyncClient(timeout=80, headers={**HEADERS, **headers}) as client:
        return await client.post(f"{gateway.url}/v1/chat/completions", json=body)


def said(answer: httpx.Response) -> dict[str, str]:
    return answer.json()["error"]["paymaster"]


async def test_a_database_without_its_schema_is_said_at_the_start(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, tmp_path: Path
) -> None:
    async with site_of(stack, databases, server.service("unsaid"), tmp_path) as site:
        url = {"PAYMASTER__DATABASE__URL": await databases.create_empty()}
        with pytest.raises(AssertionError, match="run `paymaster migrate`"):
            async with running_gateway(replace(site, environment={**site.environment, **url})):
                pass


# ------------------------------------------------------------ no worker


async def test_a_call_that_no_worker_takes_is_withdrawn(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, tmp_path: Path
) -> None:
    """And is not made when workers come, unless its caller may come back for it with its key."""
    service = server.service("untaken")
    async with site_of(stack, databases, service, tmp_path) as site, running_gateway(site) as gateway:
        keyed = {"Idempotency-Key": "1"}
        refused, kept = await asyncio.gather(asked(gateway, service), asked(gateway, service, **keyed))
        for answer in (refused, kept):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert said(answer)["reason"] == "no_worker"
            assert "the task queue paymaster, " in said(answer)["detail"]
        await site.start_workers()
        assert (await asked(gateway, service, **keyed)).json()["choices"]
        result = await CallHandle(site.client, said(refused)["call_id"]).result()
        assert (result.reason, result.attempts) == ("caller_gone", 0)
        assert service.count == 1
        await settled_books(site)


@pytest.mark.full
async def test_a_call_that_stays_parked_is_withdrawn(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, tmp_path: Path
) -> None:
    """A ledger that begins without a worker with activities does not know what was spent, and lets everybody wait."""
    service = server.service("unsent")
    async with site_of(stack, databases, service, tmp_path) as site, running_gateway(site) as gateway:
        await site.start_workers(program=["-m", "paymaster", "worker", "--role", "workflows"])
        answer = await asked(gateway, service)
        assert (answer.status_code, said(answer)["reason"]) == (503, "no_worker")
        assert "the ledger has not answered in time" in said(answer)["detail"]
        await site.start_workers()
        assert service.count == 0
        await settled_books(site)


# ------------------------------------------------------------ no Temporal


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("temporal-lost")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    async with site_of(stack, databases, service, module_folder) as site:
        await site.start_workers()
        yield site


@pytest.fixture(scope="module")
async def temporal(stack: EmbeddedStack) -> AsyncIterator[tuple[SlowProxy, str]]:
    """The gateway's way to it, with its address."""
    host, _, port = stack.temporal_address.rpartition(":")
    proxy = SlowProxy(partial(asyncio.open_connection, host, int(port)))
    yield proxy, f"127.0.0.1:{await proxy.listen()}"
    proxy.close()


@pytest.fixture(scope="module")
async def gateway(site: Site, temporal: tuple[SlowProxy, str]) -> AsyncIterator[GatewayProcess]:
    behind = replace(site, environment={**site.environment, "TEMPORAL_ADDRESS": temporal[1]})
    async with running_gateway(behind) as gateway:
        yield gateway


async def sent(gateway: GatewayProcess, service: FakeService) -> asyncio.Task[httpx.Response]:
    """A request whose call the service holds."""
    service.hold()
    asking = asyncio.create_task(asked(gateway, service))
    await until(lambda: service.held == 1, "it is sent")
    return asking


async def test_temporal_may_be_away_while_an_answer_is_awaited(
    gateway: GatewayProcess, site: Site, service: FakeService, temporal: tuple[SlowProxy, str]
) -> None:
    before = service.count
    asking = await sent(gateway, service)
    temporal[0].cut()
    async with httpx.AsyncClient() as client:

        async def is_noticed() -> bool:
            return (await client.get(f"{gateway.url}/healthz", timeout=10)).status_code == 503

        await until(is_noticed, "the gateway does not reach it")
    service.release()
    await settled_books(site)
    temporal[0].mend()
    assert (await asking).status_code == 200
    assert service.count == before + 1


@pytest.mark.full
async def test_without_temporal_a_caller_learns_that_its_call_goes_on(
    gateway: GatewayProcess, site: Site, service: FakeService, temporal: tuple[SlowProxy, str]
) -> None:
    """Its SDK does not send it again, and its answer is there when Temporal is."""
    before = service.count
    asking = await sent(gateway, service)
    temporal[0].cut()
    told = await asking
    assert (told.status_code, told.headers["x-should-retry"], said(told)["reason"]) == (504, "false", "call_runs_on")
    assert said(told)["call_id"] == told.headers["x-paymaster-call-id"]
    temporal[0].mend()
    service.release()
    await settled_books(site)
    async with httpx.AsyncClient(headers=HEADERS, timeout=30) as client:

        async def is_there() -> bool:
            found = await client.get(f"{gateway.url}/v1/paymaster/calls/{said(told)['call_id']}")
            return found.status_code == 200 and bool(found.json()["choices"])

        await until(is_there, "its answer is there")
    assert service.count == before + 1
