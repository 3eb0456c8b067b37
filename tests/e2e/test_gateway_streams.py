"""Streams through a gateway and a worker in processes of their own: as they come, and when somebody is killed."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import pytest
from counting_server import CountingServer, FakeService, Reply
from gateway_process import KEY, GatewayProcess, client_table, running_gateway
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books, until
from sdk_agents import asked
from sqlalchemy import func, select, text

from benchmarks.resources import memory_mib
from paymaster.devstack import EmbeddedStack
from paymaster.storage.usage_rows import usage_table

pytestmark = pytest.mark.timeout(120)
NAMES = ("first", "slow", "gone", "left", "left-complete", "cut", "gateway", "gateway-100", "worker", "worker-100")
HEADERS = {"authorization": f"Bearer {KEY}"}
ENVIRONMENT = {"PAYMASTER_KEY_STREAMS": "a secret of gateways and workers, for tests".replace(" ", "-")}


def token(text: str) -> str:
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return f"data: {json.dumps({**data, 'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n"


LAST = [
    'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "model-1", "choices": '
    '[{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n',
    'data: {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}}\n\n',
    "data: [DONE]\n\n",
]


def held_after(first: str) -> Reply:
    """Of which the provider has sent one token, and holds the rest."""
    return Reply(stream=[token(first), None, token(" two"), *LAST])


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [server.service(name) for name in NAMES],
        budgets={"acme": {"cap_usd": {"total": "100"}}},
        service={"models": {MODEL: {"max_output_tokens": 1_000, "price": PRICE}}},
    )
    tables["gateway"] = {
        "clients": {"tester": client_table(KEY, "acme")},
        "streams": {"secret_key": "streams", "waits_for_reader": "1s"},
    }
    database_url = await databases.create()
    async with running_site(
        stack.temporal_address, database_url, module_folder, tables, environment=ENVIRONMENT
    ) as site:
        yield site


@pytest.fixture(scope="module")
async def gateway(site: Site) -> AsyncIterator[GatewayProcess]:
    async with running_gateway(site) as gateway:
        yield gateway


def body(service: FakeService, number: int = 0) -> dict[str, object]:
    messages = [{"role": "user", "content": f"Hello {number}"}]
    return {"model": service.name, "stream": True, "max_tokens": 100, "messages": messages}


class Caller(NamedTuple):
    """Somebody who reads a stream."""

    got: asyncio.Event
    """Its first piece is there."""
    pieces: list[bytes]
    reading: asyncio.Task[int]
    """To its end; the status."""

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)


def asking(gateway: GatewayProcess, service: FakeService, number: int = 0) -> Caller:
    got, pieces = asyncio.Event(), list[bytes]()

    async def read() -> int:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as http,
            http.stream(
                "POST", f"{gateway.url}/v1/chat/completions", headers=HEADERS, json=body(service, number)
            ) as response,
        ):
            async for piece in response.aiter_raw():
                pieces.append(piece)
                got.set()
            return response.status_code

    return Caller(got, pieces, asyncio.create_task(read()))


async def all_have_begun(callers: list[Caller]) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(caller.got.wait() for caller in callers))


async def rows_of(site: Site, service: FakeService) -> dict[str, int]:
    """How many rows it has in each state."""
    columns = usage_table.c.state, func.count().label("rows")
    query = select(*columns).where(usage_table.c.service == service.name).group_by(usage_table.c.state)
    async with site.engine.connect() as connection:
        return {row.state: row.rows for row in await connection.execute(query)}


async def test_the_first_token_comes_while_the_provider_holds_the_rest(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    service = server.service("first")
    service.script.append(held_after("One"))
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY) as client:
        stream = await client.chat.completions.create(**asked("first", stream=True))
        assert stream.response.headers["x-paymaster-service"] == "first"
        first = await anext(stream)
        assert first.choices[0].delta.content == "One"
        assert service.held == 1
        service.release()
        assert [chunk.choices[0].delta.content async for chunk in stream] == [" two", None]
    await settled_books(site, service)


async def test_what_fails_before_the_first_token_is_not_seen(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """The service is asked again, and its answer is the only one."""
    service = server.service("cut")
    error = 'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
    service.script.extend([Reply(status=503), Reply(stream=[token("One"), *LAST])])
    caller = asking(gateway, service)
    assert await caller.reading == 200
    assert caller.text == (token("One") + LAST[0] + LAST[2]).encode()
    service.script.append(Reply(stream=[token("One"), error]))
    told = asking(gateway, service)
    assert await told.reading == 200
    assert told.text == (token("One") + error).encode()
    await settled_books(site)


async def test_a_stream_that_is_cut_ends_with_an_error_event(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """OpenAI's SDK raises it, and the call is not made again."""
    service = server.service("cut")
    before = service.count
    service.script.append(Reply(stream=[token("One")], cut=True))
    client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY)
    stream = await client.chat.completions.create(model="cut", messages=[{"role": "user", "content": "y"}], stream=True)
    assert (await anext(stream)).choices[0].delta.content == "One"
    with pytest.raises(openai.APIError, match="connection_lost"):
        await anext(stream)
    await settled_books(site)
    assert service.count == before + 1


async def test_a_caller_who_goes_does_not_stop_a_call_that_is_sent(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    service = server.service("gone")
    service.script.append(held_after("One"))
    caller = asking(gateway, service)
    await all_have_begun([caller])
    caller.reading.cancel()
    service.release()
    await settled_books(site, service)
    assert await rows_of(site, service) == {"final": 1}


async def test_slow_readers_take_no_memory_and_hold_up_nobody(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """Two answers of twenty megabytes, of which nobody reads more than the beginning; a kernel keeps four of each.

    They do not compress well: those that do are a part of their call's result, which the gateway reads.
    """
    service, count, size = server.service("slow"), 2, 20_000_000
    service.reply = lambda request: Reply(stream=[token("One"), *[token("x" * 50)] * 1_000, *LAST])
    assert await asyncio.gather(*(asking(gateway, service, number).reading for number in range(count))) == [200] * count
    before = memory_mib(gateway.process.pid)
    large = token(random.Random(1).randbytes(size // 800).hex())
    service.reply = lambda request: Reply(stream=[token("One"), *[large] * 400, None, *LAST])
    async with AsyncExitStack() as waiting:
        for number in range(count):
            port = int(gateway.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            waiting.callback(writer.close)
            writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            writer.write(http_request(body(service, number)))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await until(lambda: service.held == count, "the service has sent all but the ends, whoever reads")
        quick = server.service("first")
        quick.script.append(Reply(stream=[token("One"), *LAST]))
        assert await asking(gateway, quick).reading == 200
        service.release()
        await settled_books(site)
        more = memory_mib(gateway.process.pid) - before
    assert more < 0.4 * count * size / 2**20
    assert await rows_of(site, service) == {"final": 2 * count}


@pytest.mark.parametrize("streams", [True, False])
async def test_a_caller_who_never_reads_is_left(site: Site, server: CountingServer, streams: bool) -> None:
    """His call is in the books once, and his retry gets its whole answer, by any gateway."""
    service = server.service("left" if streams else "left-complete")
    words = random.Random(2).randbytes(4_000_000).hex()
    choice = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}
    answer = {"choices": [choice], "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}}
    service.reply = lambda request: (
        Reply(stream=[token("One"), *[token(words[at : at + 60_000]) for at in range(0, len(words), 60_000)], *LAST])
        if streams
        else Reply(body=json.dumps({"id": "c", "object": "chat.completion", "model": MODEL, **answer}).encode())
    )
    asked_for = body(service) | {"stream": streams}
    impatient = replace(site, environment=site.environment | {"PAYMASTER__GATEWAY__SEND_TIMEOUT": "1s"})
    async with running_gateway(impatient, name=f"impatient-{service.name}") as gateway:
        port, noted = int(gateway.url.rpartition(":")[2]), await left_requests(site)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        writer.write(http_request(asked_for))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await until(partial(more_are_noted, site, noted), "his call is noted for his retry")
        writer.close()
        await settled_books(site, service)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            again = {**HEADERS, "x-stainless-retry-count": "1"}
            url, content = f"{gateway.url}/v1/chat/completions", json.dumps(asked_for)
            retried = await http.post(url, headers=again, content=content)
    assert (retried.status_code, words[-100:] in retried.text) == (200, True)
    assert service.count == 1
    assert await rows_of(site, service) == {"final": 1}


async def left_requests(site: Site) -> int:
    """How many calls are noted for retries."""
    async with site.engine.connect() as connection:
        return (await connection.execute(text("SELECT count(*) FROM left_requests"))).scalar_one()


async def more_are_noted(site: Site, before: int) -> bool:
    return await left_requests(site) > before


def http_request(body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: "
    return f"{head}{len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.full)])
async def test_a_gateway_that_is_killed_loses_no_entry(site: Site, server: CountingServer, count: int) -> None:
    """None is unconfirmed, and none stored twice: the calls go on without it."""
    service = server.service("gateway" if count == 8 else "gateway-100")
    service.reply = lambda request: held_after("One")
    async with running_gateway(site, name=f"killed-{count}") as killed:
        callers = [asking(killed, service, number) for number in range(count)]
        await all_have_begun(callers)
        killed.process.kill()
        ends = await asyncio.gather(*(caller.reading for caller in callers), return_exceptions=True)
    assert all(isinstance(end, httpx.HTTPError) for end in ends)
    assert service.held == count
    service.release()
    await settled_books(site, service)
    assert await rows_of(site, service) == {"final": count}
    assert service.count == count


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.full)])
async def test_a_worker_that_is_killed_leaves_a_row_for_each_stream(
    gateway: GatewayProcess, site: Site, server: CountingServer, count: int
) -> None:
    """One that is unconfirmed; the callers get the error event, and the service is not asked for another answer."""
    service = server.service("worker" if count == 4 else "worker-100")
    service.reply = lambda request: held_after("One")
    callers = [asking(gateway, service, number) for number in range(count)]
    await all_have_begun(callers)
    await site.workers[-1].kill()
    service.reply = lambda request: Reply(stream=[token("Another"), *LAST])
    await site.start_workers()
    async with asyncio.timeout(90):
        assert await asyncio.gather(*(caller.reading for caller in callers)) == [200] * count
    service.release()
    for caller in callers:
        assert caller.text.startswith(token("One").encode() + b'data: {"error": {"message": "worker_lost')
        assert b"Another" not in caller.text
    await settled_books(site, service)
    assert await rows_of(site, service) == {"unconfirmed": count}
    assert service.count == count
