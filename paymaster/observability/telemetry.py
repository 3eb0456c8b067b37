"""OpenTelemetry for a process: whether traces and metrics go anywhere, and whose.

What sends them is imported only where something is sent: it takes as long to import as a fifth of all the rest.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import unquote

from temporalio.client import Plugin
from temporalio.plugin import SimplePlugin
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

from paymaster.observability.measurements import LatestStatus, Measurements, measure_for, observe_ledger
from paymaster.redaction import remember
from paymaster.settings import Settings
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.values.extras import names_extra

if TYPE_CHECKING:
    from paymaster.ledger.copied_status import CopiedStatus
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import DeskStatus

COPIED_LATELY = timedelta(minutes=1)
"""A ledger that has copied nothing for so long is asked: little happens there, or nobody stores its copy."""
AnswerT = TypeVar("AnswerT")
logger = logging.getLogger(__name__)


class Telemetry:
    """What a worker's clients need for its traces and metrics."""

    def __init__(
        self,
        runtime: Runtime,
        plugins: Sequence[Plugin],
        exposition: Callable[[], bytes],
        ledger: LatestStatus,
        every_s: float,
    ) -> None:
        self.runtime = runtime
        """For every client of the process: it collects the SDK's metrics."""
        self.plugins = plugins
        """For the clients of calls; none when nothing is measured."""
        self.exposition = exposition
        """All metrics as Prometheus reads them; nothing when nothing is measured."""
        self._ledger = ledger
        self._every_s = every_s

    @asynccontextmanager
    async def watching(self, ledger: "Ledger", copy: "CopiedStatus") -> AsyncGenerator[None]:
        """Looks again and again how the ledger stands while the block runs, if anything is measured."""
        task = asyncio.create_task(self._watch(ledger, copy)) if self.plugins else None
        try:
            yield
        finally:
            if task is not None:  # whoever closes the database next has no look under way
                task.cancel()
                await asyncio.wait([task])

    async def _watch(self, ledger: "Ledger", copy: "CopiedStatus") -> None:
        while True:
            self._ledger.status = await _answer_or_none(_standing(ledger, copy))
            self._ledger.in_backlog = await _answer_or_none(ledger.in_backlog())
            await asyncio.sleep(self._every_s)


async def _standing(ledger: "Ledger", copy: "CopiedStatus") -> "DeskStatus":
    """What the ledger has copied lately: were it asked by every process, its updates would wait."""
    try:
        copied = await copy.whole(COPIED_LATELY)
    except DATABASE_ERRORS:
        copied = None
    return copied or await ledger.status()


async def _answer_or_none(answer: Awaitable[AnswerT]) -> AnswerT | None:
    try:
        return await answer
    except Exception as error:  # whatever it is, it is asked again
        logger.debug("the ledger did not say how it stands: %r", error)
        return None


@asynccontextmanager
async def telemetry_of(
    settings: Settings,
    core_logs: LoggingConfig,
    environ: Mapping[str, str] = os.environ,
    *,
    served_at: str | None = None,
) -> AsyncGenerator[Telemetry]:
    """Sends and serves what the settings and the standard variables name while the block runs; often nothing.

    `served_at`: where the process serves /metrics. None: nowhere. Once in a process: OpenTelemetry's providers are
    global. Raises ConfigurationError for variables that can't be used, and ExtraMissing where the extra `telemetry`
    would be needed and is not installed.
    """
    _remember_headers(environ)
    traces, measures = _sends("TRACES", settings, environ), _sends("METRICS", settings, environ)
    latest = LatestStatus()
    every_s = settings.telemetry.metrics_every.total_seconds()
    if not traces and not measures and served_at is None:
        yield Telemetry(Runtime(telemetry=TelemetryConfig(logging=core_logs)), (), bytes, latest, every_s)
        return
    with names_extra("telemetry (also /metrics beside the health endpoint)"):
        from paymaster.observability.exporters import exporting
    async with exporting(settings, core_logs, environ, traces=traces, measures=measures) as ready:
        measure_for(settings.ledger.name)
        observe_ledger(latest)
        measurements = Measurements(settings.services, record_content=settings.telemetry.record_content)
        where = settings.telemetry.otlp_endpoint or "where OTEL_EXPORTER_OTLP_…ENDPOINT says"
        for what in [name for name, sent in (("traces", traces), ("metrics", measures)) if sent]:
            logger.info("%s go to %s", what, where)
        plugins = [*ready.plugins, SimplePlugin("paymaster-measurements", interceptors=[measurements])]
        yield Telemetry(ready.runtime, plugins, ready.exposition, latest, every_s)


def _sends(kind: Literal["TRACES", "METRICS"], settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether anything says where they go, and nothing that they do not."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or environ.get(f"OTEL_{kind}_EXPORTER", "").lower() == "none":
        return False
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{kind}_ENDPOINT")
    return settings.telemetry.otlp_endpoint is not None or any(environ.get(name) for name in variables)


def _remember_headers(environ: Mapping[str, str]) -> None:
    """A collector's token is in one of them, and OpenTelemetry logs those that it cannot read.

    Each as a whole: a value alone may be a word, a tenant's name, say, and what is remembered is taken out of answers.
    """
    for kind in ("", "TRACES_", "METRICS_"):
        for header in environ.get(f"OTEL_EXPORTER_OTLP_{kind}HEADERS", "").split(","):
            remember(header.strip())
            if header.strip().lower().startswith("authorization="):
                remember(unquote(header).split()[-1])  # without "Bearer"
