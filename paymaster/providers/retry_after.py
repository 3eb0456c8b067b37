"""How long a server asks to be left alone, in every form in which servers say so."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pydantic import JsonValue

from paymaster.values.json_reading import list_of, object_of, text_of

WAIT_MAX_MS = 366 * 86_400_000
"""A longer wait is a mistake and counts as this one."""
_WRITTEN_MAX = 100
"""Characters in which a wait is written: a number, a duration or a date."""
_CLOCKS_APART_MAX_MS = 86_400_000
"""By more than this the server's clock is wrong, and ours counts."""
_LIMITS = ("-requests", "-tokens", "")
"""What names of limits end with in `x-ratelimit-…` headers."""
_REPEATED = ("X-RateLimit-Remaining", "X-RateLimit-Reset")
"""Headers that OpenRouter repeats in an error."""


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_SECONDS = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
_IN_MESSAGE = re.compile(r"(?:try again in|retry after|retry in) (\d[\dhms.]*)(?: ?(millisecond|second|minute|hour))?")
_UNITS_MS = {"millisecond": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000}


def wait_asked_ms(status: int, headers: Mapping[str, str], error: JsonValue, message: str, now_ms: int) -> int | None:
    """How long a provider asks to be left alone. Header names and the message are in lower case.

    The first place that says it: headers, Google's RetryInfo, the reset of a used-up limit (in the headers, or in those
    that OpenRouter repeats in the error), the message's text. A time is one of the server's clock.
    """
    now_ms = _server_now_ms(headers, now_ms)
    wait = retry_after_ms(headers, now_ms)
    fields = object_of(error)
    for detail in map(object_of, list_of(fields.get("details"))):
        if wait is None:
            wait = _duration_ms((text_of(detail.get("retryDelay")) or "")[:_WRITTEN_MAX])
    if wait is None and status == 429:
        wait = _reset_ms(headers, now_ms)
        wait = _reset_ms(_repeated_headers(fields), now_ms) if wait is None else wait
    return _message_ms(message, now_ms) if wait is None else wait


def _server_now_ms(headers: Mapping[str, str], now_ms: int) -> int:
    """By its `date` header, where that is not far off: ours may be wrong by minutes, which a time would be off by."""
    at_ms = _date_ms(headers.get("date", "")[:_WRITTEN_MAX])
    return now_ms if at_ms is None or abs(at_ms - now_ms) > _CLOCKS_APART_MAX_MS else at_ms


def _repeated_headers(error: Mapping[str, JsonValue]) -> dict[str, str]:
    headers = object_of(object_of(error.get("metadata")).get("headers"))
    return {name.lower(): text_of(headers.get(name)) or "" for name in _REPEATED}


def _reset_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    for limit in _LIMITS:
        reset = headers.get(f"x-ratelimit-reset{limit}", "")[:_WRITTEN_MAX]
        if headers.get(f"x-ratelimit-remaining{limit}") == "0":
            wait = _duration_ms(reset)
            wait = _number_ms(reset, 1_000, now_ms) if wait is None else wait  # Azure: whole seconds
            if wait is not None:
                return wait
    return None


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """What the headers `retry-after-ms` and `retry-after` say: a number, a duration or a date, which some write as the
    seconds since the epoch."""
    milliseconds = _number_ms(headers.get("retry-after-ms", "")[:_WRITTEN_MAX], 1, now_ms)
    if milliseconds is not None:
        return milliseconds
    written = headers.get("retry-after", "")[:_WRITTEN_MAX]
    wait = _number_ms(written, 1_000, now_ms)
    if wait is None:
        wait = _duration_ms(written)
    return _until_date_ms(written, now_ms) if wait is None else wait


def _number_ms(text: str, unit_ms: int, now_ms: int) -> int | None:
    """A wait in this unit; a number near now is a time since the epoch, in seconds, milliseconds or microseconds."""
    if not _SECONDS.fullmatch(text.strip()):
        return None
    number = float(text)
    for of_epoch_ms in (1_000, 1, 0.001):
        if abs(number * of_epoch_ms - now_ms) < WAIT_MAX_MS:
            return max(0, int(number * of_epoch_ms) - now_ms)
    return min(int(number * unit_ms), WAIT_MAX_MS)


def _duration_ms(text: str) -> int | None:
    """Of "38.2s", "6m0s", "1h2m3s", "12ms"."""
    found = _DURATION.fullmatch(text.strip()[:40]) if text.strip() else None
    if found is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part) if part else 0.0 for part in found.groups())
    return min(int(hours * 3_600_000 + minutes * 60_000 + seconds * 1_000 + milliseconds), WAIT_MAX_MS)


def _until_date_ms(text: str, now_ms: int) -> int | None:
    """From now until an HTTP date or one of ISO 8601; 0 when that has passed."""
    at_ms = _date_ms(text)
    return None if at_ms is None else max(0, min(at_ms - now_ms, WAIT_MAX_MS))


def _date_ms(text: str) -> int | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = read(text)
            return int((date.replace(tzinfo=UTC) if date.tzinfo is None else date).timestamp() * 1_000)
        except (ValueError, OverflowError):
            continue
    return None


def _message_ms(message: str, now_ms: int) -> int | None:
    """Of "please try again in 9m38.016s", "Try again in 2 seconds", "retry after 86400 seconds"."""
    found = _IN_MESSAGE.search(message)
    if found is None:
        return None
    number, unit = found[1].rstrip("."), found[2]
    return _duration_ms(number) if unit is None else _number_ms(number, _UNITS_MS[unit], now_ms)
