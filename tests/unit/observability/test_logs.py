"""The worker's log: an object a line, and no key in it, whatever was logged and however."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from paymaster_process import ROOT
from temporalio import activity
from temporalio.exceptions import ApplicationError

from paymaster.keys.api_key import ApiKey
from paymaster.messages.temporal_names import BILLED, NOT_BILLED, UNKNOWN_OUTCOME
from paymaster.observability.logs import configure_logs
from paymaster.settings import LogSettings

SECRET = "sk-logs-Zq7Wm3Kx9TfRb2"


PRODUCT = [
    path for folder in ("paymaster", "workflows", "activities") for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("paymaster", "activities", "workflows", "httpx", "httpcore", "aiohttp.access", "azure"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def logged(form: Literal["auto", "json", "console"], level: Literal["info", "warning"] = "info") -> str:
    """Everything that a program can do with a key and a logger."""
    stream = io.StringIO()
    configure_logs(LogSettings(format=form, level=level), stream)
    logger = logging.getLogger("paymaster.test")
    key = ApiKey(SECRET)
    logger.info("used %s", key.reveal())
    logger.warning("with fields", extra={"header": f"Bearer {key.reveal()}", "nested": {"key": [key.reveal()]}})
    try:
        raise ValueError(f"cannot use {key.reveal()}")
    except ValueError:
        logger.exception("failed")
    return stream.getvalue()


def test_a_line_is_an_object_with_what_was_logged() -> None:
    used, fields, failed = [json.loads(line) for line in logged("auto").splitlines()]
    assert (used["event"], used["level"], used["logger"]) == ("used [key]", "info", "paymaster.test")
    assert (fields["header"], fields["nested"]) == ("Bearer [key]", {"key": ["[key]"]})
    assert failed["event"] == "failed"
    assert failed["exception"].endswith("ValueError: cannot use [key]")


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_form_shows_a_key(form: Any) -> None:
    text = logged(form)
    assert SECRET not in text
    assert text.count("[key]") == 4


def test_what_is_less_important_is_left_out() -> None:
    assert [json.loads(line)["event"] for line in logged("json", "warning").splitlines()] == ["with fields", "failed"]


def test_the_form_for_people_is_no_json_and_has_the_same_words() -> None:
    text = logged("console")
    assert "with fields" in text
    assert not text.startswith("{")


def test_at_level_debug_libraries_do_not_show_what_they_carry() -> None:
    """The Temporal SDK logs whole completions of activities, with prompts and answers, at that level."""
    stream = io.StringIO()
    configure_logs(LogSettings(format="json", level="debug"), stream)
    for name in (
        "temporalio.worker._activity",
        "temporalio.worker._workflow",
        "temporalio.service",
        "httpx",
        "httpcore.http11",
        "asyncio",
        "sqlalchemy.engine.Engine",
        "asyncpg",
        "a.library.of.next.year",
    ):
        logging.getLogger(name).debug("Completing activity with completion: %s", "the answer")
    for name in ("paymaster.worker", "activities.call_service", "workflows.ledger"):
        logging.getLogger(name).debug("of ours")
    assert "the answer" not in stream.getvalue()
    assert stream.getvalue().count("of ours") == 3


def test_a_logger_is_named_after_its_module() -> None:
    """But the root, those of libraries, whose levels are set in one place, and the worker's."""
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in PRODUCT
        for name in re.findall(r"getLogger\((.*?)\)", path.read_text())
    }
    levels_and_handlers = {("paymaster/observability/logs.py", "name")} | {
        (file, "") for file in ("paymaster/observability/logs.py", "paymaster/redaction.py")
    }
    others = {
        ("paymaster/observability/event_loop.py", '"paymaster.worker"'),
        ("paymaster/gateway/serving.py", '"uvicorn.error"'),
    }
    assert {(file, name) for file, name in named if name != "__name__"} == levels_and_handlers | others


def test_a_failed_attempt_is_told_once() -> None:
    """The SDK's own line about it, with a traceback, says nothing new; of any other failure it is the only one."""
    stream = io.StringIO()
    configure_logs(LogSettings(format="json"), stream)
    for kind in (NOT_BILLED, BILLED, UNKNOWN_OUTCOME, "SomethingElse"):
        try:
            raise ApplicationError("the service is busy", type=kind)
        except ApplicationError:
            activity.logger.warning("Completing activity as failed", exc_info=True)
    activity.logger.warning("attempt failed: busy")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["Completing activity as failed", "attempt failed: busy"]
    assert "SomethingElse" in lines[0]["exception"]
