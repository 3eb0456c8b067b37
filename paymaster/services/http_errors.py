"""What an HTTP answer other than success means: one table, one pure function."""

import json
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.messages import Billing


class ErrorClass(NamedTuple):
    """What to do about an error."""

    name: str
    billing: Billing
    retry: bool = False
    """The same service again, under the same hold. Only where nothing was billed."""
    fall_back: bool = True
    """The next candidate of the route may do better. False: the request is wrong everywhere."""
    trips_breaker: bool = False
    """The service's fault: so many in a row open its breaker."""


_BY_STATUS = {
    400: ErrorClass("invalid_request", Billing.NOT_BILLED, fall_back=False),
    401: ErrorClass("auth", Billing.NOT_BILLED, trips_breaker=True),
    402: ErrorClass("quota", Billing.NOT_BILLED, trips_breaker=True),
    403: ErrorClass("auth", Billing.NOT_BILLED, trips_breaker=True),
    404: ErrorClass("model_not_found", Billing.NOT_BILLED),
    408: ErrorClass("timeout", Billing.UNKNOWN, trips_breaker=True),
    409: ErrorClass("server_error", Billing.NOT_BILLED, retry=True, trips_breaker=True),
    413: ErrorClass("context_too_long", Billing.NOT_BILLED),
    422: ErrorClass("invalid_request", Billing.NOT_BILLED, fall_back=False),
    429: ErrorClass("rate_limited", Billing.NOT_BILLED, retry=True),
    502: ErrorClass("server_error", Billing.UNKNOWN, trips_breaker=True),
    504: ErrorClass("timeout", Billing.UNKNOWN, trips_breaker=True),
    529: ErrorClass("overloaded", Billing.NOT_BILLED, retry=True, trips_breaker=True),
}
_OWN_SERVER_ERROR = ErrorClass("server_error", Billing.NOT_BILLED, retry=True, trips_breaker=True)
_OTHER_SERVER_ERROR = ErrorClass("server_error", Billing.UNKNOWN, trips_breaker=True)
_OTHER = ErrorClass("unexpected_status", Billing.NOT_BILLED)


class HttpError(NamedTuple):
    error_class: ErrorClass
    message: str
    """The provider's own words, or the start of the body."""
    retry_after_ms: int | None
    """What the server asked for. None: it did not say, or not in seconds."""


def classify(status: int, headers: dict[str, str], body: bytes, *, errors_billed: bool = False) -> HttpError:
    """The meaning of an answer whose status is not 2xx. Header names are in lower case.

    A 500 or 503 with the provider's own error body came from the provider, which did not bill it (unless its
    configuration says `errors_billed`); without one a proxy on the way may have cut off a call that was.
    """
    message = provider_message(body)
    error_class = _BY_STATUS.get(status)
    if error_class is None:
        own = status in (500, 503) and message is not None
        error_class = _OWN_SERVER_ERROR if own else _OTHER_SERVER_ERROR if status >= 500 else _OTHER
    if errors_billed and status >= 500:
        error_class = error_class._replace(billing=Billing.UNKNOWN, retry=False)
    text = message or body[:300].decode(errors="replace")
    return HttpError(error_class, f"HTTP {status}: {text}", _retry_after_ms(headers))


def provider_message(body: bytes) -> str | None:
    """The error message in the body, or None when the body is not an error of a provider's own."""
    try:
        data: JsonValue = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    error = data.get("error", data)
    if isinstance(error, str):
        return error
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None


def _retry_after_ms(headers: dict[str, str]) -> int | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return int(seconds * 1000) if 0 <= seconds < 1e9 else None
