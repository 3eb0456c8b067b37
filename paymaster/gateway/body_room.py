"""The bytes of requests' bodies that the process holds at once, however many send large ones."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

_PLACE = "paymaster.place_of_body"
_SMALL_SHARE = 256
"""A body of up to the 256th part of all is a small one."""


class BodyRoom:
    """Small bodies may take all of it and large ones three quarters, so that large ones never starve the others.

    Of each kind whoever came first gets room first.
    """

    def __init__(self, bytes_max: int) -> None:
        self.small_max = bytes_max // _SMALL_SHARE
        self._free, self._free_for_large = bytes_max, bytes_max * 3 // 4
        self._freed = asyncio.Event()
        self._turns = {is_large: asyncio.Lock() for is_large in (False, True)}

    async def take(self, size: int, *, is_large: bool) -> None:
        """Waits until there is room."""
        async with self._turns[is_large]:
            while size > (min(self._free, self._free_for_large) if is_large else self._free):
                self._freed.clear()
                await self._freed.wait()
            self._add(-size, is_large)

    def give_back(self, size: int, *, is_large: bool) -> None:
        self._add(size, is_large)
        self._freed.set()

    def _add(self, size: int, is_large: bool) -> None:
        self._free += size
        if is_large:
            self._free_for_large += size


class Place:
    """What the body of one request takes of the room."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._taken = {False: 0, True: 0}
        """For a small body, and what a large one needs more."""

    @property
    def size(self) -> int:
        return sum(self._taken.values())

    @property
    def small_max(self) -> int:
        """What has come of a body takes no more than itself up to this size; beyond it, it takes room for all of it."""
        return self._room.small_max

    @property
    def is_large(self) -> bool:
        return self._taken[True] > 0

    async def enlarge(self, size: int) -> None:
        """To this size, as soon as there is room."""
        is_large, more = size > self._room.small_max, size - self.size
        await self._room.take(more, is_large=is_large)
        self._taken[is_large] += more

    def shrink(self, size: int) -> None:
        """To this size, which is no more than it has."""
        for is_large in (True, False):
            less = min(self._taken[is_large], self.size - size)
            self._taken[is_large] -= less
            self._room.give_back(less, is_large=is_large)


class RoomForBodies:
    """Gives each request of an ASGI application a place, which it has until it has been answered."""

    def __init__(self, app: ASGIApp, room: BodyRoom) -> None:
        self._app = app
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = scope[_PLACE] = Place(self._room)
        try:
            await self._app(scope, receive, send)
        finally:
            place.shrink(0)


def place_of(scope: Scope) -> Place:
    """That of a request."""
    return scope[_PLACE]
