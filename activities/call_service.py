"""call_service: one HTTP request under one hold, classified by whether it may have been billed.

Retries are Temporal's, by the RetryPolicy that the workflow declares; nothing here or in httpx retries. What is added
here to each failure is how long to wait: as the policy says with jitter, or as the service asked. Only an attempt that
certainly was not billed fails retryably, so that at most one attempt under a hold can cost money.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import httpcore
import httpx
from pydantic_core import to_json
from temporalio import activity
from temporalio.exceptions import ApplicationError

from paymaster.keys.api_key import ApiKey, KeySourceDown, KeyUnavailable, KeyWithdrawn, ServiceKeys
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.messages import (
    BILLED,
    KEY_SOURCE_DOWN,
    NOT_BILLED,
    UNKNOWN_OUTCOME,
    Attempt,
    AttemptReport,
    Billing,
    Completion,
    Failure,
    ServiceCall,
)
from paymaster.observability.measurements import http_request
from paymaster.providers.answers import ERROR_LENGTH_MAX, TOO_LARGE, HttpAnswer, Reading, read_answer
from paymaster.providers.decompression import ACCEPT_ENCODING, BodyTooLarge, BodyUnreadable, read_body
from paymaster.providers.http_errors import AUTH, ErrorClass
from paymaster.providers.registry import WIRE_FORMATS, auth_headers, streams
from paymaster.providers.retries import retry_delay
from paymaster.providers.tls import tls_context
from paymaster.providers.wire_format import UnsupportedParameter
from paymaster.redaction import redact
from paymaster.settings import ServiceSettings
from paymaster.values.limits import DURATION_MS_MAX, HEADERS_BYTES_MAX

HEARTBEAT_EVERY_S = 3.0
"""Of which the SDK passes on one every 8 s at most (`worker.py`), so that one lost heartbeat costs nothing.

By the clock and not as tokens come: a heartbeat says that this worker lives, which a service that thinks in silence for
a minute must not put in doubt. How long the service may be silent is what its `idle_timeout` says."""
CONNECTIONS_MAX = 1_000
"""For each service and process; how many calls run at once is decided by the ledger, not here."""
BODY_BYTES_MAX = 8_000_000
"""No answer is longer, not even one in a stream of single tokens; the rest is not read."""
READ_AT_ONCE_MAX = 16 * 1024
"""Bytes of an answer that is read at once; a longer one is read in a thread, which lets others have their turns."""
_READ_BYTES = 16 * 1024
"""Taken from a connection at once. Headers are checked against their bound only between two of these."""
_NO_PROXIES: Mapping[str, None] = {"http://": None, "https://": None, "all://": None}
"""http:// is accepted for this machine because nothing leaves it; a proxy of the environment would get the key."""


class Connections:
    """One pooled HTTP client for each service, all closed together."""

    def __init__(self, services: Mapping[str, ServiceSettings]) -> None:
        """Raises ConfigurationError when a service's `ca_bundle` cannot be used."""
        _bound_headers()
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=100)
        self._clients = {
            name: httpx.AsyncClient(
                headers={"accept-encoding": ACCEPT_ENCODING},
                timeout=httpx.Timeout(service.timeout.total_seconds(), connect=10.0),
                limits=limits,
                verify=tls_context(name, service.ca_bundle),
                follow_redirects=False,  # a redirect would carry the key to wherever it leads
                mounts=_NO_PROXIES if service.is_on_this_machine() else None,
            )
            for name, service in services.items()
        }

    def __getitem__(self, service: str) -> httpx.AsyncClient:
        return self._clients[service]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def _bound_headers() -> None:
    """For every HTTP connection of this process: httpx passes these two limits of its transport on to nobody."""
    connection = httpcore.AsyncHTTP11Connection
    connection.MAX_INCOMPLETE_EVENT_SIZE = HEADERS_BYTES_MAX  # pyright: ignore[reportAttributeAccessIssue] - a figure
    connection.READ_NUM_BYTES = _READ_BYTES  # pyright: ignore[reportAttributeAccessIssue] - a figure


class CallServiceActivities:
    def __init__(
        self,
        services: Mapping[str, ServiceSettings],
        keys: ServiceKeys,
        connections: Connections,
        reports: GroupCommit[AttemptReport, None],
    ) -> None:
        self._services = services
        self._keys = keys
        self._connections = connections
        self._reports = reports
        self._outages_told: set[str] = set()
        # One, so that many long answers at a time do not take the interpreter from everything else.
        self._reader = ThreadPoolExecutor(1, "paymaster-answers")

    @activity.defn
    async def call_service(self, call: ServiceCall) -> Completion:
        """The service's answer, with all attempts under this hold.

        Raises ApplicationError with a Failure in its details: of type OutcomeUnknown when the attempt may have been
        billed (never retried), else NotBilled, retryable where the same service may do better.
        """
        info = activity.info()
        if not call.grant.hold_id.startswith(f"{info.workflow_run_id}/"):
            detail = f"hold {call.grant.hold_id} belongs to another run than {info.workflow_run_id}"
            refused = Failure(attempts=(), reason="not_sent", detail=detail)
            raise ApplicationError(detail, refused, type=NOT_BILLED, non_retryable=True)
        earlier = tuple(Attempt.model_validate(attempt) for attempt in info.heartbeat_details)
        async with _heartbeats(earlier):
            try:
                tried = await self._try_once(call, info.attempt)
            except Exception as error:  # as an error that nobody foresaw it would be retried, under the same hold
                activity.logger.error("a defect in attempt %s: %s", info.attempt, type(error).__name__)
                tried = _lost(info.attempt, error)
        await self._tell_of_outage(call)
        attempts = (*earlier, tried.attempt)
        if tried.completion is not None:
            return tried.completion.model_copy(update={"attempts": attempts})
        activity.heartbeat(*attempts)  # the next attempt, or the workflow after a timeout, reads them
        await self._report(call, tried)
        raise _failure(call, tried, attempts)

    async def _report(self, call: ServiceCall, tried: "_Tried") -> None:
        """Lets the ledger pause or break the service at once, for all the other calls."""
        report = AttemptReport(
            hold_id=call.grant.hold_id,
            service=call.grant.service,
            pause_ms=_pause_ms(tried),
            trips_breaker=tried.attempt.trips_breaker,
            error_class=tried.attempt.error_class,
            alert=_detail(call, tried) if tried.error_class is not None and tried.error_class.alert else None,
        )
        await self._submit(report)

    async def _tell_of_outage(self, call: ServiceCall) -> None:
        """Once for each outage of its source that a key is kept through, while there is time to do something."""
        service = self._services.get(call.grant.service)
        name = None if service is None else service.key_name
        outage = None if name is None else self._keys.outage(name)
        if name is None or outage is None:
            self._outages_told.discard(name or "")
        elif name not in self._outages_told:
            self._outages_told.add(name)
            text = f"{call.grant.service}: a kept key stays in use for a while, because {outage}"
            await self._submit(
                AttemptReport(hold_id="", service=call.grant.service, error_class=KEY_SOURCE_DOWN, alert=text)
            )

    async def _submit(self, report: AttemptReport) -> None:
        try:
            await self._reports.submit(report)
        except (CommitUnavailable, PoisonedBatch) as error:  # the settlement says it again
            activity.logger.warning("attempt not reported: %s", error)
        except asyncio.CancelledError:
            # What the attempt may cost must reach the workflow all the same: after a failure Temporal does not retry a
            # cancelled activity.
            activity.logger.warning("attempt not reported: the call was cancelled")

    async def _try_once(self, call: ServiceCall, number: int) -> "_Tried":
        started_at_ms, started = int(time.time() * 1000), time.monotonic()

        def attempt(billing: Billing, **facts: object) -> Attempt:
            return Attempt.model_validate(
                {
                    "number": number,
                    "started_at_ms": started_at_ms,
                    "duration_ms": int((time.monotonic() - started) * 1000),
                    "billing": billing,
                }
                | facts
            )

        def failed(error_class: ErrorClass, message: str, **facts: object) -> "_Tried":
            error = redact(message)[:ERROR_LENGTH_MAX]
            facts |= {"error_class": error_class.name, "error": error, "trips_breaker": error_class.trips_breaker}
            return _Tried(attempt(error_class.billing, **facts), error_class)

        service = self._services.get(call.grant.service)
        if service is None:  # a worker with another configuration file may have it
            return failed(_UNKNOWN_SERVICE, f"this worker has no service {call.grant.service!r}")
        try:
            key = None if service.key_name is None else await self._keys.get(service.key_name)
        except KeyUnavailable as error:
            return failed(_KEY_SOURCE_DOWN if isinstance(error, KeySourceDown) else _NO_KEY, str(error))

        wire_format = WIRE_FORMATS[service.api]
        client = self._connections[call.grant.service]
        try:
            built = wire_format.build_request(call.request, call.grant, service, stream=streams(service))
        except UnsupportedParameter as error:
            return failed(_UNSUPPORTED_PARAMETER, str(error))
        wire = _Wire()
        request = client.build_request(
            "POST",
            service.base_url + built.path,
            headers={"content-type": "application/json"}
            | built.headers
            | ({} if key is None else auth_headers(service, key.reveal())),
            content=to_json(built.body),
            extensions={"trace": wire.trace},
            timeout=_timeout(service),
        )
        try:
            answer = await _finish_once_sent(_exchange(client, request, service.timeout), wire)
        except asyncio.CancelledError:
            if not wire.sent and not _worker_is_stopping():
                raise  # the workflow was cancelled, and nothing was sent
            return failed(_SHUT_DOWN_SENT if wire.sent else _SHUT_DOWN, "the worker was shut down")
        except (httpx.TimeoutException, TimeoutError) as error:
            return failed(_TIMED_OUT if wire.sent else _NOT_CONNECTED, f"{type(error).__name__}: {error}")
        except httpx.HTTPError as error:
            return failed(_CUT_OFF if wire.sent else _NOT_CONNECTED, f"{type(error).__name__}: {error}")
        except BodyTooLarge as error:
            return failed(TOO_LARGE, str(error))

        reading = await self._read(
            partial(read_answer, call, service, answer, started_at_ms=started_at_ms, now_ms=int(time.time() * 1000)),
            at_once=len(answer.body) <= READ_AT_ONCE_MAX,
        )
        error = reading.error
        if error is None:
            return _Tried(attempt(reading.billing, **reading.facts), completion=reading.completion)
        error_class = error.error_class
        if error_class.name == AUTH.name and not answer.is_success and key is not None and service.key_name is not None:
            error_class = await self._after_refusal(service.key_name, key, error_class)
        tried = failed(error_class, error.message, **reading.facts)
        return tried._replace(retry_after_ms=error.retry_after_ms)

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
        return _KEY_REPLACED if replaced else as_it_is


_UNSUPPORTED_PARAMETER = ErrorClass("unsupported_parameter", Billing.NOT_BILLED)
_UNKNOWN_SERVICE = ErrorClass("unknown_service", Billing.NOT_BILLED, retry=True)
_NO_KEY = ErrorClass("no_key", Billing.NOT_BILLED, trips_breaker=True, alert=True)
_KEY_SOURCE_DOWN = ErrorClass(KEY_SOURCE_DOWN, Billing.NOT_BILLED, retry=True, trips_breaker=True, alert=True)
_KEY_REPLACED = ErrorClass("key_replaced", Billing.NOT_BILLED, retry=True)
_NOT_CONNECTED = ErrorClass("not_connected", Billing.NOT_BILLED, retry=True, trips_breaker=True)
_SHUT_DOWN = ErrorClass("worker_shutdown", Billing.NOT_BILLED, retry=True)
_SHUT_DOWN_SENT = ErrorClass("worker_shutdown", Billing.UNKNOWN)
_TIMED_OUT = ErrorClass("timeout", Billing.UNKNOWN, trips_breaker=True)
_CUT_OFF = ErrorClass("connection_lost", Billing.UNKNOWN, trips_breaker=True)
_DEFECT = ErrorClass("defect", Billing.UNKNOWN)


_ERROR_TYPES = {Billing.UNKNOWN: UNKNOWN_OUTCOME, Billing.NOT_BILLED: NOT_BILLED, Billing.BILLED: BILLED}


class _Tried(NamedTuple):
    attempt: Attempt
    error_class: ErrorClass | None = None
    """None: it was answered."""
    completion: Completion | None = None
    """Without its attempts. None: it failed."""
    retry_after_ms: int | None = None


def _lost(number: int, error: Exception) -> _Tried:
    """An attempt that ended in a way that nobody foresaw: it may have been sent."""
    lost = Attempt(
        number=number,
        started_at_ms=int(time.time() * 1000),
        duration_ms=0,
        billing=_DEFECT.billing,
        error_class=_DEFECT.name,
        error=type(error).__name__,
    )
    return _Tried(lost, _DEFECT)


def _timeout(service: ServiceSettings) -> httpx.Timeout:
    """In a stream no silence may be longer than the idle timeout; without one the whole answer is one silence."""
    silence = min(service.idle_timeout, service.timeout) if streams(service) else service.timeout
    return httpx.Timeout(silence.total_seconds(), connect=10.0)


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, timeout: timedelta) -> HttpAnswer:
    """The response with its whole body. Raises BodyTooLarge."""
    body, unreadable = b"", None
    with http_request(request.method, str(request.url)) as span:
        async with asyncio.timeout(timeout.total_seconds()):
            response = await client.send(request, stream=True)
            span.set_attribute("http.response.status_code", response.status_code)
            encodings = [value.decode("latin-1") for name, value in response.headers.raw if name.lower() == _ENCODING]
            try:
                body = await read_body(response.aiter_raw(), encodings, BODY_BYTES_MAX)
            except BodyUnreadable as error:
                unreadable = str(error)
            finally:
                await response.aclose()
    return HttpAnswer(response.status_code, response.headers.raw, body, unreadable)


_ENCODING = b"content-encoding"


class _Wire:
    """Whether anything of a request has left this machine."""

    def __init__(self) -> None:
        self.sent = False

    async def trace(self, event: str, info: Mapping[str, object]) -> None:
        if event.endswith("send_request_headers.started"):
            self.sent = True


async def _finish_once_sent(sending: Coroutine[None, None, HttpAnswer], wire: _Wire) -> HttpAnswer:
    """The response. A cancellation by the workflow comes too late once the request is sent: the answer is paid for.

    Raises CancelledError when nothing was sent, or when the worker is shut down and cannot wait any longer.
    """
    task = asyncio.ensure_future(sending)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if wire.sent and not _worker_is_stopping():
            return await task
        task.cancel()
        raise


def _worker_is_stopping() -> bool:
    """Whether this cancellation is the end of the worker's grace period, and not the workflow's wish."""
    details = activity.cancellation_details()
    return details is not None and details.worker_shutdown


@asynccontextmanager
async def _heartbeats(attempts: tuple[Attempt, ...]) -> AsyncGenerator[None]:
    """Tells the server that this worker lives, and what was tried so far, for as long as the block runs."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY_S)  # first: a quick call costs the server none
            activity.heartbeat(*attempts)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


def _pause_ms(tried: _Tried) -> int | None:
    """How long the service asked to be left alone."""
    if tried.retry_after_ms is None or tried.attempt.error_class != "rate_limited":
        return None
    return min(tried.retry_after_ms, DURATION_MS_MAX)


def _detail(call: ServiceCall, tried: _Tried) -> str:
    return f"{call.grant.service}/{call.grant.model}: {tried.attempt.error}"


def _failure(call: ServiceCall, tried: _Tried, attempts: tuple[Attempt, ...]) -> ApplicationError:
    """The error that tells Temporal whether to retry and the workflow how it was billed."""
    error_class = tried.error_class
    assert error_class is not None  # without an answer there is one
    billing = error_class.billing
    wait_ms = tried.retry_after_ms
    too_long = wait_ms is not None and wait_ms > call.grant.max_retry_after_ms
    too_often = error_class.attempts_max is not None and tried.attempt.number >= error_class.attempts_max
    failure = Failure(
        attempts=attempts,
        reason=error_class.name,
        detail=_detail(call, tried),
        fall_back=error_class.fall_back,
        unknown=billing is Billing.UNKNOWN,
    )
    activity.logger.warning("attempt failed: %s: %s", failure.reason, failure.detail)
    return ApplicationError(
        failure.detail,
        failure,
        type=_ERROR_TYPES[billing],
        non_retryable=billing is not Billing.NOT_BILLED or too_long or too_often or not error_class.retry,
        next_retry_delay=retry_delay(call.grant.retry, tried.attempt.number, wait_ms, random.random()),  # noqa: S311
    )
