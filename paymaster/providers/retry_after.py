"""How long a server asks to be left alone, in every form in which servers say so."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from pydantic import JsonValue

from paymaster.values.json_reading import list_of, object_of, text_of

WAIT_MAX_MS = 366 * 86_400_000
"""A longer wait is a mistake and counts as this one."""
_WRITTEN_MAX = 100
"""Characters in which a wait is written: a number, a duration or a date."""


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_SECONDS = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
_IN_MESSAGE = re.compile(r"(?:try again in|retry after|retry in) (\d[\dhms.]*)(?: ?(millisecond|second|minute|hour))?")
_UNITS_MS = {"millisecond": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000}


def wait_asked_ms(status: int, headers: Mapping[str, str], error: JsonValue, message: str, now_ms: int) -> int | None:
    """How long a provider asks to be left alone. Header names and the message are in lower case.

    The first place that says it: headers, Google's RetryInfo, the reset of a used-up limit, the message's text.
    """
    wait = retry_after_ms(headers, now_ms)
    for detail in map(object_of, list_of(object_of(error).get("details"))):
        if wait is None:
            wait = _duration_ms((text_of(detail.get("retryDelay")) or "")[:_WRITTEN_MAX])
    for what in ("requests", "tokens"):
        reset = headers.get(f"x-ratelimit-reset-{what}", "")[:_WRITTEN_MAX]
        if wait is None and status == 429 and headers.get(f"x-ratelimit-remaining-{what}") == "0":
            wait = _duration_ms(reset)
            wait = _number_ms(reset, 1_000, now_ms) if wait is None else wait  # Azure: whole seconds
    return _message_ms(message, now_ms) if wait is None else wait


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
    """A wait in this unit; a number near now is a time since the epoch, in seconds or milliseconds."""
    if not _SECONDS.fullmatch(text.strip()):
        return None
    number = float(text)
    for of_epoch_ms in (1_000, 1):
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
    """From now until an HTTP date; 0 when that has passed."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date
    try:
        at_ms = int(date.timestamp() * 1_000)
    except (ValueError, OverflowError):
        return None
    return max(0, min(at_ms - now_ms, WAIT_MAX_MS))


def _message_ms(message: str, now_ms: int) -> int | None:
    """Of "please try again in 9m38.016s", "Try again in 2 seconds", "retry after 86400 seconds"."""
    found = _IN_MESSAGE.search(message)
    if found is None:
        return None
    number, unit = found[1].rstrip("."), found[2]
    return _duration_ms(number) if unit is None else _number_ms(number, _UNITS_MS[unit], now_ms)
