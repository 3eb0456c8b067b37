"""The worker's log: one line an event, as JSON or for people, with the ids of the call, the workflow and the trace.

Code logs with the standard library, and so do the libraries; here it is said how all of that looks.
"""

import logging
import sys
from dataclasses import replace
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.runtime import LoggingConfig, LoggingFormat

from paymaster.messages import call_id_of
from paymaster.messages.temporal_names import BILLED, NOT_BILLED, UNKNOWN_OUTCOME, is_call
from paymaster.redaction import redact_value
from paymaster.settings import LogSettings

_QUIET = ("httpx", "httpcore", "aiohttp.access", "azure")
"""One line a request says nothing that the stored entries do not."""
_OURS = ("paymaster", "activities", "workflows")
"""Libraries say nothing below level info: at debug the Temporal SDK prints prompts and answers."""
_LIBRARIES_OWN = ("temporal_activity", "temporal_workflow", "temporal_log", "color_message")
"""What libraries attach for formatters of their own; the ids are added below."""


def configure_logs(settings: LogSettings, stream: TextIO = sys.stderr) -> LoggingConfig:
    """From now on everything that is logged goes to the stream, in the form that the settings name.

    What it gives has the Temporal SDK's own part, which is not in Python, say its warnings in the same form.
    """
    people = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_ids,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # plain: no values of variables, which may be secret
                _redact,
                structlog.dev.ConsoleRenderer(colors=stream.isatty())
                if people
                else structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
        )
    )
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root.setLevel(max(level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # The SDK would append the same ids to every sentence.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    return replace(LoggingConfig.default, format=LoggingFormat.COMPACT if people else LoggingFormat.JSON)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the SDK's line, with a traceback, about an attempt of a call of which the activity has said why it
    failed."""
    error = record.exc_info[1] if record.exc_info else None
    is_of_attempt = isinstance(error, ApplicationError) and error.type in (NOT_BILLED, BILLED, UNKNOWN_OUTCOME)
    return not (is_of_attempt and record.name == activity.logger.logger.name)


def _add_ids(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    for key in _LIBRARIES_OWN:
        event.pop(key, None)
    event.update(_ids())
    return event


def _ids() -> dict[str, str | int | None]:
    """Of what runs here: the call, its workflow and activity, and the trace."""
    ids: dict[str, str | int | None] = {}
    if activity.in_activity():
        doing = activity.info()
        ids = {"activity": doing.activity_type, "attempt": doing.attempt}
        ids |= {"workflow_id": doing.workflow_id, "run_id": doing.workflow_run_id}
    elif workflow.in_workflow():
        running = workflow.info()
        ids = {"workflow_id": running.workflow_id, "run_id": running.run_id}
    workflow_id = ids.get("workflow_id")
    if isinstance(workflow_id, str) and is_call(workflow_id):
        ids["call_id"] = call_id_of(workflow_id)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        ids |= {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}
    return ids


def _redact(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Takes known keys out of everything that is about to be written, exceptions' text included."""
    return {name: redact_value(value) for name, value in event.items()}
