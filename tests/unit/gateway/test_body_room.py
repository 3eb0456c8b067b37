"""The bytes of bodies that are held at once: large ones leave something to the small, and nobody waits for nothing."""

import asyncio

import pytest

from paymaster.gateway.body_room import BodyRoom, Place

ROOM = 1024
SMALL, LARGE = 4, 512


async def waits(taking: asyncio.Task[None]) -> bool:
    for _ in range(10):
        await asyncio.sleep(0)
    return not taking.done()


async def place(room: BodyRoom, size: int) -> Place:
    found = Place(room)
    await found.enlarge(size)
    return found


async def test_large_bodies_leave_room_for_small_ones() -> None:
    room = BodyRoom(ROOM)
    await place(room, LARGE)
    large = asyncio.create_task(Place(room).enlarge(LARGE))
    assert await waits(large)
    for _ in range((ROOM - LARGE) // SMALL):
        await place(room, SMALL)
    small = asyncio.create_task(Place(room).enlarge(SMALL))
    assert await waits(small)
    for each in (large, small):
        each.cancel()


async def test_what_is_held_no_longer_is_there_for_the_first_who_waits() -> None:
    room = BodyRoom(ROOM)
    first, second = await place(room, LARGE), Place(room)
    given_up = asyncio.create_task(Place(room).enlarge(LARGE))
    assert await waits(given_up)
    waiting = asyncio.create_task(second.enlarge(LARGE))
    given_up.cancel()
    first.shrink(first.size - 1)
    assert await waits(waiting)
    first.shrink(0)
    await waiting
    assert (first.size, second.size) == (0, LARGE)


@pytest.mark.parametrize("read", [0, SMALL, 100])
async def test_a_body_of_unknown_size_takes_what_it_has_in_the_end(read: int) -> None:
    """Also one that turned out to be larger than a small one."""
    room = BodyRoom(ROOM)
    body = Place(room)
    await body.enlarge(body.small_max)
    await body.enlarge(LARGE)
    body.shrink(read)
    assert body.size == read
    other = await place(room, min(ROOM * 3 // 4 - max(0, read - SMALL), ROOM - read))
    body.shrink(0)
    other.shrink(0)
    await place(room, ROOM * 3 // 4)
