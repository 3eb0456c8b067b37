"""The provider of the tests: a server of chat completions on loopback that counts, holds back and fails on purpose.

It speaks HTTP over real sockets from a thread of its own. Each `FakeService` is one provider below the same address,
with its own behaviour and its own count, so that tests which share a worker do not share numbers.
"""

import asyncio
import hashlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from loopback_server import LoopbackServer

from paymaster.values.money import Price, TokenUsage


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    number: int
    """Counted from 1 for each service."""
    at_s: float
    """On the monotonic clock."""
    key_sha256: str | None
    """Of the value of the Authorization header. None: there was none."""
    body: Mapping[str, Any]
    authorization: str = field(repr=False, default="")
    path: str = ""
    headers: Mapping[str, str] = field(repr=False, default_factory=dict[str, str])
    """By their names in lower case."""
    content: bytes = field(repr=False, default=b"")
    """The body as it came."""

    @property
    def prompt(self) -> str:
        """The last message."""
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Reply:
    """What one request gets. The default is an answer with the service's usage."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    message: str = "scripted"
    """Of the error, in the form of an OpenAI error body."""
    free: bool = False
    """Nothing is billed for it, as for counted tokens."""
    body: bytes | Callable[[Received], bytes] | None = None
    """The whole body, instead of an answer or an error."""
    cut: bool = False
    """The connection is closed instead of an answer. With status 200 the provider bills it all the same."""
    reset: bool = False
    """The connection is closed without good order: the client gets a TCP reset."""
    raw: bytes | None = None
    """What goes over the wire, head and all, whether or not it is HTTP; then the connection is closed."""
    stream: Sequence[str | bytes | float | None] | None = None
    """The body in pieces, instead of an answer; a number is a pause in seconds, None one until `release`. With `cut`
    the connection is closed after them, without the end that HTTP wants."""
    stream_type: str = "text/event-stream"


ANSWER = Reply()
_PATHS = ("v1/chat/completions", "v1/responses", "v1/embeddings", "v1/messages", "v1/model", "v1/publishers/")


class FakeService:
    """One provider: the requests that it got, and what it does with the next ones."""

    def __init__(self, name: str, base_url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.base_url = base_url
        self.requests: list[Received] = []
        self.script: deque[Reply] = deque()
        """The replies to the next requests, in the order in which they arrive; after them `reply` decides."""
        self.reply: Callable[[Received], Reply] = lambda request: ANSWER
        self.usage: Callable[[Received], TokenUsage] = lambda request: TokenUsage(input_tokens=12, output_tokens=5)
        self.text: Callable[[Received], str] = lambda request: f"answer to {request.prompt}"
        self.in_flight = 0
        self.in_flight_max = 0
        self.answered = 0
        """Requests that got their whole answer, an error or a cut one included."""
        self.billed: list[TokenUsage] = []
        """What the provider charges for, whether or not the answer arrived."""
        self._loop = loop
        self._holding = False
        self._held: deque[asyncio.Event] = deque()

    @property
    def count(self) -> int:
        """How many requests arrived."""
        return len(self.requests)

    @property
    def held(self) -> int:
        """How many requests wait to be released."""
        return len(self._held)

    def bill_nanos(self, price: Price) -> int:
        """What all that is billed costs."""
        return sum(price.cost_nanos(usage) for usage in list(self.billed))

    def hold(self) -> None:
        """From now on every request waits to be released, in the order of arrival."""
        self._call(self._set_holding, True)

    def release(self, count: int | None = None) -> None:
        """Lets the first `count` held requests go on; None: all of them, and those that come later are not held."""
        self._call(self._release, count)

    def _set_holding(self, holding: bool) -> None:
        self._holding = holding

    def _release(self, count: int | None) -> None:
        if count is None:
            self._holding = False
        for _ in range(len(self._held) if count is None else count):
            self._held.popleft().set()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        done: Future[None] = Future()

        def run() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(timeout=10)

    async def decide(self, request: Received) -> tuple[Reply, TokenUsage]:
        """What the request gets, once it is released. Called in the server's thread."""
        self.requests.append(request)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            reply = self.script.popleft() if self.script else self.reply(request)
            usage = self.usage(request)
            if reply.status == 200 and not reply.free:
                self.billed.append(usage)
            if self._holding:
                await self.wait_for_release()
            return reply, usage
        finally:
            self.in_flight -= 1

    async def wait_for_release(self) -> None:
        """Called in the server's thread."""
        released = asyncio.Event()
        self._held.append(released)
        await released.wait()

    def next_request(self, path: str, headers: Mapping[str, str], content: bytes) -> Received:
        authorization = headers.get("authorization")
        key = None if authorization is None else hashlib.sha256(authorization.encode()).hexdigest()
        number, body = len(self.requests) + 1, json.loads(content)
        return Received(number, time.monotonic(), key, body, authorization or "", path, headers, content)


class CountingServer:
    """`with CountingServer() as server:` runs it; `server.service("name")` is a provider with its own address."""

    def __init__(self) -> None:
        self._services: dict[str, FakeService] = {}
        self._server = LoopbackServer(self._serve_one)
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="counting server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._stop, self._port = self._started.result(timeout=10)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def service(self, name: str) -> FakeService:
        """The provider of this name, made at the first use."""
        if name not in self._services:
            self._services[name] = FakeService(name, f"http://127.0.0.1:{self._port}/{name}/v1", self._loop)
        return self._services[name]

    async def _run(self) -> None:
        stop = asyncio.Event()
        await self._server.listen()
        self._started.set_result((asyncio.get_running_loop(), stop, self._server.port))
        await stop.wait()
        await self._server.refuse()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        content = await reader.readexactly(int(headers["content-length"]))
        name, _, rest = path.removeprefix("/").partition("/")
        service = self._services.get(name)
        if service is None or not rest.startswith(_PATHS):
            await _write(writer, 404, {}, b'{"error": {"message": "no such path"}}')
            return True
        request = service.next_request(path, headers, content)
        reply, usage = await service.decide(request)
        service.answered += 1
        if reply.stream is not None:
            await _write_stream(writer, service, reply, whole=not (reply.cut or reply.reset))
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
        if reply.reset:
            linger_for_nothing = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
        if reply.cut or reply.reset:
            writer.transport.abort()
        if reply.cut or reply.reset or reply.raw is not None:
            return False
        if reply.stream is not None:
            return True
        await _write(
            writer,
            reply.status,
            {"x-request-id": f"{name}-{request.number}", **reply.headers},
            _body(service, request, reply, usage),
        )
        return True


def _body(service: FakeService, request: Received, reply: Reply, usage: TokenUsage) -> bytes:
    if reply.body is not None:
        return reply.body(request) if callable(reply.body) else reply.body
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.message, "type": "scripted", "code": None}}).encode()
    answer = {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{request.body['model']}-2026-01-01",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": service.text(request)},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        },
    }
    return json.dumps(answer).encode()


async def _write_stream(writer: asyncio.StreamWriter, service: FakeService, reply: Reply, *, whole: bool) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {reply.stream_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    for piece in reply.stream or ():
        if piece is None:
            await service.wait_for_release()
        elif isinstance(piece, str | bytes):
            data = piece.encode() if isinstance(piece, str) else piece
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
        else:
            await asyncio.sleep(piece)
    if whole:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _write(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes) -> None:
    lines = [f"HTTP/1.1 {status} status", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()


# ---------------------------------------------------------------- where alerts go


class Webhook:
    """Takes alerts by POST on loopback, in the tests' own event loop, and can be down in several ways.

    `async with Webhook() as webhook:` reserves a port; until `listen` nobody answers there.
    """

    def __init__(self) -> None:
        self.took: list[dict[str, Any]] = []
        """The documents that got a 200 or 202, in order."""
        self.refused = 0
        """The POSTs that got another answer, or none in time."""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answers_after_s = 0.0
        self._server = LoopbackServer(self._serve_one)
        self.listen = self._server.listen
        self.refuse = self._server.refuse

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/alerts"

    @property
    def ids(self) -> list[str]:
        return [document["id"] for document in self.took]

    async def __aenter__(self) -> Self:
        await self.listen()
        await self.refuse()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.refuse()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        await self._answer(json.loads(await reader.readexactly(length)), writer)
        return True

    async def _answer(self, document: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.refused += 1
        if self.answers_after_s:
            await asyncio.sleep(self.answers_after_s)
        await _write(writer, self.status, self.headers, b"ok")
        if self.status in (200, 202):
            self.refused -= 1
            self.took.append(document)
