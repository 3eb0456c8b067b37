"""OpenTelemetry's providers with their exporters, and what Prometheus reads. Needs the extra `telemetry`.

Metrics have one way: instruments, ours and the Temporal SDK's, belong to one provider, which both the OTLP exporter and
/metrics read. Everything is sent by threads of its own, from bounded buffers: a collector that is down or slow costs
spans and never a call.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

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
from temporalio.runtime import LoggingConfig, MetricBuffer, Runtime, TelemetryConfig

from paymaster.observability.bounded_session import bounded_session
from paymaster.redaction import redact_value
from paymaster.settings import ConfigurationError, Settings

EXPORT_TIMEOUT_S = 5.0
"""For one export, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""
LAST_EXPORT_WITHIN_S = 6.0
"""What is still to be sent when the worker stops has so long."""
CAPPED_WINDOWS_MAX = 100_000
"""That are measured one by one. OpenTelemetry's own limit is 2,000; it adds up the rest without their names."""
_METRIC_BUFFER = 100_000
"""Updates of the SDK's metrics between two looks, a second apart."""
_CONTENT_OF_EXCEPTIONS = ("exception.message", "exception.stacktrace")


class Exporting(NamedTuple):
    """What is exported by is ready."""

    runtime: Runtime
    """For every client of the process: it collects the SDK's metrics."""
    plugins: Sequence[Plugin]
    """For the clients whose traces are sent; none when none are."""
    exposition: Callable[[], bytes]
    """All metrics as Prometheus reads them."""


@asynccontextmanager
async def exporting(
    settings: Settings, core_logs: LoggingConfig, environ: Mapping[str, str], *, traces: bool, measures: bool
) -> AsyncGenerator[Exporting]:
    """Sends traces and measures, each if wanted, while the block runs.

    Once in a process: OpenTelemetry's providers are global. Raises ConfigurationError for variables that can't be used.
    """
    registry = CollectorRegistry()
    try:
        meters, tracers = providers(settings, environ, registry, traces=traces, measures=measures)
    except ValueError as error:
        raise ConfigurationError([f"one of OpenTelemetry's variables (OTEL_…) cannot be used: {error}"]) from error
    metrics.set_meter_provider(meters)
    if traces:
        trace.set_tracer_provider(tracers)
    buffer = MetricBuffer(_METRIC_BUFFER)
    runtime = Runtime(telemetry=TelemetryConfig(logging=core_logs, metrics=buffer))
    plugins = [OpenTelemetryPlugin(add_temporal_spans=True)] if traces else []
    try:
        async with MetricsExporter(buffer, meters):
            yield Exporting(runtime, plugins, partial(generate_latest, registry))
    finally:
        await _within(LAST_EXPORT_WITHIN_S, tracers.shutdown, meters.shutdown)


def providers(
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
