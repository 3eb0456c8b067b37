"""One request, one bill: which call a request is, and what becomes of the call when its caller goes.

A caller who goes before anything was sent leaves nothing behind. What was sent goes on, since it is paid for, and waits
for the retry that its caller's SDK sends: under its `Idempotency-Key`, or because it says that it is one.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

import paymaster.client
from paymaster.errors import CallDenied, CallIdReused
from paymaster.gateway.asked import AskedCall, Refused, is_own_call, new_call_id
from paymaster.gateway.awaiting import CALLS_PATH, awaited
from paymaster.gateway.clients import ClientTerms
from paymaster.generations import CallHandle, latest_generation
from paymaster.messages import LLMRequest, LLMResult
from paymaster.messages.temporal_names import CALLER_GONE, NOT_WANTED, generation_id
from paymaster.messages.wire import Dialect
from paymaster.storage.call_bodies import delete_bodies
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.left_requests import note_left, take_left
from paymaster.stored_bodies import stored_request
from paymaster.wire.refusals import Told
from paymaster.wire_requests import TemporalUnreachable, Unended, told_by_client

LEAVES_WITHIN_S = 10.0
"""How long the call of a caller who has gone is looked after, when Temporal or the database does not answer."""
_LOOK_AGAIN_S = 2
"""After which a call that runs may be fetched again."""
logger = logging.getLogger(__name__)


class Call:
    """The call of one request, for as long as somebody waits for it."""

    def __init__(self, temporal: Client, asked: AskedCall, client: str) -> None:
        self.request = asked.request
        """What it is started with: it has an id, and perhaps a stored body."""
        self.asked = asked
        self.client = client
        """The name of whoever asks."""
        self.is_told = False
        """Whether its caller gets what became of it."""
        self.has_ended = False
        self.is_unended = False
        """It is answered for, and goes on or was not begun."""
        self._is_given_up = False
        self._temporal = temporal
        self._starting: asyncio.Future[WorkflowHandle[object, LLMResult]] | None = None

    @property
    def is_stored(self) -> bool:
        """Whether its body is in the database, and not here."""
        return self.request.wire is not None and self.request.wire.stored is not None

    async def told(self, within: timedelta) -> Told:
        """The response to it; of a detached one that has not ended within that time, where to fetch it.

        Raises TemporalUnreachable.
        """
        try:
            async with asyncio.timeout(within.total_seconds() if self.asked.detached else None):
                return await told_by_client(self._temporal, self.result(), self.asked.dialect, may_wait_again=True)
        except TimeoutError:
            return _under_way(self.request.call_id or "")

    async def result(self) -> LLMResult:
        """Of the call, which is started or found under its id.

        Raises CallIdReused, Unended, and what Temporal's client does.
        """
        try:
            result = await self._wanted_result()
        except Unended:
            self.is_unended = True
            raise
        self.has_ended = True
        return result

    async def _wanted_result(self) -> LLMResult:
        while True:
            starting = paymaster.client.start(self._temporal, self.request, id_is_drawn=self.asked.id_is_drawn)
            self._starting = asyncio.ensure_future(starting)
            try:
                handle = await asyncio.shield(self._starting)
            except CallDenied as error:
                return error.result
            if isinstance(handle, CallHandle) and handle.result_run_id is None:
                await self._check_that_it_is(handle)
            result = await awaited(handle, self.asked, self.give_up)
            if result.reason != NOT_WANTED or self._is_given_up:
                return result
            # It was given up for an earlier caller, and this one wants it.

    async def _check_that_it_is(self, handle: CallHandle) -> None:
        """Raises CallIdReused where the call, which was there already, asks for something else."""
        if (await handle.asked()).digest() != self.request.digest():
            raise CallIdReused(self.request.call_id or "")

    async def give_up(self) -> None:
        """Has it voided where nothing was sent, also when only its start is under way. Raises nothing of Temporal's."""
        self._is_given_up = True
        if self._starting is not None:
            with suppress(RPCError, RuntimeError, CallDenied, CallIdReused):
                await (await self._starting).signal(CALLER_GONE.name)


class Once:
    """What the gateway remembers of requests, so that each is billed once."""

    def __init__(self, temporal: Client, engine: AsyncEngine | None, ledger: str) -> None:
        """`engine` None: there is no database; retries are calls of their own, and large requests are refused."""
        self._temporal = temporal
        self._engine = engine
        self._ledger = ledger
        self._noting = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def call(self, asked: AskedCall, client: ClientTerms) -> AsyncGenerator[Call]:
        """The call that this request is. It is left when the block ends before it is told.

        Raises Refused, TemporalUnreachable.
        """
        call = await self._begun(asked, client)
        del asked  # a large body is not held any longer
        try:
            yield call
        finally:
            if call.is_unended:
                self._begin(self._leave(call))
            elif not call.is_told:
                await asyncio.shield(self._begin(self._leave(call)))
            elif call.has_ended:
                self.ended(call)

    def ended(self, call: Call) -> None:
        """What was stored for it is not needed any more."""
        if call.request.wire is not None and call.request.wire.stored is not None:
            self._begin(self._delete(call.request.wire.stored.reference))

    def lost(self, call: Call) -> None:
        """Its answer was told, and perhaps did not arrive: the connection was closed at once."""
        self._begin(self._note(call))

    async def found(self, call_id: str, client: ClientTerms, dialect: Dialect) -> Told:
        """What became of a call of this client. Raises Refused, TemporalUnreachable."""
        try:
            handle = None if not is_own_call(client, call_id) else await self._newest(call_id)
            if handle is None:
                raise Refused("unknown_call", f"the client {client.name} has no call {call_id!r}, or has it no more")
            if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                return _under_way(call_id)
        except (RPCError, RuntimeError) as error:
            raise TemporalUnreachable(f"Temporal cannot be reached: {error}") from error
        return await told_by_client(self._temporal, handle.result(), dialect)

    async def _newest(self, call_id: str) -> CallHandle | None:
        try:
            await CallHandle(self._temporal, call_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return CallHandle(self._temporal, generation_id(call_id, await latest_generation(self._temporal, call_id)))

    async def _begun(self, asked: AskedCall, client: ClientTerms) -> Call:
        """Raises Refused, TemporalUnreachable; then the next retry finds what this one would have had."""
        left = None if asked.request.call_id else await self._left(asked, client)
        known = asked.request.call_id or left
        request = asked.request.model_copy(update={"call_id": known or new_call_id(client)})
        asked = asked._replace(request=request, id_is_drawn=known is None)
        try:
            return Call(self._temporal, asked._replace(request=await self._request(asked.request)), client.name)
        except (Refused, TemporalUnreachable):
            if left is not None:
                await asyncio.shield(self._begin(self._note(Call(self._temporal, asked, client.name))))
            raise

    async def _request(self, request: LLMRequest) -> LLMRequest:
        """Raises Refused, TemporalUnreachable."""
        try:
            if self._engine is not None:
                return await stored_request(self._temporal, self._engine, self._ledger, request)
        except DATABASE_ERRORS as error:
            raise _no_database("a request as large as this is stored", error) from error
        except (RPCError, RuntimeError) as error:
            raise TemporalUnreachable(f"Temporal cannot be reached: {error}") from error
        return request

    async def _left(self, asked: AskedCall, client: ClientTerms) -> str | None:
        """The call of an earlier request that this one repeats, by its own word. Raises Refused."""
        if self._engine is None or asked.repeats == 0:
            return None
        try:
            digest = await asyncio.to_thread(asked.request.digest)  # of a large body it takes a while
            return await take_left(self._engine, self._ledger, client.name, digest)
        except DATABASE_ERRORS as error:
            raise _no_database("whether an earlier request was sent is looked up", error) from error

    async def _leave(self, call: Call) -> None:
        """First what its retry looks for, since that may come at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVES_WITHIN_S):
                await self._note(call)
                if not (call.asked.keeps or call.asked.detached):
                    await call.give_up()

    async def _note(self, call: Call) -> None:
        """Not of one that has a key of its caller's: its retry has the key too."""
        if self._engine is None or call.asked.keeps or call.request.call_id is None:
            return
        try:
            await note_left(self._engine, self._ledger, call.client, call.request.digest(), call.request.call_id)
        except DATABASE_ERRORS as error:
            logger.warning("a retry of call %s will be a call of its own: %s", call.request.call_id, error)

    async def _delete(self, reference: str) -> None:
        """A body that was sent. If this fails, a sweep does it."""
        if self._engine is not None:
            with suppress(*DATABASE_ERRORS):
                await delete_bodies(self._engine, [reference])

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Goes on when whoever began it is cancelled."""
        task = asyncio.create_task(work)
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)
        return task


def _under_way(call_id: str) -> Told:
    """The response for who asks for a call that has not ended."""
    url = f"{CALLS_PATH}/{call_id}"
    body = {"paymaster": {"call_id": call_id, "status": "running", "url": url}}
    headers = {"content-type": "application/json", "location": url, "retry-after": str(_LOOK_AGAIN_S)}
    return Told(202, {**headers, "x-paymaster-call-id": call_id}, json.dumps(body).encode())


def _no_database(why: str, error: Exception) -> Refused:
    logger.warning("the database does not answer: %s", error)
    return Refused("database_unreachable", f"the database does not answer, and {why} there; nothing is begun")
