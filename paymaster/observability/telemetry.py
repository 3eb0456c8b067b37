"""OpenTelemetry for a worker process: where traces and metrics go, and which of Temporal's parts give theirs.

Metrics have one way: instruments, ours and the Temporal SDK's, belong to one provider, which both the OTLP exporter and
/metrics read. Everything is sent by threads of its own, from bounded buffers: a collector that is down or slow costs
spans and never a call.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import unquote

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider, ObservableGauge
from opentelemetry.sdk.metrics.export import CardinalityLimits, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status
from prometheus_client import CollectorRegistry, generate_latest
from temporalio.client import Plugin
from temporalio.contrib.opentelemetry import (
    MetricsExporter,
    OpenTelemetryPlugin,
    ReplaySafeTracerProvider,
    create_tracer_provider,
)
from temporalio.plugin import SimplePlugin
from temporalio.runtime import LoggingConfig, MetricBuffer, Runtime, TelemetryConfig

from paymaster.observability.bounded_session import bounded_session
from paymaster.observability.measurements import LatestStatus, Measurements, observe_ledger
from paymaster.redaction import redact_value, remember
from paymaster.settings import ConfigurationError, Settings

if TYPE_CHECKING:
    from paymaster.client import Ledger

AnswerT = TypeVar("AnswerT")
EXPORT_TIMEOUT_S = 5.0
"""For one export, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""
LAST_EXPORT_WITHIN_S = 6.0
"""What is still to be sent when the worker stops has so long."""
CAPPED_WINDOWS_MAX = 100_000
"""That are measured one by one. OpenTelemetry's own limit is 2,000; it adds up the rest without their names."""
_METRIC_BUFFER = 100_000
"""Updates of the SDK's metrics between two looks, a second apart."""
_CONTENT_OF_EXCEPTIONS = ("exception.message", "exception.stacktrace")
logger = logging.getLogger(__name__)


class Telemetry:
    """What a worker's clients need for its traces and metrics."""

    def __init__(
        self,
        runtime: Runtime,
        plugins: Sequence[Plugin],
        registry: CollectorRegistry,
        ledger: LatestStatus,
        every_s: float,
    ) -> None:
        self.runtime = runtime
        """For every client of the process: it collects the SDK's metrics."""
        self.plugins = plugins
        """For the clients of calls; none when nothing is measured."""
        self._registry = registry
        self._ledger = ledger
        self._every_s = every_s

    def exposition(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    @contextmanager
    def watching(self, ledger: "Ledger") -> Generator[None]:
        """Asks the ledger again and again how it stands while the block runs, if anything is measured."""
        task = asyncio.create_task(self._watch(ledger)) if self.plugins else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _watch(self, ledger: "Ledger") -> None:
        while True:
            self._ledger.status = await _answer_or_none(ledger.status())
            self._ledger.in_backlog = await _answer_or_none(ledger.in_backlog())
            await asyncio.sleep(self._every_s)


async def _answer_or_none(answer: Awaitable[AnswerT]) -> AnswerT | None:
    try:
        return await answer
    except Exception as error:  # whatever it is, it is asked again
        logger.debug("the ledger did not say how it stands: %r", error)
        return None


@asynccontextmanager
async def telemetry_of(
    settings: Settings, core_logs: LoggingConfig, environ: Mapping[str, str] = os.environ
) -> AsyncGenerator[Telemetry]:
    """Sends and serves what the settings and the standard variables name while the block runs; often nothing.

    Once in a process: OpenTelemetry's providers are global. Raises ConfigurationError for variables that can't be used.
    """
    _remember_headers(environ)
    traces, measures = _sends("TRACES", settings, environ), _sends("METRICS", settings, environ)
    registry = CollectorRegistry()
    latest = LatestStatus()
    every_s = settings.telemetry.metrics_every.total_seconds()
    if not traces and not measures and settings.worker.health_address is None:
        yield Telemetry(Runtime(telemetry=TelemetryConfig(logging=core_logs)), (), registry, latest, every_s)
        return
    try:
        meters, tracers = _providers(settings, environ, registry, traces=traces, measures=measures)
    except ValueError as error:
        raise ConfigurationError([f"one of OpenTelemetry's variables (OTEL_…) cannot be used: {error}"]) from error
    metrics.set_meter_provider(meters)
    observe_ledger(latest)
    measurements = Measurements(settings.services, record_content=settings.telemetry.record_content)
    plugins: list[Plugin] = [SimplePlugin("paymaster-measurements", interceptors=[measurements])]
    if traces:
        trace.set_tracer_provider(tracers)
        plugins.insert(0, OpenTelemetryPlugin(add_temporal_spans=True))
    where = settings.telemetry.otlp_endpoint or "where OTEL_EXPORTER_OTLP_…ENDPOINT says"
    for what in [name for name, sent in (("traces", traces), ("metrics", measures)) if sent]:
        logger.info("%s go to %s", what, where)
    buffer = MetricBuffer(_METRIC_BUFFER)
    runtime = Runtime(telemetry=TelemetryConfig(logging=core_logs, metrics=buffer))
    try:
        async with MetricsExporter(buffer, meters):
            yield Telemetry(runtime, plugins, registry, latest, every_s)
    finally:
        await _within(LAST_EXPORT_WITHIN_S, tracers.shutdown, meters.shutdown)


def _sends(kind: Literal["TRACES", "METRICS"], settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether anything says where they go, and nothing that they do not."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or environ.get(f"OTEL_{kind}_EXPORTER", "").lower() == "none":
        return False
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{kind}_ENDPOINT")
    return settings.telemetry.otlp_endpoint is not None or any(environ.get(name) for name in variables)


def _providers(
    settings: Settings, environ: Mapping[str, str], registry: CollectorRegistry, *, traces: bool, measures: bool
) -> tuple[MeterProvider, ReplaySafeTracerProvider]:
    """Raises ValueError for what the standard variables say and OpenTelemetry does not take."""
    resource = Resource.create({} if _is_named(environ) else {"service.name": "paymaster"})
    timeout = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in environ else EXPORT_TIMEOUT_S
    endpoint, every_s = settings.telemetry.otlp_endpoint, settings.telemetry.metrics_every.total_seconds()
    limits: CardinalityLimits = {ObservableGauge: CAPPED_WINDOWS_MAX}
    readers: list[MetricReader] = [
        PrometheusMetricReader(scope_info_enabled=False, registry=registry, cardinality_limits=limits)
    ]
    if measures:
        where = None if endpoint is None else f"{endpoint}/v1/metrics"
        exporter = OTLPMetricExporter(where, timeout=timeout, session=bounded_session())
        every_ms = every_s * 1_000
        readers.append(PeriodicExportingMetricReader(exporter, every_ms, cardinality_limits=limits))
    tracers = create_tracer_provider(resource=resource, shutdown_on_exit=False)
    if traces:
        where = None if endpoint is None else f"{endpoint}/v1/traces"
        to_collector = OTLPSpanExporter(where, timeout=timeout, session=bounded_session())
        careful = _Careful(to_collector, with_content=settings.telemetry.record_content)
        tracers.add_span_processor(BatchSpanProcessor(careful))
    return MeterProvider(readers, resource, shutdown_on_exit=False), tracers


def _remember_headers(environ: Mapping[str, str]) -> None:
    """A collector's token is in one of them, and OpenTelemetry logs those that it cannot read.

    Each as a whole: a value alone may be a word, a tenant's name, say, and what is remembered is taken out of answers.
    """
    for kind in ("", "TRACES_", "METRICS_"):
        for header in environ.get(f"OTEL_EXPORTER_OTLP_{kind}HEADERS", "").split(","):
            remember(header.strip())
            if header.strip().lower().startswith("authorization="):
                remember(unquote(header).split()[-1])  # without "Bearer"


def _is_named(environ: Mapping[str, str]) -> bool:
    return "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


async def _within(seconds: float, *functions: Callable[[], object]) -> None:
    """Runs blocking functions, and does not wait for them any longer than so: the process may end meanwhile."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        for function in functions:
            function()
        with contextlib.suppress(RuntimeError):  # the loop is closed: it was too long
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)


class _Careful(SpanExporter):
    """Passes spans on without known keys, and without the text of exceptions, which may quote prompts and answers."""

    def __init__(self, exporter: SpanExporter, *, with_content: bool) -> None:
        self._exporter = exporter
        self._with_content = with_content

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._cleaned(span) for span in spans])

    def _cleaned(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=redact_value(span.attributes),
            events=[self._cleaned_event(event) for event in span.events],
            links=span.links,
            kind=span.kind,
            status=Status(
                span.status.status_code, redact_value(span.status.description) if self._with_content else None
            ),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _cleaned_event(self, event: Event) -> Event:
        attributes = {
            name: redact_value(value)
            for name, value in (event.attributes or {}).items()
            if self._with_content or name not in _CONTENT_OF_EXCEPTIONS
        }
        return Event(event.name, attributes, event.timestamp)

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
