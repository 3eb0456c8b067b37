"""How long to wait, in every form in which a server may say it."""

from typing import Any

import pytest
from provider_errors import NOW_MS, google_error, openai_error, read

from paymaster.providers.retry_after import retry_after_ms


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
