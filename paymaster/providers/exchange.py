"""One HTTP attempt at a service: sent once, and judged by whether it may have been billed.

Nothing here or in httpx retries. Whatever goes wrong, `attempt` says how; it raises only what nobody foresaw, and the
cancellation of an attempt of which nothing was sent.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import httpx

from paymaster.keys.api_key import ApiKey, KeySourceDown, KeyUnavailable, KeyWithdrawn, ServiceKeys
from paymaster.messages import KEY_SOURCE_DOWN, Attempt, Billing, Completion, ServiceCall
from paymaster.messages.wire import WireAnswer, packed
from paymaster.providers.answers import ERROR_LENGTH_MAX, TOO_LARGE, Facts, HttpAnswer, Reading, read_answer
from paymaster.providers.built_request import READ_AT_ONCE_MAX, BuiltRequest, asks_shortly, built_request
from paymaster.providers.connections import CONNECT_TIMEOUT_S, Connections
from paymaster.providers.decompression import BodyTooLarge, BodyUnreadable, HeldBody, read_body
from paymaster.providers.http_errors import AUTH, INVALID_REQUEST, STATE_REFUSED, ErrorClass
from paymaster.providers.kept_state import has_states
from paymaster.providers.provider import Outgoing, UnsupportedParameter
from paymaster.providers.reading_along import Audience, ReadAlong, read_along
from paymaster.providers.registry import PROVIDERS, wire_format
from paymaster.providers.translated_calls import as_answered
from paymaster.redaction import redact
from paymaster.settings import ServiceSettings
from paymaster.values.limits import ANSWER_BODY_BYTES_MAX
from paymaster.wire.measured import BadBody

UNSUPPORTED_PARAMETER = ErrorClass("unsupported_parameter", Billing.NOT_BILLED)
UNKNOWN_SERVICE = ErrorClass("unknown_service", Billing.NOT_BILLED, retry=True)
ASKED_OTHERWISE = INVALID_REQUEST._replace(retry=True)
"""The service said how it wants to be asked, and will be."""
LEARNT_MAX = 1_000
"""Models of services of which it is remembered how they want to be asked."""
NO_KEY = ErrorClass("no_key", Billing.NOT_BILLED, trips_breaker=True, alert=True)
SOURCE_DOWN = ErrorClass(KEY_SOURCE_DOWN, Billing.NOT_BILLED, retry=True, trips_breaker=True, alert=True)
KEY_REPLACED = ErrorClass("key_replaced", Billing.NOT_BILLED, retry=True)
NOT_CONNECTED = ErrorClass("not_connected", Billing.NOT_BILLED, retry=True, trips_breaker=True)
SHUT_DOWN = ErrorClass("worker_shutdown", Billing.NOT_BILLED, retry=True)
SHUT_DOWN_SENT = ErrorClass("worker_shutdown", Billing.UNKNOWN)
TIMED_OUT = ErrorClass("timeout", Billing.UNKNOWN, trips_breaker=True)
CUT_OFF = ErrorClass("connection_lost", Billing.UNKNOWN, trips_breaker=True)
DEFECT = ErrorClass("defect", Billing.UNKNOWN)
NOT_SENT = DEFECT._replace(billing=Billing.NOT_BILLED)
"""Nobody foresaw what was raised, but it was before anything left this machine."""

Watched = Callable[[str, str], AbstractContextManager[Callable[[int], None]]]
"""Watches one request from outside, by its method and URL; is told the status of the answer."""


class Tried(NamedTuple):
    """How an attempt went."""

    attempt: Attempt
    error_class: ErrorClass | None = None
    """None: it was answered."""
    completion: Completion | None = None
    """Without its attempts. None: it failed."""
    retry_after_ms: int | None = None
    refusal: WireAnswer | None = None
    """Of a wire call that failed: what the service wrote."""
    has_told_error: bool = False
    """Whoever read along has the service's own error event."""
    ends_call: bool = False
    """Whoever asked has the beginning of the answer, and could have no other one."""


class _Answered(NamedTuple):
    """An answer as it arrived."""

    status: int
    headers: list[tuple[bytes, bytes]]
    held: HeldBody
    unreadable: str | None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Sending:
    """Whether anything of a request has left this machine."""

    def __init__(self) -> None:
        self.sent = False

    async def trace(self, event: str, info: Mapping[str, object]) -> None:
        if event.endswith("send_request_headers.started"):
            self.sent = True


class Exchange:
    """Sends attempts to services."""

    def __init__(
        self,
        services: Mapping[str, ServiceSettings],
        keys: ServiceKeys,
        connections: Connections,
        *,
        watched: Watched,
        is_stopping: Callable[[], bool],
    ) -> None:
        """`is_stopping`: whether a cancellation is the end of this process, and not the wish of whoever asked."""
        self._services = services
        self._keys = keys
        self._connections = connections
        self._watched = watched
        self._is_stopping = is_stopping
        self._learnt: dict[tuple[str, str], ServiceSettings] = {}
        """By service and model, as a refusal said."""
        # One, so that many long answers at a time do not take the interpreter from everything else.
        self._reader = ThreadPoolExecutor(1, "paymaster-answers")

    async def attempt(self, call: ServiceCall, number: int, audience: Audience | None = None) -> Tried:
        """The attempt of this number. Raises CancelledError when it was cancelled before anything was sent."""
        begun, sending = _Begun(number), Sending()
        along: ReadAlong | None = None
        try:
            service = self._service(call)
            key = None if service.key_name is None else await self._key(service.key_name)
            built = await self._built(call, service)
            request = self._request(call, service, key, sending, built)
            along = await self._along(call, built.call, service, audience)
            answer = await self._send(call, service, request, sending, along)
        except _Failed as failed:
            told = along is not None and along.has_told_error
            return begun.failed(failed.error_class, str(failed))._replace(has_told_error=told)
        except Exception as error:
            if sending.sent:
                raise
            return begun.failed(NOT_SENT, f"nothing was sent: {type(error).__name__}")  # its text may hold anything
        reading = await self._read(
            partial(_read_held, call, built.call, service, answer, begun),
            at_once=len(answer.held) <= READ_AT_ONCE_MAX and asks_shortly(call.request),
        )
        error = reading.error
        if error is None:
            return Tried(begun.ended(reading.billing, reading.facts), completion=reading.completion)
        error_class = error.error_class
        if error_class.name == AUTH.name and not answer.is_success and key is not None and service.key_name is not None:
            error_class = await self._after_refusal(service.key_name, key, error_class)
        if error_class == INVALID_REQUEST and self._learns(built.call, service, error.message):
            error_class = ASKED_OTHERWISE
        if error_class.name == STATE_REFUSED.name and error_class.billing is Billing.NOT_BILLED:
            # The next attempt is another request, whatever the service says of this one.
            error_class = error_class._replace(retry=has_states(call.request))
        failed = begun.failed(error_class, error.message, reading.facts, error.retry_after_ms)
        return failed._replace(refusal=reading.refusal, has_told_error=along is not None and along.has_told_error)

    def _service(self, call: ServiceCall) -> ServiceSettings:
        service = self._services.get(call.grant.service)
        if service is None:  # a worker with another configuration file may have it
            raise _Failed(UNKNOWN_SERVICE, f"this worker has no service {call.grant.service!r}")
        return self._learnt.get((call.grant.service, call.grant.model), service)

    def _learns(self, call: ServiceCall, service: ServiceSettings, refusal: str) -> bool:
        """Whether the refusal says how this model wants to be asked; once, so that nobody is asked back and forth."""
        if call.request.wire is not None and not wire_format(call.request.wire, service).takes_other_caps:
            return False
        asked = (call.grant.service, call.grant.model)
        wanted = PROVIDERS[service.api].as_asked(service, refusal)
        if wanted is None or asked in self._learnt or len(self._learnt) >= LEARNT_MAX:
            return False
        self._learnt[asked] = wanted
        return True

    async def _key(self, name: str) -> ApiKey:
        try:
            return await self._keys.get(name)
        except KeyUnavailable as error:
            raise _Failed(SOURCE_DOWN if isinstance(error, KeySourceDown) else NO_KEY, str(error)) from error

    async def _built(self, call: ServiceCall, service: ServiceSettings) -> BuiltRequest:
        """In the thread where that may take long: a schema is written anew for each kind of service, and of a wire call
        the whole body is read."""
        try:
            if asks_shortly(call.request):
                return built_request(call, service)
            return await asyncio.get_running_loop().run_in_executor(self._reader, built_request, call, service)
        except (BadBody, UnsupportedParameter) as error:
            raise _Failed(UNSUPPORTED_PARAMETER, str(error)) from error

    async def _along(
        self, call: ServiceCall, asked: ServiceCall, service: ServiceSettings, audience: Audience | None
    ) -> ReadAlong | None:
        if audience is None or asks_shortly(call.request):
            return read_along(call, asked, service, audience)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, read_along, call, asked, service, audience)

    def _request(
        self, call: ServiceCall, service: ServiceSettings, key: ApiKey | None, sending: Sending, built: BuiltRequest
    ) -> httpx.Request:
        provider, written = PROVIDERS[service.api], built.request
        headers = {"content-type": "application/json"} | written.headers
        outgoing = Outgoing("POST", service.base_url + written.path, headers, written.body)
        if key is not None:
            try:
                headers |= provider.authenticate(outgoing, key.reveal(), service)
            except KeyUnavailable as error:
                raise _Failed(NO_KEY, str(error)) from None
        return self._connections[call.grant.service].build_request(
            outgoing.method,
            outgoing.url,
            headers=headers,
            content=outgoing.body,
            extensions={"trace": sending.trace},
            timeout=_timeout(service, streams=built.streams),
        )

    async def _send(
        self,
        call: ServiceCall,
        service: ServiceSettings,
        request: httpx.Request,
        sending: Sending,
        along: ReadAlong | None,
    ) -> _Answered:
        try:
            return await self._finish_once_sent(self._answer(call, service, request, along), sending)
        except asyncio.CancelledError:
            if not sending.sent and not self._is_stopping():
                raise
            raise _Failed(SHUT_DOWN_SENT if sending.sent else SHUT_DOWN, "the worker was shut down") from None
        except (httpx.TimeoutException, TimeoutError) as error:
            raise _Failed(TIMED_OUT if sending.sent else NOT_CONNECTED, f"{type(error).__name__}: {error}") from error
        except httpx.HTTPError as error:
            raise _Failed(CUT_OFF if sending.sent else NOT_CONNECTED, f"{type(error).__name__}: {error}") from error
        except BodyTooLarge as error:
            raise _Failed(TOO_LARGE, str(error)) from error

    async def _answer(
        self, call: ServiceCall, service: ServiceSettings, request: httpx.Request, along: ReadAlong | None
    ) -> _Answered:
        """The response with its whole body. Raises BodyTooLarge."""
        body, unreadable = HeldBody(), None
        with self._watched(request.method, str(request.url)) as answered:
            async with asyncio.timeout(service.timeout.total_seconds()) as limit:
                response = await self._connections[call.grant.service].send(request, stream=True)
                answered(response.status_code)
                headers = response.headers.raw
                encodings = [value.decode("latin-1") for name, value in headers if name.lower() == b"content-encoding"]
                hear = None if along is None else along.hearing(response.status_code, headers, limit)
                try:
                    body = await read_body(response.aiter_raw(), encodings, ANSWER_BODY_BYTES_MAX, hear)
                except BodyUnreadable as error:
                    unreadable = str(error)
                finally:
                    await response.aclose()
        return _Answered(response.status_code, headers, body, unreadable)

    async def _finish_once_sent(self, answering: Coroutine[None, None, _Answered], sending: Sending) -> _Answered:
        """The response. A cancellation comes too late once the request is sent: the answer is paid for.

        Raises CancelledError when nothing was sent, or when this process stops and cannot wait any longer.
        """
        task = asyncio.ensure_future(answering)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if sending.sent and not self._is_stopping():
                return await task
            task.cancel()
            raise

    async def _read(self, read: Callable[[], Reading], *, at_once: bool) -> Reading:
        """What was answered, whether the call is cancelled meanwhile or not: it is paid for."""
        if at_once:
            return read()
        reading = asyncio.get_running_loop().run_in_executor(self._reader, read)
        while True:
            try:
                return await asyncio.shield(reading)
            except asyncio.CancelledError:
                if reading.cancelled():
                    raise

    async def _after_refusal(self, name: str, key: ApiKey, as_it_is: ErrorClass) -> ErrorClass:
        """What it means that a service refused this key: perhaps only that it was changed since we fetched it."""
        try:
            replaced = await self._keys.replaced(name, key)
        except KeyWithdrawn:
            return as_it_is
        except KeyUnavailable:  # nobody knows; the next attempt asks again
            return as_it_is._replace(retry=True)
        except asyncio.CancelledError:  # too late: what became of the request is known
            return as_it_is
        return KEY_REPLACED if replaced else as_it_is


def _read_held(
    call: ServiceCall, asked: ServiceCall, service: ServiceSettings, answer: _Answered, begun: "_Begun"
) -> Reading:
    whole = HttpAnswer(answer.status, answer.headers, answer.held.whole(), answer.unreadable)
    now_ms = int(time.time() * 1000)
    reading = read_answer(asked, service, whole, started_at_ms=begun.started_at_ms, now_ms=now_ms)
    reading = as_answered(call, asked, reading, begun.number, begun.started_at_ms)
    wire = reading.refusal if reading.completion is None else reading.completion.wire
    if wire is not None:
        packed(wire.body)  # here, where it takes nobody's time; it is kept
    return reading


def lost(number: int, error: Exception) -> Tried:
    """An attempt that ended in a way that nobody foresaw: it may have been sent."""
    return _Begun(number).failed(DEFECT, type(error).__name__)


class _Failed(Exception):
    """The attempt ends here."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class _Begun:
    """An attempt from its beginning on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.started_at_ms = int(time.time() * 1000)
        self._started = time.monotonic()

    def ended(self, billing: Billing, facts: Facts, error: tuple[ErrorClass, str] | None = None) -> Attempt:
        error_class, message = error or (None, None)
        return Attempt(
            number=self.number,
            started_at_ms=self.started_at_ms,
            duration_ms=int((time.monotonic() - self._started) * 1000),
            billing=billing,
            http_status=facts.http_status,
            error_class=None if error_class is None else error_class.name,
            error=message,
            provider_request_id=facts.provider_request_id,
            model_answered=facts.model_answered,
            usage=facts.usage,
            trips_breaker=error_class is not None and error_class.trips_breaker,
            cost_nanos=facts.cost_nanos,
            cost_source=facts.cost_source,
            paid_for=facts.paid_for,
        )

    def failed(
        self, error_class: ErrorClass, message: str, facts: Facts | None = None, retry_after_ms: int | None = None
    ) -> Tried:
        error = error_class, redact(message)[:ERROR_LENGTH_MAX]
        attempt = self.ended(error_class.billing, facts or Facts(), error)
        return Tried(attempt, error_class, retry_after_ms=retry_after_ms)


def _timeout(service: ServiceSettings, *, streams: bool) -> httpx.Timeout:
    """In a stream no silence may be longer than the idle timeout; without one the whole answer is one silence."""
    silence = min(service.idle_timeout, service.timeout) if streams else service.timeout
    return httpx.Timeout(silence.total_seconds(), connect=CONNECT_TIMEOUT_S)
