"""Requests whose bodies are stored, with their bodies: how activities get them, a bounded number of bytes at once."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.converter import PayloadCodec

from paymaster.keys.api_key import KeyUnavailable
from paymaster.messages import LLMRequest, StoredBody
from paymaster.messages.temporal_names import DEFAULT_LEDGER
from paymaster.storage.call_bodies import give_body_to
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.stored_bodies import read_body
from paymaster.values.limits import REQUEST_BODIES_BYTES_MAX


class BodyOutOfReach(Exception):
    """A body cannot be had now: the database does not answer, or this worker has too many others in its memory."""


class RequestBodies:
    def __init__(
        self,
        engine: AsyncEngine | None = None,
        ledger: str = DEFAULT_LEDGER,
        codec: PayloadCodec | None = None,
        bytes_max: int = REQUEST_BODIES_BYTES_MAX,
    ) -> None:
        """`engine` None: there is no database, and a request whose body is stored cannot be read."""
        self._engine = engine
        self._ledger = ledger
        self._codec = codec
        self._free = bytes_max
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def whole(self, request: LLMRequest, within_s: float) -> AsyncGenerator[LLMRequest]:
        """The request with its body in it, for as long as the block runs.

        Raises BodyGone; BodyOutOfReach when there was no room for it, or no answer, for so long.
        """
        if request.wire is None or request.wire.stored is None:
            yield request
            return
        body = request.wire.stored
        try:
            async with asyncio.timeout(within_s):
                await self._take_room(body.size)
        except TimeoutError:
            raise BodyOutOfReach("this worker has too many large requests in its memory") from None
        try:
            wire = request.wire.model_copy(update={"body": await self._read(body), "stored": None})
            yield request.model_copy(update={"wire": wire})
        finally:
            self._free += body.size
            self._freed.set()

    async def belongs_to(self, request: LLMRequest, workflow_id: str) -> None:
        """Has the stored body kept for as long as this workflow runs, which may be a later generation of its call.

        Raises BodyOutOfReach.
        """
        if self._engine is not None and request.wire is not None and request.wire.stored is not None:
            with _database():
                await give_body_to(self._engine, self._ledger, request.wire.stored, workflow_id)

    async def _take_room(self, size: int) -> None:
        async with self._turn:  # who came first, so that a large one is not passed by small ones for ever
            while self._free < size:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size

    async def _read(self, body: StoredBody) -> bytes:
        if self._engine is None:
            raise BodyOutOfReach("this worker has no database")
        with _database():
            return await read_body(self._engine, self._ledger, self._codec, body)


@contextmanager
def _database() -> Generator[None]:
    try:
        yield
    except (*DATABASE_ERRORS, KeyUnavailable) as error:
        raise BodyOutOfReach(f"{type(error).__name__}: {error}") from error
