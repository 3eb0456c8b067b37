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
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status
from prometheus_client import CollectorRegistry, generate_latest
from temporalio.client import Plugin
from temporalio.contrib.opentelemetry import MetricsExporter, OpenTelemetryPlugin, create_tracer_provider
from temporalio.plugin import SimplePlugin
from temporalio.runtime import LoggingConfig, MetricBuffer, Runtime, TelemetryConfig

from paymaster.client import Ledger
from paymaster.measurements import LatestStatus, Measurements, observe_ledger
from paymaster.security.redaction import redact_value
from paymaster.settings import Settings

EXPORT_TIMEOUT_S = 5.0
"""For one export, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""
LAST_EXPORT_WITHIN_S = 6.0
"""What is still to be sent when the worker stops has so long."""
_METRIC_BUFFER = 100_000
"""Updates of the SDK's metrics between two looks, a second apart."""
_CONTENT_OF_EXCEPTIONS = ("exception.message", "exception.stacktrace")
_STANDARD_ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
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
    def watching(self, ledger: Ledger) -> Generator[None]:
        """Asks the ledger again and again how it stands while the block runs, if anything is measured."""
        task = asyncio.create_task(self._watch(ledger)) if self.plugins else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _watch(self, ledger: Ledger) -> None:
        while True:
            try:
                self._ledger.status = await ledger.status()
            except Exception as error:  # whatever it is, it is asked again
                self._ledger.status = None
                logger.debug("the ledger did not say how it stands: %r", error)
            await asyncio.sleep(self._every_s)


@asynccontextmanager
async def telemetry_of(
    settings: Settings, core_logs: LoggingConfig, environ: Mapping[str, str] = os.environ
) -> AsyncGenerator[Telemetry]:
    """Sends and serves what the settings and the standard variables name while the block runs; often nothing.

    Once in a process: OpenTelemetry's providers are global.
    """
    sends = _sends(settings, environ)
    registry = CollectorRegistry()
    latest = LatestStatus()
    every_s = settings.telemetry.metrics_every.total_seconds()
    if not sends and settings.worker.health_address is None:
        yield Telemetry(Runtime(telemetry=TelemetryConfig(logging=core_logs)), (), registry, latest, every_s)
        return
    resource = Resource.create({} if _is_named(environ) else {"service.name": "paymaster"})
    timeout = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in environ else EXPORT_TIMEOUT_S
    endpoint = settings.telemetry.otlp_endpoint
    readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=registry)]
    if sends:
        exporter = OTLPMetricExporter(None if endpoint is None else f"{endpoint}/v1/metrics", timeout=timeout)
        readers.append(PeriodicExportingMetricReader(exporter, export_interval_millis=every_s * 1000))
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    observe_ledger(latest)
    measurements = Measurements(settings.services, record_content=settings.telemetry.record_content)
    plugins: list[Plugin] = [SimplePlugin("paymaster-measurements", interceptors=[measurements])]
    tracers = create_tracer_provider(resource=resource, shutdown_on_exit=False)
    if sends:
        to_collector = OTLPSpanExporter(None if endpoint is None else f"{endpoint}/v1/traces", timeout=timeout)
        careful = _Careful(to_collector, with_content=settings.telemetry.record_content)
        tracers.add_span_processor(BatchSpanProcessor(careful))
        trace.set_tracer_provider(tracers)
        plugins.insert(0, OpenTelemetryPlugin(add_temporal_spans=True))
        logger.info("traces and metrics go to %s", endpoint or "where OTEL_EXPORTER_OTLP_ENDPOINT says")
    buffer = MetricBuffer(_METRIC_BUFFER)
    runtime = Runtime(telemetry=TelemetryConfig(logging=core_logs, metrics=buffer))
    try:
        async with MetricsExporter(buffer, meters):
            yield Telemetry(runtime, plugins, registry, latest, every_s)
    finally:
        await _within(LAST_EXPORT_WITHIN_S, tracers.shutdown, meters.shutdown)


def _sends(settings: Settings, environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return settings.telemetry.otlp_endpoint is not None or any(environ.get(name) for name in _STANDARD_ENDPOINTS)


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
