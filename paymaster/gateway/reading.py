"""Reading a request, within its bounds, and noticing that whoever sent it has gone."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from paymaster.gateway.asked import Refused
from paymaster.gateway.body_room import Place, place_of
from paymaster.settings import GatewaySettings
from paymaster.values.durations import format_duration

T = TypeVar("T")
ROOM_WITHIN_S = 5.0
"""How long a body waits until others are held no longer."""
PACE_S = 10.0
_BYTES_A_SECOND_MIN = 64 * 1024
"""Of a large body, over each `PACE_S`: what has room that others wait for must come."""
_READ = "body_was_read"
_DRAINED_WITHIN_S = 5.0
"""Of a body that nobody reads: a connection that is closed with it unread may lose the answer on its way."""


class CallerGone(Exception):
    """Nobody is there any more to be answered."""


def check_headers(request: Request, settings: GatewaySettings) -> None:
    """Raises Refused."""
    if "key" in request.query_params:
        detail = "a key in a URL is written into logs: send it as a header"
        raise Refused("bad_request", detail)
    size = len(request.scope["raw_path"]) + sum(len(name) + len(value) for name, value in request.headers.raw)
    if size > settings.header_bytes_max:
        detail = f"the headers have {size:,} bytes and may have {settings.header_bytes_max:,}"
        raise Refused("headers_too_large", detail)


async def read_body(request: Request, settings: GatewaySettings) -> bytes:
    """The body, which takes room as it comes, until the request has been answered, or `let_go` is called.

    Raises Refused for one that is too large, does not come in time, or finds no room, and CallerGone.
    """
    bytes_max, encoding = settings.body_bytes_max, request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused("bad_request", f"a body with content-encoding {encoding!r} is not read: send it as it is")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > bytes_max:
        raise _too_large(int(announced), bytes_max)
    place, body = place_of(request.scope), bytearray()
    try:
        await _read_into(body, request, place, int(announced) if announced.isdecimal() else bytes_max, settings)
    except BaseException:
        body.clear()  # its request may still be answered for a while
        place.shrink(0)
        raise
    setattr(request.state, _READ, True)
    place.shrink(len(body))
    return bytes(body)


async def _read_into(body: bytearray, request: Request, place: Place, size_max: int, settings: GatewaySettings) -> None:
    """Raises Refused and CallerGone. `size_max`: bytes that it may have, by its own word or the settings."""
    loop, due = asyncio.get_running_loop(), 0
    ends = loop.time() + settings.body_within.total_seconds()
    try:
        async with asyncio.timeout_at(ends) as clock:
            async for piece in request.stream():
                body += piece
                if len(body) > settings.body_bytes_max:
                    raise _too_large(len(body), settings.body_bytes_max)
                if len(body) > place.size:
                    await _enlarge(place, len(body) if len(body) <= place.small_max else size_max, settings)
                if place.is_large and len(body) >= due:
                    due = len(body) + int(PACE_S * _BYTES_A_SECOND_MIN)
                    clock.reschedule(min(ends, loop.time() + PACE_S))
    except TimeoutError:
        within = f"came with less than {_BYTES_A_SECOND_MIN // 1024} KB a second, which a large one must not"
        if loop.time() >= ends:
            within = f"did not come within {format_duration(settings.body_within)}"
        raise Refused("body_too_slow", f"the body {within}") from None
    except ClientDisconnect:
        raise CallerGone from None


def let_go(request: Request) -> None:
    """Says that its body is held no longer."""
    place_of(request.scope).shrink(0)


def body_was_read(request: Request) -> bool:
    """Whether the whole body has come, so that the connection can be used again."""
    return getattr(request.state, _READ, False)


async def drain(request: Request, bytes_max: int) -> bool:
    """Reads what is left of a body that nobody wants. False: there is too much of it, or it does not come."""
    size = 0
    try:
        async with asyncio.timeout(_DRAINED_WITHIN_S):
            while (message := await request.receive())["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > bytes_max:
                    return False
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, which is cancelled when whoever sent the request goes. The body has been read.

    Raises CallerGone.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():  # also where there is an answer: nobody would get it
            raise CallerGone
        return working.result()
    finally:
        watching.cancel()
        working.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await working


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _enlarge(place: Place, size: int, settings: GatewaySettings) -> None:
    """Raises Refused."""
    try:
        async with asyncio.timeout(ROOM_WITHIN_S):
            await place.enlarge(size)
    except TimeoutError:
        room = f"all {settings.bodies_bytes_max:,} bytes that the gateway has for requests' bodies"
        raise Refused("bodies_full", f"{room} (gateway.bodies_bytes_max) are taken; nothing is begun") from None


def _too_large(size: int, bytes_max: int) -> Refused:
    return Refused("request_too_long", f"the body has at least {size:,} bytes and may have {bytes_max:,}")
