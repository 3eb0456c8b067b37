"""One request, one bill: what the retries of real SDKs come to, wherever their connections are cut."""

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from counting_server import CountingServer, FakeService, Reply
from cutting_proxy import Cut, CuttingProxy
from gateway_process import KEY, GatewayProcess, client_table, running_gateway
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books, until
from sdk_answers import MESSAGE
from sqlalchemy import text
from stored_bodies import stored_bodies

from paymaster.devstack import EmbeddedStack
from paymaster.generations import CallHandle

Ask = Callable[[str, str], Awaitable[str]]
pytestmark = pytest.mark.timeout(120)
OTHER, TIGHT = "gw-of-another-client-0123456789", "gw-of-the-tight-0123456789"
LONG = "x" * 3_000


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    models = {MODEL: {"max_output_tokens": 100, "image_tokens_max": 1_500, "price": PRICE}}
    tables = configuration(
        [server.service(name) for name in ("plain", "sent", "claude", "parking", "patient", "failing")],
        budgets={"acme": {"cap_usd": {"total": "10"}}, "tight": {"cap_usd": {"total": "0.0026"}}},
        service={"models": models},
        only={"claude": {"api": "anthropic"}},
    )
    clients = {"tester": (KEY, "acme"), "other": (OTHER, "acme"), "tight": (TIGHT, "tight")}
    tables["gateway"] = {
        "wait_at_most": "2s",
        "clients": {name: client_table(key, budget) for name, (key, budget) in clients.items()},
    }
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def gateway(site: Site) -> AsyncIterator[GatewayProcess]:
    async with running_gateway(site) as gateway:
        yield gateway


def chat(prompt: str, route: str = "plain") -> dict[str, Any]:
    return {"model": route, "messages": [{"role": "user", "content": prompt}], "max_tokens": 50}


@asynccontextmanager
async def cut_way(gateway: GatewayProcess, *cuts: Cut) -> AsyncGenerator[CuttingProxy]:
    """To the gateway, over connections that end there."""
    proxy = CuttingProxy(gateway.url)
    proxy.cuts.extend(cuts)
    async with proxy.listening():
        yield proxy


async def by_openai(url: str, prompt: str, route: str = "plain", key: str = KEY, **options: Any) -> str:
    """The answer by OpenAI's SDK, with the retries that are its own."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **options) as client:
        answer = await client.chat.completions.create(**chat(prompt, route))
        return answer.choices[0].message.content or ""


async def by_claude(url: str, prompt: str) -> str:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY) as client:
        answer = await client.messages.create(**chat(prompt, "claude"))
        return str(answer.content[0].model_dump()["text"])


def counted(service: FakeService, prompt: str) -> int:
    """How often the provider got it."""
    return sum(request.prompt == prompt for request in service.requests)


async def has_it(service: FakeService, prompt: str) -> None:
    await until(lambda: counted(service, prompt) > 0, "the provider has the request")


async def left(site: Site) -> int:
    """Requests whose callers have gone, or closed their connections at once, and that no retry has taken."""
    async with site.engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM left_requests")) or 0


async def has_left(site: Site, count: int) -> bool:
    return await left(site) == count


async def latest_left(site: Site) -> str:
    """The id of the call of such a request."""
    async with site.engine.connect() as connection:
        return await connection.scalar(text("SELECT call_id FROM left_requests ORDER BY id DESC LIMIT 1")) or ""


async def parked(site: Site) -> int:
    return (await site.ledger.status()).parked


async def are_parked(site: Site, count: int) -> bool:
    return await parked(site) == count


async def paid(site: Site) -> int:
    """Rows of calls that cost something."""
    async with site.engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM api_usage_counted WHERE cost_usd > 0")) or 0


NOT_SENT = [Cut(sent=0), Cut(sent=40), Cut(sent=2_000)]
"""The gateway has none of a request, a piece of its head, and a piece of its body."""
ANSWERED = [Cut(answered=0), Cut(answered=30), Cut(answered=-100), Cut(answered=-1)]
"""Its caller has none of an answer, a piece of its head, a piece of its body, and all but the last byte."""


async def cut_at(gateway: GatewayProcess, cut: Cut, prompt: str, ask: Ask = by_openai) -> str:
    """The answer for a request whose first connection is cut there."""
    async with cut_way(gateway, cut) as proxy:
        answer = await ask(proxy.url, prompt)
        assert proxy.connections == 2, "the SDK has sent it twice"
        return answer


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_a_connection_that_is_cut_costs_nothing_twice(
    gateway: GatewayProcess, site: Site, server: CountingServer, sdk: str
) -> None:
    """At each point of the exchange the SDK sends its request again, and there is one call."""
    service, held, before = server.service("plain"), server.service("sent"), await paid(site)
    ask, sent = (by_openai, partial(by_openai, route="sent"))
    if sdk == "anthropic":
        service = held = server.service("claude")
        service.reply = lambda _: Reply(body=MESSAGE)
        ask = sent = by_claude
    points = {f"{LONG} {number}": cut for number, cut in enumerate([*NOT_SENT, *ANSWERED])}
    await asyncio.gather(*(cut_at(gateway, cut, prompt, ask) for prompt, cut in points.items()))
    assert [counted(service, prompt) for prompt in points] == [1] * len(points)
    held.hold()
    async with cut_way(gateway, Cut(when=partial(has_it, held, "sent"))) as proxy:
        asking = asyncio.create_task(sent(proxy.url, "sent"))
        await until(lambda: proxy.connections == 2, "it is sent again, while the service thinks")
        held.release()
        await asking
    assert counted(held, "sent") == 1
    await settled_books(site)
    assert await paid(site) - before == len(points) + 1


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_a_connection_is_cut_at_many_places(gateway: GatewayProcess, site: Site, server: CountingServer) -> None:
    service, before, places = server.service("plain"), await paid(site), asyncio.Semaphore(20)
    cuts = [Cut(sent=size) for size in range(0, 1_000, 10)] + [Cut(answered=-size) for size in range(1, 700, 7)]

    async def one(number: int, cut: Cut) -> None:
        async with places:
            await cut_at(gateway, cut, f"{LONG} byte {number}")

    await asyncio.gather(*(one(number, cut) for number, cut in enumerate(cuts)))
    assert [counted(service, f"{LONG} byte {number}") for number in range(len(cuts))] == [1] * len(cuts)
    await settled_books(site)
    assert await paid(site) - before == len(cuts)


async def test_nothing_is_parked_for_a_caller_who_has_gone(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """One that does not come back leaves nothing; one that is cut off while its call is parked, and told 429 once, asks
    again, for one call."""
    service = server.service("parking")
    service.hold()
    ask = partial(by_openai, route="parking", key=TIGHT, max_retries=5)
    first = asyncio.create_task(ask(gateway.url, "first"))
    await until(lambda: service.held == 1, "the first has all the money on hold")
    is_parked, before = partial(are_parked, site, 1), await left(site)
    leaving = posted(gateway, "leaving", "parking", TIGHT)
    await until(is_parked, "a call is parked")
    leaving.cancel()
    await until(partial(has_left, site, before + 1), "the gateway has noticed")
    given_up = await CallHandle(site.client, await latest_left(site)).result()
    assert (given_up.reason, given_up.attempts) == ("caller_gone", 0)
    async with cut_way(gateway, Cut(when=partial(until, is_parked, "the second is parked"))) as proxy:
        second = asyncio.create_task(ask(proxy.url, "second"))
        await until(lambda: proxy.connections == 2, "it asks again")
        await until(is_parked, "it is parked once")
        await until(lambda: " 429" in gateway.log(), "it has waited for too long")
        await until(partial(are_parked, site, 0), "nothing is parked behind its back")
        service.release()
        assert [await first, await second] == ["answer to first", "answer to second"]
    assert service.count == 2
    await settled_books(site)


async def test_a_service_that_fails_is_asked_again_for_nothing(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """Of its failures none is billed, and the answer once."""
    service, before = server.service("failing"), await paid(site)
    service.script.extend([Reply(500)] * 3)
    assert await by_openai(gateway.url, "fails", "failing") == "answer to fails"
    assert service.count == 4
    await settled_books(site)
    assert await paid(site) - before == 1


# ------------------------------------------------------------ what a retry attaches to


def posted(
    gateway: GatewayProcess, prompt: str, route: str, key: str = KEY, **headers: str
) -> asyncio.Task[httpx.Response]:
    async def post() -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(
                f"{gateway.url}/v1/chat/completions",
                json=chat(prompt, route),
                headers={"authorization": f"Bearer {key}", **named},
            )

    return asyncio.create_task(post())


async def test_a_retry_gets_what_its_own_client_left_and_once(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """By another gateway too. Another client's, one of another body, and one that does not say so are their own."""
    service = server.service("patient")
    service.hold()
    first = posted(gateway, "left", "patient")
    await until(lambda: service.held == 1, "it is sent")
    waiting = posted(gateway, "left", "patient", x_stainless_retry_count="1")
    await until(lambda: service.held == 2, "nobody gets the call of a caller who waits")
    before = await left(site)
    first.cancel()
    await until(partial(has_left, site, before + 1), "the gateway has noticed")
    async with running_gateway(site, name="another") as another:
        others = [
            posted(another, "left", "patient", OTHER, x_stainless_retry_count="1"),
            posted(another, "left too", "patient", x_stainless_retry_count="1"),
            posted(another, "left", "patient"),
        ]
        await until(lambda: service.held == 5, "these are calls of their own")
        retry = posted(another, "left", "patient", x_stainless_retry_count="1")
        await until(partial(has_left, site, before), "the retry has attached itself")
        service.release()
        answers = await asyncio.gather(waiting, retry, *others)
    assert [answer.status_code for answer in answers] == [200] * 5
    assert service.count == 5
    assert len({answer.headers["x-paymaster-call-id"] for answer in answers}) == 5
    await settled_books(site)


async def test_a_key_with_another_body_is_refused_at_once(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    """Also while the call runs; and a caller with a key gets the call that an earlier one left."""
    service, before = server.service("patient"), server.service("patient").count
    service.hold()
    first = posted(gateway, "keyed", "patient", idempotency_key="k")
    await until(lambda: service.held == 1, "it is sent")
    other = await posted(gateway, "something else", "patient", idempotency_key="k")
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")
    first.cancel()
    again = posted(gateway, "keyed", "patient", idempotency_key="k")
    service.release()
    assert (await again).json()["choices"][0]["message"]["content"] == "answer to keyed"
    assert service.count - before == 1
    await settled_books(site)


async def test_a_detached_call_goes_on_and_is_fetched(
    gateway: GatewayProcess, site: Site, server: CountingServer
) -> None:
    service, before = server.service("patient"), server.service("patient").count
    service.hold()
    told = await posted(gateway, "later", "patient", x_paymaster_detach="true")
    assert (told.status_code, told.json()["paymaster"]["status"]) == (202, "running")
    url = f"{gateway.url}{told.headers['location']}"
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client:
        assert (await client.get(url)).status_code == 202
        service.release()

        async def ended() -> bool:
            return (await client.get(url)).status_code == 200

        await until(ended, "it has ended")
        found = await client.get(url)
        assert found.json()["choices"][0]["message"]["content"] == "answer to later"
        assert found.headers["x-paymaster-call-id"] == told.headers["x-paymaster-call-id"]
        assert (await client.get(f"{url}0")).status_code == 404
        assert (await client.get(url, headers={"authorization": f"Bearer {OTHER}"})).status_code == 404
    assert service.count - before == 1
    await settled_books(site)


# ------------------------------------------------------------ large requests, and no database


def with_image(prompt: str, size: int) -> dict[str, Any]:
    image = base64.b64encode(os.urandom(size * 3 // 4)).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    content = [url, {"type": "text", "text": prompt}]
    return {**chat(prompt), "messages": [{"role": "user", "content": content}]}


async def test_an_image_of_5_mb_is_sent(gateway: GatewayProcess, site: Site, server: CountingServer) -> None:
    """And is not kept when it has been answered."""
    service = server.service("plain")
    service.text = lambda request: "a dog" if isinstance(request.prompt, list) else f"answer to {request.prompt}"
    asked = with_image("What is it?", 5_000_000)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY) as client:
        answer = await client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == "a dog"
    assert service.requests[-1].body["messages"] == asked["messages"]

    async def is_deleted() -> bool:
        return not any(name.startswith("request/") for name in await stored_bodies(site.engine))

    await until(is_deleted, "it is deleted")
    await settled_books(site)


async def test_without_a_database_nothing_is_half_done(
    stack: EmbeddedStack, server: CountingServer, tmp_path: Path
) -> None:
    """A large request is refused, and a retry whose first attempt may have been sent; others are served."""
    service = server.service("alone")
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    tables["gateway"] = {"clients": {"tester": client_table(KEY, "acme")}}
    async with EmbeddedStack(temporal=False, model=False) as database:
        url = await Databases(database.database_url).create()
        async with (
            running_site(stack.temporal_address, url, tmp_path, tables) as site,
            running_gateway(site) as gateway,
        ):
            assert (await posted(gateway, "before", "alone")).status_code == 200
            await database.postgres.stop()
            headers = {"authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(timeout=60, headers=headers) as client:
                large = {**with_image("x", 1_000_000), "model": "alone"}
                refused = await client.post(f"{gateway.url}/v1/chat/completions", json=large)
            retry = await posted(gateway, "again", "alone", x_stainless_retry_count="1")
            for answer in (refused, retry):
                reason = answer.json()["error"]["paymaster"]["reason"]
                assert (answer.status_code, reason) == (503, "database_unreachable")
            assert (await posted(gateway, "small", "alone")).status_code == 200
            assert [request.prompt for request in service.requests] == ["before", "small"]
            await database.postgres.start()
