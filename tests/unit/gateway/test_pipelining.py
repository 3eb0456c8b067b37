"""Requests behind each other on one connection, whose caller goes away."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from bounded_server import bounded_server, caller
from paymaster_process import until
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from paymaster.gateway.connections import when_cut


class Turns:
    """Answers each request when the test says so, or its caller has gone."""

    def __init__(self) -> None:
        self.began = list[str]()
        self.cut = list[str]()
        self.gone = list[str]()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, name = Request(scope, receive), scope["path"]
        self.began.append(name)
        await request.body()
        gone, answered = asyncio.create_task(self._gone(receive)), asyncio.create_task(self.may_answer.wait())
        await asyncio.wait([gone, answered], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            self.gone.append(name)
        self.may_answer.clear()
        when_cut(request, lambda: self.cut.append(name))
        gone.cancel()
        answered.cancel()
        await PlainTextResponse(name)(scope, receive, send)

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def has_begun(app: Turns, count: int) -> bool:
    return len(app.began) == count


def post(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}".encode()


@asynccontextmanager
async def asking(app: ASGIApp, *paths: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Requests that are sent at once, on one connection."""
    async with bounded_server(app) as port, caller(port) as (reader, writer):
        writer.write(b"".join(map(post, paths)))
        yield reader, writer


async def test_requests_behind_each_other_are_answered_in_turn() -> None:
    app = Turns()
    async with asking(app, "/1", "/2", "/3") as (reader, _):
        for count in (1, 2, 3):
            await until(partial(has_begun, app, count), "its turn")
            app.may_answer.set()
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(2) == f"/{count}".encode()


async def test_a_caller_who_goes_is_noticed_by_the_request_under_way() -> None:
    """What waits behind it is not begun: nobody would get its answer."""
    app = Turns()
    async with asking(app, "/1", "/2", "/3") as (_, writer):
        await until(lambda: app.began == ["/1"], "the first is under way")
        writer.transport.abort()
        await until(lambda: app.gone == ["/1"], "it notices")
    assert app.began == ["/1"]


async def test_of_a_connection_that_is_cut_each_answer_may_be_lost() -> None:
    """The one before too: the request that follows was sent before anybody knew of it."""
    app = Turns()
    async with asking(app, "/1", "/2") as (_, writer):
        await until(lambda: app.began == ["/1"], "the first is under way")
        app.may_answer.set()
        await until(lambda: app.began == ["/1", "/2"], "it is answered")
        writer.transport.abort()
        await until(lambda: app.gone == ["/2"], "the second notices")
    assert app.cut == ["/1"]


async def test_who_asks_again_has_the_answer_before() -> None:
    app = Turns()
    async with asking(app, "/1") as (reader, writer):
        await until(lambda: app.began == ["/1"], "the first is under way")
        app.may_answer.set()
        await reader.readuntil(b"\r\n\r\n/1")
        writer.write(post("/2"))
        await until(lambda: app.began == ["/1", "/2"], "it asks again")
        writer.transport.abort()
        await until(lambda: app.gone == ["/2"], "the second notices")
    assert app.cut == []
