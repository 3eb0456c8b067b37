"""Known keys are found in whatever form somebody writes them, and nothing else is touched."""

import html
import json
import logging
import re
import sys
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from io import StringIO
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_search import find_key
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DefaultFailureConverter
from temporalio.exceptions import ApplicationError

from activities.send_alerts import SendAlertsActivities
from paymaster import redaction
from paymaster.cli import main, present
from paymaster.keys.api_key import ApiKey
from paymaster.plugin import PaymasterPlugin
from paymaster.redaction import (
    RedactingFilter,
    redact,
    redact_bytes,
    redact_crashes,
    redact_logs,
    redact_value,
    remember,
)
from paymaster.security.failures import RedactingFailureConverter
from paymaster.values.client_key import new_client_key
from paymaster.values.limits import FAILURE_MESSAGE_BYTES_MAX, FAILURE_TRACEBACK_BYTES_MAX

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
KEY = "sk-live+Zq7/Wm3=Kx9%Tf5'Rb2\"Hd8\\Lc4&Vn6"
"""With characters that URLs, JSON, HTML and Python escape, and that base64 meets with + and /."""
WRITTEN: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda text: json.dumps({"a": text}),
    "JSON in JSON": lambda text: json.dumps(json.dumps({"a": text})),
    "JSON with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "JSON that escapes all it may": lambda text: re.sub("[^A-Za-z0-9]", lambda sign: f"\\u{ord(sign[0]):04x}", text),
    "URL": quote,
    "URL, all of it": lambda text: quote(text, safe=""),
    "URL, form": quote_plus,
    "URL, lower case": lambda text: re.sub("%..", lambda sign: sign[0].lower(), quote(text, safe="")),
    "URL in URL": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML": html.escape,
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: urlsafe_b64encode(text.encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
}


@pytest.fixture(autouse=True)
def no_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test knows its own keys, and leaves none behind."""
    monkeypatch.setattr(redaction, "known_secrets", {})


@pytest.mark.parametrize("form", ["plain", "JSON", "JSON in JSON", "URL, all of it", "HTML", "repr of bytes"])
def test_a_clients_key_is_taken_out_by_how_it_looks(form: str) -> None:
    """Whoever holds it, told or not, and also when it was cut off; its id stays."""
    key = new_client_key()
    for sent in (key.text, key.text[:30]):
        redacted = redact(WRITTEN[form](f"Bearer {sent} and so on"))
        assert f"{key.id}_[key]" in redacted
        assert key.text[17:29] not in redacted
    assert redact(f"{key.id} is revoked") == f"{key.id} is revoked"


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("before", ["", "a", "ab", "Bearer "])
def test_a_known_key_is_taken_out_in_every_form(form: str, before: str) -> None:
    """And the search that all leak tests use finds it there before, so that they can fail."""
    written = WRITTEN[form](f"{before}{KEY} and so on")
    assert find_key(written, KEY)
    assert redact(written) == written, "nobody has told of it yet"
    ApiKey(KEY)
    redacted = redact(written)
    assert "[key]" in redacted
    assert find_key(redacted, KEY) == []
    assert find_key(redact_bytes(written.encode()).decode(), KEY) == []


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=60),
    st.sampled_from(sorted(WRITTEN)),
)
def test_any_key_is_taken_out_in_every_form(key: str, form: str) -> None:
    """Whatever the characters are that it is made of."""
    remember(key)
    written = WRITTEN[form](f"<{key}>")
    assert "[key]" in redact(written)
    assert key not in redact(written)


def test_text_without_a_key_stays_as_it_is() -> None:
    """Also a text that has a piece of one, and one with a short key: that is a placeholder, and ordinary words."""
    ApiKey(KEY)
    ApiKey("none")
    for text in ("", "none of it", KEY[:20], "sk-live+Zq7/Wm3=Kx9", b64encode(b"something else").decode()):
        assert redact(text) == text


def test_all_keys_that_were_ever_known_are_taken_out() -> None:
    """A rotated one too. Of a thousand and more the oldest are forgotten, so that memory has an end."""
    ApiKey("the-old-key-1")
    ApiKey("the-new-key-2")
    assert redact("the-old-key-1, the-new-key-2") == "[key], [key]"
    for number in range(redaction.SECRETS_MAX):
        remember(f"another-key-{number}")
    assert redact("the-old-key-1") == "the-old-key-1"
    assert redact("another-key-7") == "[key]"


def test_the_secret_part_of_a_webhooks_url_is_taken_out_like_a_key() -> None:
    """HTTP libraries log whole URLs, and the path apart."""
    SendAlertsActivities("https://hooks.example.com/services/T0/B0/Zq7Wm3Kx9?v=1")
    assert (
        redact("POST https://hooks.example.com/services/T0/B0/Zq7Wm3Kx9?v=1") == "POST https://hooks.example.com[key]"
    )
    assert redact("target=b'/services/T0/B0/Zq7Wm3Kx9?v=1'") == "target=b'[key]'"


def test_a_long_text_is_searched_in_milliseconds() -> None:
    """Bodies of answers are searched for every call: ten keys in a million characters."""
    for number in range(10):
        remember(f"sk-proj-{number}-Zq7Wm3Kx9Tf5Rb2Hd8Lc4Vn6")
    text = json.dumps({"content": "The quick brown fox, sk-proj, and so on. " * 25_000})
    started = time.perf_counter()
    assert redact(text) == text
    took_s = time.perf_counter() - started
    print(f"10 keys in {len(text)} characters: {took_s * 1000:.1f} ms")
    assert took_s < 1


# ---------------------------------------------------------------- logs


@pytest.fixture
def logged() -> tuple[logging.Logger, StringIO]:
    """A logger with the filter on its handler, and what that wrote."""
    logger, stream = logging.Logger("redacted", logging.DEBUG), StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s %(extra)s", defaults={"extra": ""}))
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    ApiKey(KEY)
    return logger, stream


def test_no_log_line_has_a_key(logged: tuple[logging.Logger, StringIO]) -> None:
    """Not in the message, its arguments, an object's repr, extra fields, nor the traceback with its causes."""
    logger, stream = logged
    logger.info(KEY)
    logger.info("argument %s, %r and %s", KEY, {"header": KEY}, Exception(KEY))
    logger.info("extra", extra={"extra": {"deep": [{"key": KEY}], "object": Exception(KEY)}})
    try:
        try:
            raise ConnectionError(f"cannot reach https://gateway/{quote(KEY, safe='')}/v1")
        except ConnectionError as error:
            raise ValueError(json.dumps({"sent": KEY})) from error
    except ValueError:
        logger.exception("failed with %s", KEY)
    written = stream.getvalue()
    assert find_key(written, KEY) == []
    assert written.count("[key]") == 9
    assert "ConnectionError" in written
    assert "ValueError" in written


def test_a_log_line_without_a_key_stays_as_it_is(logged: tuple[logging.Logger, StringIO]) -> None:
    """Its arguments and exception too: other formatters want them."""
    logger, stream = logged
    records: list[logging.LogRecord] = []
    logger.handlers[0].addFilter(lambda record: records.append(record) or True)
    try:
        raise ValueError("an ordinary one")
    except ValueError:
        logger.exception("%s of %s", 1, 2)
    assert stream.getvalue().startswith("1 of 2 \nTraceback")
    assert (records[0].msg, records[0].args) == ("%s of %s", (1, 2))
    assert records[0].exc_info is not None


def test_values_for_traces_are_searched_wherever_they_are() -> None:
    """Mappings, sequences and objects; what has no key stays the same value."""
    ApiKey(KEY)
    assert redact_value({"a": [KEY, 1, None, True], KEY: b"x" + KEY.encode()}) == {
        "a": ["[key]", 1, None, True],
        "[key]": b"x[key]",
    }
    error = ValueError("fine")
    assert redact_value(error) is error
    assert redact_value(ValueError(KEY)) == "[key]"

    class Quiet(ValueError):
        def __str__(self) -> str:
            return "only its repr says it"

    assert redact_value(Quiet(KEY)) == "Quiet('[key]')"


# ---------------------------------------------------------------- crashes and failures


def test_a_crash_prints_its_traceback_without_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the main thread and in others."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    ApiKey(KEY)
    redact_crashes()
    error = RuntimeError(f"the header was {KEY}")
    sys.excepthook(RuntimeError, error, None)

    def crash() -> None:
        raise error

    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()
    written = capsys.readouterr().err
    assert written.count("RuntimeError: the header was [key]") == 2
    assert find_key(written, KEY) == []


def test_a_command_that_crashes_or_prints_a_key_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever prints: a defect's traceback, notes, lines, tables, texts and JSON."""
    ApiKey(KEY)

    def crash() -> None:
        raise RuntimeError(KEY)

    monkeypatch.setattr("paymaster.cli.app", crash)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    present.print_note(KEY)
    present.print_line(KEY)
    present.print_text(KEY)
    present.print_json({"key": KEY})
    present.print_table(["key"], [[KEY]])
    written = capsys.readouterr()
    assert (written.out + written.err).count("[key]") == 6
    assert find_key(written.out + written.err, KEY) == []


@pytest.mark.parametrize("encoded", [False, True])
def test_no_failure_that_temporal_keeps_has_a_key(encoded: bool) -> None:
    """Message, traceback, details and causes, also of one that came from another workflow as it is."""
    ApiKey(KEY)
    converter = RedactingFailureConverter(encoded=encoded)
    payloads = pydantic_data_converter.payload_converter
    received = Failure(message=f"elsewhere: {KEY}", application_failure_info=ApplicationFailureInfo())
    cause = DefaultFailureConverter().from_failure(received, payloads)
    failure = Failure()
    try:
        try:
            raise ConnectionError(quote(KEY)) from cause
        except ConnectionError as error:
            raise ApplicationError(KEY, {"sent": {"header": KEY}}, type=KEY) from error
    except ApplicationError as error:
        converter.to_failure(error, payloads, failure)
    written = str(failure)
    assert find_key(written, KEY) == []
    assert written.count("[key]") >= 5
    assert encoded or failure.cause.cause.message == "elsewhere: [key]"


@pytest.mark.parametrize("encoded", [False, True])
def test_a_failure_is_bounded_in_bytes(encoded: bool) -> None:
    """Whatever an exception says, at each level: a failure of an update has to fit into 2 MiB."""
    failure = Failure()
    try:
        try:
            raise ValueError("界" * 1_000_000)
        except ValueError as error:
            raise ApplicationError("x" * 3_000_000) from error
    except ApplicationError as error:
        RedactingFailureConverter(encoded=encoded).to_failure(error, pydantic_data_converter.payload_converter, failure)
    assert failure.ByteSize() < 2 * (FAILURE_MESSAGE_BYTES_MAX + FAILURE_TRACEBACK_BYTES_MAX)
    assert encoded or failure.cause.message.endswith("界…")


def test_every_client_with_the_plugin_keeps_keys_out_of_failures() -> None:
    """It is part of its data converter."""
    converter = PaymasterPlugin().configure_client({}).get("data_converter")  # pyright: ignore[reportArgumentType]
    assert converter is not None
    assert converter.failure_converter_class is RedactingFailureConverter


def test_logs_are_searched_once_however_often_they_are_set_up() -> None:
    """Each command in one process set them up anew, and each line was searched so many times."""
    for _ in range(3):
        redact_logs()
    for handler in logging.getLogger().handlers:
        assert sum(isinstance(each, RedactingFilter) for each in handler.filters) == 1
