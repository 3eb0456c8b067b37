"""The provider of the benchmarks: a server of chat completions that costs as little as it can.

It runs in a process of its own, so that it takes no time from the client's. `/now/v1` answers at once, `/later/v1`
holds every request until `/release`; `/waiting` says how many it holds.
"""

import asyncio
import json
import sys

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


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _Connection(asyncio.Protocol):
    held: set["_Connection"]
    """Of all connections: those whose request waits."""

    def __init__(self, held: set["_Connection"]) -> None:
        self.held = held
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

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
        self._serve(head.split(b" ", 2)[1])

    def answer(self) -> None:
        self._transport.write(_response(_ANSWER))

    def _serve(self, path: bytes) -> None:
        if path == b"/waiting":
            self._transport.write(_response(str(len(self.held)).encode()))
        elif path == b"/release":
            for connection in self.held:
                connection.answer()
            self.held.clear()
            self._transport.write(_response(b"released"))
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
    asyncio.run(_serve())
