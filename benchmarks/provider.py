"""The provider of the benchmarks: a server of chat completions that costs as little as it can.

It runs in a process of its own, so that it takes no time from the client's. `/now/v1` answers at once, `/later/v1`
holds every request until `/release`; `/waiting` says how many it holds. `/tokens/v1` streams `max_tokens` tokens, one
every `seed` milliseconds, each of which is the time of the monotonic clock at which it was sent, in nanoseconds.
"""

import asyncio
import json
import sys
import time
from typing import cast

import uvloop
from pydantic import JsonValue

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "bench-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "answer " * 50}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 60, "total_tokens": 360},
    }
).encode()


_CHUNK: dict[str, JsonValue] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "bench-model",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_BEFORE, _, _AFTER = json.dumps(
    {**_CHUNK, "choices": [{"index": 0, "delta": {"content": "@"}, "logprobs": None, "finish_reason": None}]}
).partition("@")
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _token() -> bytes:
    return _chunked(f"data: {_BEFORE}{time.monotonic_ns()}{_AFTER}\n\n".encode())


def _end_of_stream(tokens: int) -> bytes:
    stop: JsonValue = {**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    used: JsonValue = {"prompt_tokens": 300, "completion_tokens": tokens, "total_tokens": 300 + tokens}
    last: JsonValue = {**_CHUNK, "choices": [], "usage": used}
    text = f"data: {json.dumps(stop)}\n\ndata: {json.dumps(last)}\n\ndata: [DONE]\n\n"
    return _chunked(text.encode()) + b"0\r\n\r\n"


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _Connection(asyncio.Protocol):
    held: set["_Connection"]
    """Of all connections: those whose request waits."""

    def __init__(self, held: set["_Connection"]) -> None:
        self.held = held
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.held.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        self._received = body[length:]
        self._serve(head.split(b" ", 2)[1], body[:length])

    def answer(self) -> None:
        self._transport.write(_response(_ANSWER))

    def _stream(self, tokens: int, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0

        def send() -> None:
            nonlocal sent
            if self._transport.is_closing():
                return
            if sent == tokens:
                self._transport.write(_end_of_stream(tokens))
                return
            self._transport.write(_token())
            sent += 1
            loop.call_at(began + sent * every_s, send)

        self._transport.write(_STREAM_HEAD)
        send()

    def _serve(self, path: bytes, body: bytes) -> None:
        if path == b"/waiting":
            self._transport.write(_response(str(len(self.held)).encode()))
        elif path == b"/release":
            for connection in self.held:
                connection.answer()
            self.held.clear()
            self._transport.write(_response(b"released"))
        elif path.startswith(b"/tokens/"):
            asked = json.loads(body)
            self._stream(asked["max_tokens"], asked["seed"] / 1000)
        elif path.startswith(b"/later/"):
            self.held.add(self)
        else:
            self.answer()


async def _serve() -> None:
    held: set[_Connection] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(held), "127.0.0.1", 0, backlog=2_000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
