"""How long to wait, in every form in which a server may say it."""

from typing import Any

import pytest
from provider_errors import NOW_MS, google_error, openai_error, read

from paymaster.messages import Billing
from paymaster.providers.http_errors import classify
from paymaster.providers.retry_after import retry_after_ms


def openrouter_error(remaining: Any, reset: Any) -> dict[str, Any]:
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
    return openai_error("Rate limit exceeded: free-models-per-day", code=429, metadata={"headers": headers})


@pytest.mark.parametrize(
    ("headers", "body", "wait_ms"),
    [
        ({"retry-after": "23"}, {}, 23_000),
        ({"retry-after": "0.6"}, {}, 600),
        ({"retry-after-ms": "250", "retry-after": "1"}, {}, 250),
        ({"retry-after": "Wed, 18 Nov 2026 11:07:40 GMT"}, {}, 60_000),
        ({"retry-after": "Wed, 18 Nov 2026 11:00:00 GMT"}, {}, 0),
        ({"retry-after": "6m0s"}, {}, 360_000),
        ({"retry-after": "1h2m3.5s"}, {}, 3_723_500),
        ({"retry-after": "12ms"}, {}, 12),
        ({}, google_error(429, "X", "no", {"@type": "…RetryInfo", "retryDelay": "38.2s"}), 38_200),
        ({}, openai_error("Rate limit is exceeded. Try again in 2 seconds."), 2_000),
        ({}, openai_error("Please try again in 9m38.016s. Need more?"), 578_016),
        ({}, openai_error("Please try again in 20ms."), 20),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.574s"}, {}, 1_574),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7"}, {}, 7_000),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "7"}, {}, None),
        ({"retry-after": "2026-11-18T11:07:40Z"}, {}, 60_000),
        ({"retry-after": "2026-11-18T12:07:40.5+01:00"}, {}, 60_500),
        ({"retry-after": "1795000060.25"}, {}, 60_250),
        ({"retry-after": "1794999990"}, {}, 0),  # by our clock that has just passed
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795000060000"}, {}, 60_000),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "1795000060000"}, {}, None),
        ({}, openrouter_error("0", "1795000060000"), 60_000),
        ({}, openrouter_error("1", "1795000060000"), None),
        ({}, openrouter_error(0, 1795000060000), None),
        ({"retry-after": "soon"}, {}, None),
        ({"retry-after": "-1"}, {}, None),
        ({"retry-after": "99999999999999999999 seconds"}, {}, None),
        ({"retry-after": "9" * 400}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_wait_asked_for_is_understood_in_every_form(
    headers: dict[str, str], body: Any, wait_ms: int | None
) -> None:
    found = read(429, body, headers)
    assert (found.error_class.name, found.retry_after_ms) == ("rate_limited", wait_ms)


def test_a_header_alone_says_it_too() -> None:
    assert retry_after_ms({"retry-after": "7"}, NOW_MS) == 7_000
    assert retry_after_ms({}, NOW_MS) is None


@pytest.mark.parametrize("apart_s", [-600, 0, 600])
@pytest.mark.parametrize("written", ["Wed, 18 Nov 2026 11:07:40 GMT", "1795000060", "1795000060000", "60"])
def test_a_time_is_one_of_the_servers_clock(written: str, apart_s: int) -> None:
    """Ours may be ten minutes off: the answer's date says what time it is there."""
    headers = {"retry-after": written, "date": "Wed, 18 Nov 2026 11:06:40 GMT"}
    assert retry_after_ms_of(headers, NOW_MS + apart_s * 1_000) == 60_000


def retry_after_ms_of(headers: dict[str, str], now_ms: int) -> int | None:
    return classify(429, headers, b"", now_ms=now_ms).retry_after_ms


def test_a_date_that_is_days_off_says_nothing() -> None:
    for date in ("Mon, 18 Nov 2024 11:06:40 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "today", "9" * 300):
        headers = {"retry-after": "Wed, 18 Nov 2026 11:07:40 GMT", "date": date}
        assert retry_after_ms_of(headers, NOW_MS) == 60_000


DAYS_MS = 2 * 86_400_000


def test_a_time_since_the_epoch_is_one_in_any_unit() -> None:
    for unit_of_second in (1, 1_000, 1_000_000):
        at = str((NOW_MS // 1_000 + 30) * unit_of_second)
        assert abs((retry_after_ms({"retry-after": at}, NOW_MS) or 0) - 30_000) < 1_000


IN_TWO_DAYS = str((NOW_MS + DAYS_MS) // 1_000)


@pytest.mark.parametrize(
    ("status", "headers", "body", "name"),
    [
        (429, {"retry-after": IN_TWO_DAYS}, {}, "quota_exhausted"),
        (429, {"retry-after": f"{IN_TWO_DAYS}000"}, {}, "quota_exhausted"),
        (429, {"retry-after-ms": f"{IN_TWO_DAYS}000"}, {}, "quota_exhausted"),
        (429, {"retry-after": "172800"}, {}, "quota_exhausted"),
        (429, {"retry-after": "172800.0"}, {}, "quota_exhausted"),
        (429, {"retry-after": "48h0m0s"}, {}, "quota_exhausted"),
        (429, {"retry-after": "Fri, 20 Nov 2026 11:06:40 GMT"}, {}, "quota_exhausted"),
        (429, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "48h0m0s"}, {}, "quota_exhausted"),
        (429, {}, google_error(429, "RESOURCE_EXHAUSTED", "no", {"retryDelay": "172800s"}), "quota_exhausted"),
        (429, {}, openai_error("Please retry after 172800 seconds."), "quota_exhausted"),
        (429, {}, openrouter_error("0", f"{IN_TWO_DAYS}000"), "quota_exhausted"),
        (402, {"retry-after": "172800"}, openai_error("pay"), "quota_exhausted"),
        (503, {"retry-after": "172800"}, openai_error("maintenance"), "overloaded"),
        (529, {"retry-after": IN_TWO_DAYS}, {}, "overloaded"),
    ],
)
def test_a_wait_of_days_is_an_alert_and_a_pause(status: int, headers: dict[str, str], body: Any, name: str) -> None:
    """The call goes to its next candidate, and nothing is sent there until then: a breaker would probe all day."""
    found = read(status, body, headers)
    assert found.retry_after_ms == DAYS_MS
    error_class = found.error_class
    assert (error_class.name, error_class.billing) == (name, Billing.NOT_BILLED)
    assert (error_class.alert, error_class.pauses, error_class.fall_back) == (True, True, True)
    assert (error_class.retry, error_class.trips_breaker) == (False, False)


def test_days_for_one_model_are_a_pause_of_the_model() -> None:
    for status in (429, 503):
        found = read(status, openai_error("gpt-7 is gone for a while"), {"retry-after": "172800"}, model="gpt-7")
        assert (found.error_class.of_model, found.error_class.pauses) == (True, True)
