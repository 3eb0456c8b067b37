"""Whoever reads a wire call's stream along while a worker reads it."""

from asyncio import Timeout
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from paymaster.messages import ServiceCall
from paymaster.providers.answers import headers_given_back
from paymaster.providers.live_answer import LiveAnswer, NotToBeGiven
from paymaster.providers.provider import EVENT_STREAM
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import ServiceSettings

_CONTENT_TYPE = b"content-type"


class Audience(Protocol):
    """Who gets an answer while it comes. It raises nothing."""

    def begin(self, status: int, headers: Mapping[str, str], service: str) -> None:
        """Once, before anything else: how the answer begins."""
        ...

    async def write(self, data: bytes) -> float:
        """The next bytes. The seconds that it took because the reader is slow."""
        ...

    def give_up(self) -> None:
        """The rest is not given."""
        ...


class ReadAlong:
    """Gives an audience what it may have of one answer."""

    def __init__(self, audience: Audience, answer: LiveAnswer, service: str) -> None:
        self._audience = audience
        self._answer = answer
        self._service = service
        self._head: tuple[int, dict[str, str]] | None = None
        """Until the audience has it."""
        self._is_over = False

    @property
    def has_told_error(self) -> bool:
        """Whether the service's own error event was given."""
        return self._answer.has_told_error

    def hearing(
        self, status: int, headers: list[tuple[bytes, bytes]], limit: Timeout
    ) -> Callable[[bytes], Awaitable[None]] | None:
        """What takes the answer piece by piece, and at its end an empty one. None: nobody reads this one along.

        The time for which a slow reader holds it up does not count for `limit`.
        """
        kind = next((value for name, value in headers if name.lower() == _CONTENT_TYPE), b"")
        if not 200 <= status < 300 or not kind.startswith(EVENT_STREAM.encode()):
            return None
        self._head = status, headers_given_back(headers)

        async def hear(data: bytes) -> None:
            held_up_s = await self._hear(data)
            when = limit.when()
            if held_up_s and when is not None:
                limit.reschedule(when + held_up_s)

        return hear

    async def _hear(self, data: bytes) -> float:
        if self._is_over:
            return 0.0
        try:
            given = self._answer.take(data) if data else self._answer.rest()
        except NotToBeGiven:
            self._is_over = True
            if self._head is None:
                self._audience.give_up()
            return 0.0
        if not given:
            return 0.0
        if self._head is not None:
            (status, headers), self._head = self._head, None
            self._audience.begin(status, headers, self._service)
        return await self._audience.write(given)


def read_along(
    call: ServiceCall, asked: ServiceCall, service: ServiceSettings, audience: Audience | None
) -> ReadAlong | None:
    """None: there is no audience, or the answer is written anew when it is whole. `asked`: what the service gets."""
    wire = call.request.wire
    if audience is None or wire is None or asked is not call or PROVIDERS[service.api].stream_type != EVENT_STREAM:
        return None
    return ReadAlong(audience, LiveAnswer(wire), call.grant.service)
