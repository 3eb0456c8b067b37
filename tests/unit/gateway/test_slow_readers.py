"""Callers who take nothing of their answers, or little."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from bounded_server import FEW_BYTES, Certificate, bounded_server, caller, certificate
from paymaster_process import until
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from paymaster.gateway import connections
from paymaster.gateway.connections import when_cut

ASKED = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
ASKED_ONCE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
PIECE = b"x" * 64 * 1024
LARGE = 128 * len(PIECE)
"""More than the kernel takes."""
BYTES_A_SECOND = 400_000
"""Linux opens the window of a reader who is behind by a sixteenth of its buffer, which may have 6 MB, at a time."""
SEND_TIMEOUT_S = 0.5
A_WHILE_S = 2.2
"""Longer than it is doubted that an answer which went out has arrived."""


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, certified: Certificate) -> Certificate | None:
    return certified if request.param == "https" else None


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOKED_AT_EVERY_S", 0.1)


class Answers:
    """A large answer for each request, complete or streamed, and whether all of it was taken."""

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams
        self.ended = list[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, name = Request(scope, receive), scope["path"]
        when_cut(request, lambda: self.ended.append(f"{name} cut"))
        whole = PlainTextResponse(PIECE * (LARGE // len(PIECE)))
        await (StreamingResponse(self._pieces()) if self._streams else whole)(scope, receive, send)
        self.ended.append(name)

    async def _pieces(self) -> AsyncGenerator[bytes]:
        for _ in range(LARGE // len(PIECE)):
            yield PIECE


@pytest.mark.parametrize("asked", [ASKED, ASKED_ONCE])
@pytest.mark.parametrize("streams", [False, True])
async def test_one_who_takes_nothing_is_left(tls: Certificate | None, asked: bytes, streams: bool) -> None:
    app = Answers(streams=streams)
    serving = bounded_server(app, tls, send_timeout_s=SEND_TIMEOUT_S, send_buffer=FEW_BYTES)
    async with serving as port, caller(port, tls) as (reader, writer):
        writer.write(asked)
        await until(lambda: "/ cut" in app.ended, "it is cut")
        arrived = 0
        try:
            while data := await reader.read(LARGE):
                arrived += len(data)
        except OSError:
            pass
        assert 0 < arrived < LARGE


@pytest.mark.parametrize("streams", [False, True])
async def test_one_who_takes_little_has_all(tls: Certificate | None, streams: bool) -> None:
    """So little that for longer than it may take nothing the kernel alone has enough for it."""
    app, arrived, loop = Answers(streams=streams), 0, asyncio.get_running_loop()
    serving = bounded_server(app, tls, send_timeout_s=4 * SEND_TIMEOUT_S)
    async with serving as port, caller(port, tls) as (reader, writer):
        writer.write(ASKED)
        await reader.readuntil(b"\r\n\r\n")
        began = loop.time()
        while (lasts_s := loop.time() - began) < 10 * SEND_TIMEOUT_S:
            while arrived < lasts_s * BYTES_A_SECOND:
                arrived += len(await reader.read(4 * 1024))
            await asyncio.sleep(0.02)
        assert arrived < LARGE / 2
        while arrived < LARGE:
            arrived += len(data := await reader.read(LARGE - arrived))
            assert data, f"cut after {arrived:,} bytes"
        await until(lambda: app.ended[:1] == ["/"], "it has ended")


async def test_one_who_goes_before_all_has_gone_out_may_ask_again(tls: Certificate | None) -> None:
    """Also long after the answer was written: it is still here."""
    app = Answers(streams=False)
    async with bounded_server(app, tls, send_buffer=FEW_BYTES) as port, caller(port, tls) as (reader, writer):
        writer.write(ASKED)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(A_WHILE_S)
        assert app.ended == ["/"]
        writer.transport.abort()
        await until(lambda: app.ended == ["/", "/ cut"], "it is told")
