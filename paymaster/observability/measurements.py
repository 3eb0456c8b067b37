"""What is measured of calls: spans and metrics by OpenTelemetry's conventions for generative AI, and our own.

An interceptor around the activities sees all of it; the activities themselves only name their HTTP request and their
rows. Without telemetry all of this is OpenTelemetry's no-op. Nothing in here fails a call.
"""

import json
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import Token
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context, metrics, trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from paymaster.calls.usage_records import entries_of
from paymaster.messages import (
    Alert,
    Attempt,
    Completion,
    Denied,
    DeskStatus,
    ExpiredHold,
    Failure,
    Grant,
    LLMRequest,
    Notices,
    Reservation,
    ReserveAnswer,
    ServiceCall,
    UsageEntry,
    UsageRecord,
    WindowStatus,
    call_id_of,
    temporal_names,
)
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import ServiceSettings

LEDGER = "paymaster.ledger"
"""The attribute that names the ledger which a process works for."""
BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}
_DURATIONS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
# Both sets of buckets are the ones that the conventions ask for.
_DELAYS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200)

logger = logging.getLogger(__name__)
_tracer = trace.get_tracer("paymaster")
_meter = metrics.get_meter("paymaster")
_duration = _meter.create_histogram(
    "gen_ai.client.operation.duration",
    unit="s",
    description="How long one request to a service took",
    explicit_bucket_boundaries_advisory=_DURATIONS_S,
)
_tokens = _meter.create_histogram(
    "gen_ai.client.token.usage",
    unit="{token}",
    description="Tokens of one request as the service counts them",
    explicit_bucket_boundaries_advisory=_TOKENS,
)
_cost = _meter.create_counter(
    "paymaster.cost",
    unit="nanousd",
    description="What attempts were charged, in billionths of a US dollar; later corrections are in the database only",
)
_denied = _meter.create_counter("paymaster.denied", description="Calls that the ledger denied, by reason")
_alerts = _meter.create_counter("paymaster.alerts", description="Alerts, by kind")
_reserve_duration = _meter.create_histogram(
    "paymaster.reserve.duration",
    unit="s",
    description="How long a call waited for the ledger's first answer",
    explicit_bucket_boundaries_advisory=_DURATIONS_S,
)
_event_loop_delay = _meter.create_histogram(
    "paymaster.event_loop.delay",
    unit="s",
    description="How long the worker's event loop was held at most, in each second",
    explicit_bucket_boundaries_advisory=_DELAYS_S,
)
_batch_size = _meter.create_histogram(
    "paymaster.batch.size",
    unit="{command}",
    description="Commands in one update to the ledger",
    explicit_bucket_boundaries_advisory=_BATCH_SIZES,
)

_turn = _meter.create_histogram(
    "paymaster.turn",
    unit="s",
    description="How long a process waits for its turn to send the next update to the ledger",
    explicit_bucket_boundaries_advisory=_DELAYS_S,
)


_of_process: dict[str, AttributeValue] = {}
"""What everything has that this process measures; its meters, too, are those of the whole process."""


def measure_for(ledger: str) -> None:
    """From now on what this process measures is of this ledger."""
    _of_process[LEDGER] = ledger


def measured(attributes: Mapping[str, AttributeValue] | None = None) -> dict[str, AttributeValue]:
    """The attributes of one measurement."""
    return {**_of_process, **(attributes or {})}


class Measurements(Interceptor):
    """Measures a worker's activities. `record_content`: prompts and answers become attributes of spans."""

    def __init__(self, services: Mapping[str, ServiceSettings], *, record_content: bool) -> None:
        self._services = services
        self._record_content = record_content

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _MeasuredActivities(next, self._services, record_content=self._record_content)


class _MeasuredActivities(ActivityInboundInterceptor):
    def __init__(
        self, next: ActivityInboundInterceptor, services: Mapping[str, ServiceSettings], *, record_content: bool
    ) -> None:
        super().__init__(next)
        self._services = services
        self._record_content = record_content

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        match activity.info().activity_type:
            case temporal_names.CALL_SERVICE.name:
                return await self._call_service(input, input.args[0])
            case temporal_names.RESERVE.name:
                started = time.monotonic()
                reservation: Reservation = await self.next.execute_activity(input)
                with _never_fails():
                    _measure_reserve(reservation.answer, time.monotonic() - started)
                return reservation
            case temporal_names.RECORD_USAGE.name:
                answer = await self.next.execute_activity(input)
                with _never_fails():
                    _measure_record(input.args[0])
                return answer
            case temporal_names.STORE_NOTICES.name:
                delivery = await self.next.execute_activity(input)
                with _never_fails():
                    _measure_notices(input.args[0])
                return delivery
            case _:
                return await self.next.execute_activity(input)

    async def _call_service(self, input: ExecuteActivityInput, call: ServiceCall) -> Completion:
        service = self._services.get(call.grant.service)
        attributes: dict[str, AttributeValue] = {}
        with _never_fails():
            attributes = _of_request(call, service)
        with _span(f"chat {call.grant.model}", SpanKind.CLIENT, attributes) as span:
            with _never_fails():
                span.set_attributes(_only_in_spans(call, service))
                if self._record_content:
                    span.set_attribute("gen_ai.input.messages", _input_messages(call.request))
            try:
                completion: Completion = await self.next.execute_activity(input)
            except ApplicationError as error:
                with _never_fails():
                    if error.details and isinstance(error.details[0], Failure):
                        _measure_attempt(span, attributes, error.details[0].attempts[-1])
                raise
            with _never_fails():
                _measure_attempt(span, attributes, completion.attempts[-1])
                if completion.finish_reason is not None:
                    span.set_attribute("gen_ai.response.finish_reasons", [completion.finish_reason])
                if self._record_content:
                    span.set_attribute("gen_ai.output.messages", _output_messages(completion))
            return completion


@contextmanager
def http_request(method: str, url: str) -> Generator[Callable[[int], None]]:
    """A span around one HTTP request to a service, which is told the status of the answer."""
    attributes: dict[str, AttributeValue] = {"http.request.method": method}
    with _never_fails():
        host = urlsplit(url)
        attributes["server.address"] = host.hostname or ""
        if host.port is not None:
            attributes["server.port"] = host.port
        attributes["url.full"] = f"{host.scheme}://{host.netloc}{host.path}"
    with _span(method, SpanKind.CLIENT, attributes) as span:

        def answered(status: int) -> None:
            with _never_fails():
                span.set_attribute("http.response.status_code", status)

        yield answered


@contextmanager
def rows_stored(entries: tuple[UsageEntry, ...]) -> Generator[Span]:
    """A span around the storing of rows, which names them."""
    attributes: dict[str, AttributeValue] = {
        "db.system.name": "postgresql",
        "db.operation.name": "INSERT",
        "db.collection.name": "api_usage",
        "paymaster.attempt_ids": [entry.attempt_id for entry in entries],
    }
    with _span("INSERT api_usage", SpanKind.CLIENT, attributes) as span:
        yield span


def measure_batch(size: int) -> None:
    """Of the commands that one update brings to the ledger."""
    with _never_fails():
        _batch_size.record(size, measured())


def measure_turn(wait_s: float) -> None:
    """Of the wait between an update to the ledger and the next one."""
    with _never_fails():
        _turn.record(wait_s, measured())


def measure_event_loop_delay(delay_s: float) -> None:
    with _never_fails():
        _event_loop_delay.record(delay_s, measured())


def observe_ledger(latest: "LatestStatus") -> None:
    """From now on each export says how the ledger stood when it was last asked."""
    for name, of, unit, description in (
        ("paymaster.holds", _holds, "{hold}", "Attempts with money set aside"),
        ("paymaster.parked", _parked, "{call}", "Calls that wait for money, a limit or a service"),
        ("paymaster.unconfirmed", _unconfirmed, "{attempt}", "Attempts of which nobody knows whether they were billed"),
        ("paymaster.state.size", _state_bytes, "By", "The ledger's state, about; it may have 1.5 MiB"),
        ("paymaster.breaker.state", _breakers, "", "0 closed, 1 half open, 2 open"),
        ("paymaster.account.posted", _posted, "nanousd", "Spent in this window, in billionths of a US dollar"),
        ("paymaster.account.pending", _pending, "nanousd", "Set aside in this window"),
        ("paymaster.account.cap", _caps, "nanousd", "The cap of this window"),
    ):
        _meter.create_observable_gauge(name, [_observer(latest, of)], unit=unit, description=description)

    def in_backlog(_: metrics.CallbackOptions) -> _Observed:
        return [] if latest.in_backlog is None else [metrics.Observation(latest.in_backlog, measured())]

    _meter.create_observable_gauge(
        "paymaster.backlog",
        [in_backlog],
        unit="{record}",
        description="Records and voids that wait for the database or the ledger",
    )


class LatestStatus:
    """What the ledger and its usage backlog last said of themselves. None: no answer."""

    status: DeskStatus | None = None
    in_backlog: int | None = None


# ---------------------------------------------------------------- one attempt


def _of_request(call: ServiceCall, service: ServiceSettings | None) -> dict[str, AttributeValue]:
    """What spans and metrics of an attempt have in common; few values each, because each combination is a series."""
    attributes = measured(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": call.grant.model,
            "paymaster.service": call.grant.service,
        }
    )
    if service is not None:
        attributes["gen_ai.provider.name"] = PROVIDERS[service.api].telemetry_name
    return attributes


def _only_in_spans(call: ServiceCall, service: ServiceSettings | None) -> dict[str, AttributeValue]:
    request = call.request
    asked: dict[str, AttributeValue | None] = {
        "gen_ai.request.max_tokens": call.grant.max_output_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.seed": request.seed,
        "server.address": None if service is None else urlsplit(service.base_url).hostname,
        "paymaster.call_id": call_id_of(activity.info().workflow_id or ""),
        "paymaster.hold_id": call.grant.hold_id,
        "paymaster.budget": call.grant.budget,
        "paymaster.bound": call.grant.bound_nanos,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _measure_attempt(span: Span, attributes: Mapping[str, AttributeValue], attempt: Attempt) -> None:
    of_answer = dict(attributes)
    if attempt.model_answered is not None:
        of_answer["gen_ai.response.model"] = attempt.model_answered
    span.set_attributes({**of_answer, "paymaster.billing": attempt.billing.value})
    if attempt.provider_request_id is not None:
        span.set_attribute("gen_ai.response.id", attempt.provider_request_id)
    if attempt.usage is not None:
        for kind, count in (("input", attempt.usage.input_tokens), ("output", attempt.usage.output_tokens)):
            span.set_attribute(f"gen_ai.usage.{kind}_tokens", count)
            _tokens.record(count, {**of_answer, "gen_ai.token.type": kind})
    if attempt.error_class is not None:
        of_answer["error.type"] = attempt.error_class
        span.set_attribute("error.type", attempt.error_class)
        span.set_status(Status(StatusCode.ERROR))
    _duration.record(attempt.duration_ms / 1000, of_answer)


def _input_messages(request: LLMRequest) -> str:
    return json.dumps(
        [
            {"role": message.role, "parts": [{"type": "text", "content": message.content}]}
            for message in request.conversation()
        ]
    )


def _output_messages(completion: Completion) -> str:
    parts = [{"type": "text", "content": completion.text}]
    return json.dumps([{"role": "assistant", "parts": parts, "finish_reason": completion.finish_reason}])


# ---------------------------------------------------------------- the books


def _measure_reserve(answer: ReserveAnswer, duration_s: float) -> None:
    _reserve_duration.record(duration_s, measured({"paymaster.answer": answer.kind}))
    if isinstance(answer, Denied):
        _denied.add(1, measured({"paymaster.reason": answer.reason}))


def _measure_record(record: UsageRecord) -> None:
    for entry in entries_of(record, ledger=""):
        _add_cost(record.grant, entry.cost_nanos, confirmed=entry.state == "final")


def _measure_notices(batch: Notices) -> None:
    for notice in batch.notices:
        if isinstance(notice, Alert):
            _alerts.add(1, measured({"paymaster.alert": notice.what}))
        elif isinstance(notice, ExpiredHold) and not notice.settled:
            _add_cost(notice.grant, notice.grant.bound_nanos, confirmed=False)


def _add_cost(grant: Grant, cost_nanos: int, *, confirmed: bool) -> None:
    attributes = measured(
        {
            "paymaster.service": grant.service,
            "gen_ai.request.model": grant.model,
            "paymaster.confirmed": confirmed,
        }
    )
    if grant.money_short:
        attributes["paymaster.money_short"] = True
    _cost.add(cost_nanos, attributes)


# ---------------------------------------------------------------- the ledger

_Observed = list[metrics.Observation]


def _observer(
    latest: LatestStatus, of: Callable[[DeskStatus], _Observed]
) -> Callable[[metrics.CallbackOptions], _Observed]:
    def observe(_: metrics.CallbackOptions) -> _Observed:
        found = [] if latest.status is None else of(latest.status)
        return [metrics.Observation(each.value, measured(each.attributes)) for each in found]

    return observe


def _holds(status: DeskStatus) -> _Observed:
    return [metrics.Observation(status.holds)]


def _parked(status: DeskStatus) -> _Observed:
    return [metrics.Observation(status.parked)]


def _unconfirmed(status: DeskStatus) -> _Observed:
    return [metrics.Observation(status.unconfirmed)]


def _state_bytes(status: DeskStatus) -> _Observed:
    return [metrics.Observation(status.state_bytes)]


def _breakers(status: DeskStatus) -> _Observed:
    return [
        metrics.Observation(BREAKER_STATES[each.breaker], {"paymaster.service": each.service})
        for each in status.services
    ]


def _posted(status: DeskStatus) -> _Observed:
    return _of_capped_windows(status, lambda window: window.posted_nanos)


def _pending(status: DeskStatus) -> _Observed:
    return _of_capped_windows(status, lambda window: window.pending_nanos)


def _caps(status: DeskStatus) -> _Observed:
    return _of_capped_windows(status, lambda window: window.cap_nanos)


def _of_capped_windows(status: DeskStatus, amount: Callable[[WindowStatus], int | None]) -> _Observed:
    return [
        metrics.Observation(
            amount(window) or 0, {"paymaster.account": account.account, "paymaster.window": window.window}
        )
        for account in status.accounts
        for window in account.windows
        if window.cap_nanos is not None
    ]


# ---------------------------------------------------------------- harmless


@contextmanager
def _span(name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> Generator[Span]:
    """A span around the block, if one can be begun; an exception of the block is told to it and goes on its way."""
    span, token = _begun_span(name, kind, attributes)
    try:
        yield span
    except Exception as error:
        with _never_fails():
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        raise
    finally:
        with _never_fails():
            if token is not None:
                context.detach(token)
        with _never_fails():
            span.end()


def _begun_span(
    name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]
) -> tuple[Span, Token[context.Context] | None]:
    """The span, as the current one, and what ends that; without a token when it could not be begun."""
    with _never_fails():
        span = _tracer.start_span(name, kind=kind, attributes=dict(attributes))
        return span, context.attach(trace.set_span_in_context(span))
    return INVALID_SPAN, None


@contextmanager
def _never_fails() -> Generator[None]:
    try:
        yield
    except Exception:
        logger.exception("not measured")
