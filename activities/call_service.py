"""call_service: one HTTP request under one hold, classified by whether it may have been billed.

Retries are Temporal's, by the RetryPolicy that the workflow declares; nothing here or in httpx retries. What is added
here to each failure is how long to wait: as the policy says with jitter, or as the service asked. Only an attempt that
certainly was not billed fails retryably, so that at most one attempt under a hold can cost money.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.body_store import BodyStore, Prepared
from activities.request_bodies import BodyOutOfReach, RequestBodies
from paymaster.keys.api_key import ServiceKeys
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.live.frames import Failed
from paymaster.live.pushes import Push, Pushes
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
    call_id_of,
    json_bytes,
)
from paymaster.messages.streams import StreamTo
from paymaster.messages.temporal_names import ANSWER_NOT_STORED, first_generation
from paymaster.messages.wire import WireAnswer, packed
from paymaster.observability.measurements import http_request
from paymaster.providers.connections import Connections
from paymaster.providers.exchange import Exchange, Tried, lost
from paymaster.providers.http_errors import DAY_MS, RATE_LIMITED_MODEL, STATE_REFUSED, ErrorClass
from paymaster.providers.kept_state import without_states
from paymaster.providers.retries import retry_delay
from paymaster.settings import ServiceSettings
from paymaster.stored_bodies import BodyGone
from paymaster.values.limits import ANSWER_BYTES_MAX, DURATION_MS_MAX, WIRE_REFUSAL_BYTES_MAX

HEARTBEAT_EVERY_S = 3.0
"""Of which the SDK passes on one every 8 s at most (`worker.py`), so that one lost heartbeat costs nothing.

By the clock and not as tokens come: a heartbeat says that this worker lives, which a service that thinks in silence for
a minute must not put in doubt. How long the service may be silent is what its `idle_timeout` says."""

BEATS_MARGIN_S = 10.0
"""So much longer than its service may take an attempt is said to live; then Temporal ends it, unless it waits for the
database to take an answer."""

READ_WITHIN_MIN_S = 10.0
"""For so long at least an attempt waits for a stored request."""


class CallServiceActivities:
    def __init__(
        self,
        services: Mapping[str, ServiceSettings],
        keys: ServiceKeys,
        connections: Connections,
        reports: GroupCommit[AttemptReport, None],
        bodies: BodyStore | None = None,
        storages: Sequence[str] = (),
        requests: RequestBodies | None = None,
        pushes: Pushes | None = None,
    ) -> None:
        """`bodies` None: an answer that is too large to be carried is lost. `storages`: the external storages of this
        worker, by their names. `requests` None: those whose bodies are stored cannot be read. `pushes` None: nobody
        gets an answer while it comes."""
        self._services = services
        self._keys = keys
        self._reports = reports
        self._bodies = bodies
        self._requests = requests or RequestBodies()
        self._storages = frozenset(storages)
        self._pushes = pushes
        self._outages_told: set[str] = set()
        self._exchange = Exchange(services, keys, connections, watched=http_request, is_stopping=_worker_is_stopping)

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
        if any(attempt.error_class == STATE_REFUSED.name for attempt in earlier):
            call = call.model_copy(update={"request": without_states(call.request)})
        read_s = _may_be_read_s(call)
        async with _heartbeats(earlier, read_s + self._may_take_s(call)) as beats:
            try:
                async with self._requests.whole(call.request, read_s) as request:
                    tried = await self._tried(call.model_copy(update={"request": request}), info.attempt)
            except (BodyGone, BodyOutOfReach) as error:
                raise _unread(error, earlier) from error
            by_storage = tried.completion is not None and not self._storages.isdisjoint(call.storages.split(","))
            if not by_storage and _too_large(tried) is not None:
                beats.go_on()
                tried, prepared = await self._prepared(tried, call)
                tried = await self._stored(tried, prepared)
        await self._tell_of_outage(call)
        attempts = (*earlier, tried.attempt)
        if tried.completion is not None:
            return tried.completion.model_copy(update={"attempts": attempts})
        activity.heartbeat(*attempts)  # the next attempt, or the workflow after a timeout, reads them
        await self._report(call, tried)
        raise _failure(call, tried, attempts)

    def _may_take_s(self, call: ServiceCall) -> float:
        """How long an attempt lives at most."""
        held_up_s = self._pushes.patience_s if self._pushes is not None and call.request.stream_to is not None else 0
        return call.grant.timeout_ms / 1000 + BEATS_MARGIN_S + held_up_s

    async def _tried(self, call: ServiceCall, number: int) -> Tried:
        """One attempt, which a gateway's caller may read along."""
        push = await self._push(call.request.stream_to)
        try:
            tried = await self._exchange.attempt(call, number, push)
        except asyncio.CancelledError:
            if push is not None:
                push.give_up()
            raise
        except Exception as error:  # as an error that nobody foresaw it would be retried, under the same hold
            activity.logger.error("a defect in attempt %s: %s", number, type(error).__name__)
            tried = lost(number, error)
        stream_to = call.request.stream_to
        if push is None or stream_to is None:
            return tried
        push.end(_why_it_ends(call, tried))
        return tried._replace(ends_call=push.has_begun and not stream_to.keeps)

    async def _push(self, stream_to: StreamTo | None) -> Push | None:
        if stream_to is None or self._pushes is None:
            return None
        return await self._pushes.to(stream_to, first_generation(call_id_of(activity.info().workflow_id or "")))

    async def _prepared(self, tried: Tried, call: ServiceCall) -> tuple[Tried, Prepared | None]:
        """The attempt with a reference in the place of what the service wrote, and what is to be stored under it.

        While that takes, only its compressed pieces are held: the database may be away for hours.
        """
        answer = _too_large(tried)
        if answer is None or self._bodies is None:
            return _not_stored(tried), None
        try:
            prepared = await self._bodies.prepared(answer, f"{call.grant.hold_id}/{tried.attempt.number}")
        except asyncio.CancelledError:  # what it cost must reach the workflow all the same
            return _not_stored(tried), None
        if tried.completion is None:
            return tried._replace(refusal=prepared.answer), prepared
        return tried._replace(completion=tried.completion.model_copy(update={"wire": prepared.answer})), prepared

    async def _stored(self, tried: Tried, prepared: Prepared | None) -> Tried:
        """That attempt when its answer is stored, or a failed one when this worker or the call ends before it is."""
        if prepared is None or self._bodies is None:
            return tried
        try:
            await self._bodies.store(prepared, activity.info().workflow_id or "")
        except asyncio.CancelledError:
            return _not_stored(tried)
        return tried

    async def _report(self, call: ServiceCall, tried: Tried) -> None:
        """Lets the ledger pause or break the service at once, for all the other calls."""
        report = AttemptReport(
            hold_id=call.grant.hold_id,
            service=call.grant.service,
            pause_ms=_pause_ms(tried),
            model=call.grant.model if tried.error_class is not None and tried.error_class.of_model else None,
            trips_breaker=tried.attempt.trips_breaker,
            error_class=tried.attempt.error_class,
            alert=_alert(call, tried),
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


_ERROR_TYPES = {Billing.UNKNOWN: UNKNOWN_OUTCOME, Billing.NOT_BILLED: NOT_BILLED, Billing.BILLED: BILLED}


def _worker_is_stopping() -> bool:
    """Whether this cancellation is the end of the worker's grace period, and not the workflow's wish."""
    details = activity.cancellation_details()
    return details is not None and details.worker_shutdown


class _Beats:
    """Until when this worker says that it lives, by the monotonic clock."""

    def __init__(self, until: float) -> None:
        self.until = until

    def go_on(self) -> None:
        """However long it takes: what is waited for now comes to an end."""
        self.until = math.inf


@asynccontextmanager
async def _heartbeats(attempts: tuple[Attempt, ...], for_s: float) -> AsyncGenerator[_Beats]:
    """Tells the server that this worker lives, and what was tried so far, for as long as the block runs and may run."""
    beats = _Beats(time.monotonic() + for_s)

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY_S)  # first: a quick call costs the server none
            if time.monotonic() < beats.until:
                activity.heartbeat(*attempts)

    task = asyncio.create_task(beat())
    try:
        yield beats
    finally:
        task.cancel()


def _too_large(tried: Tried) -> WireAnswer | None:
    """What the service wrote, where the attempt cannot be told with it. None: it can."""
    wire = tried.refusal if tried.completion is None else tried.completion.wire
    if wire is None or len(wire.body) <= WIRE_REFUSAL_BYTES_MAX:  # beside so much everything else has room
        return None
    if tried.completion is not None:
        beside = json_bytes(tried.completion.model_copy(update={"wire": None}))
        return wire if beside + len(packed(wire.body)) > ANSWER_BYTES_MAX else None
    return wire


def _may_be_read_s(call: ServiceCall) -> float:
    """How long an attempt may wait to have a stored request in its memory: what its hold leaves beside the service's
    time. 0: it has it."""
    if call.request.wire is None or call.request.wire.stored is None:
        return 0.0
    hold_ms = call.grant.expires_at_ms - call.grant.granted_at_ms
    return max(READ_WITHIN_MIN_S, (hold_ms - call.grant.timeout_ms) / 1000 - BEATS_MARGIN_S)


def _unread(error: BodyGone | BodyOutOfReach, earlier: tuple[Attempt, ...]) -> ApplicationError:
    """Nothing was sent, because there was nothing to send."""
    gone = isinstance(error, BodyGone)
    reason = "request_gone" if gone else "request_out_of_reach"
    detail = f"the stored request {error}" if gone else f"the stored request cannot be read now: {error}"
    failure = Failure(attempts=earlier, reason=reason, detail=detail, fall_back=not gone)
    return ApplicationError(detail, failure, type=NOT_BILLED, non_retryable=gone)


def _why_it_ends(call: ServiceCall, tried: Tried) -> Failed | None:
    """For whoever read the answer along. None: he has all of it, or the service's own error."""
    if tried.error_class is None or tried.has_told_error:
        return None
    return Failed(reason=tried.error_class.name, detail=_detail(call, tried))


def _not_stored(tried: Tried) -> Tried:
    error_class = ErrorClass(ANSWER_NOT_STORED, tried.attempt.billing)
    detail = "the answer is too large to be carried, and the database did not take it before this worker was stopped"
    attempt = tried.attempt.model_copy(update={"error_class": error_class.name, "error": detail})
    return Tried(attempt, error_class)


def _pause_ms(tried: Tried) -> int | None:
    """How long the service asked to be left alone."""
    if tried.retry_after_ms is None or tried.error_class is None or not tried.error_class.pauses:
        return None
    return min(tried.retry_after_ms, DURATION_MS_MAX)


def _alert(call: ServiceCall, tried: Tried) -> str | None:
    """For whoever must act; a pause of days has the command that ends it."""
    if tried.error_class is None or not tried.error_class.alert:
        return None
    pause_ms = _pause_ms(tried)
    if pause_ms is None:
        return _detail(call, tried)
    days, end = pause_ms / DAY_MS, f"paymaster services resume {call.grant.service}"
    return f"{_detail(call, tried)}: nothing is sent there for {days:.1f} days, unless somebody ends that: `{end}`"


def _detail(call: ServiceCall, tried: Tried) -> str:
    return f"{call.grant.service}/{call.grant.model}: {tried.attempt.error}"


def _failure(call: ServiceCall, tried: Tried, attempts: tuple[Attempt, ...]) -> ApplicationError:
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
        wire=tried.refusal,
        model_paused=error_class == RATE_LIMITED_MODEL and not too_long,
        ends_call=tried.ends_call,
    )
    activity.logger.warning("attempt failed: %s: %s", failure.reason, failure.detail)
    return ApplicationError(
        failure.detail,
        failure,
        type=_ERROR_TYPES[billing],
        non_retryable=billing is not Billing.NOT_BILLED
        or too_long
        or too_often
        or not error_class.retry
        or tried.ends_call,
        next_retry_delay=retry_delay(call.grant.retry, tried.attempt.number, wait_ms, random.random()),  # noqa: S311
    )
