"""What every kind of failed answer means: whether it was billed, what is tried next, and how long to wait."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_errors import NOW_MS, anthropic_error, google_error, openai_error, quota_failure, read

from paymaster.messages import Billing
from paymaster.providers.http_errors import classify
from paymaster.providers.retry_after import WAIT_MAX_MS

DATE_PARTS = (
    "Wed,",
    "18",
    "Nov",
    "2026",
    "11:07:40",
    "24:61:61",
    "1:2",
    "GMT",
    "EST",
    "+9999",
    "9" * 21,
    "-1",
    "1e5",
    "(",
)
NO, UNKNOWN = Billing.NOT_BILLED, Billing.UNKNOWN


@pytest.mark.parametrize(
    ("status", "body", "name", "billing", "retry", "fall_back"),
    [
        # rate limits, which pass
        (429, openai_error(code="rate_limit_exceeded"), "rate_limited", NO, True, True),
        (429, anthropic_error("rate_limit_error"), "rate_limited", NO, True, True),
        (
            429,
            anthropic_error("rate_limit_error", details={"error_code": "ramp_limit_exceeded"}),
            "rate_limited",
            NO,
            True,
            True,
        ),
        (429, google_error(429, "RESOURCE_EXHAUSTED"), "rate_limited", NO, True, True),
        (
            429,
            google_error(429, "RESOURCE_EXHAUSTED", "check your plan and billing", quota_failure("TokensPerMinute")),
            "rate_limited",
            NO,
            True,
            True,
        ),
        (429, {"object": "error", "message": "slow down", "code": "1300"}, "rate_limited", NO, True, True),
        (
            402,
            openai_error(code=402, metadata={"limit_source": "openrouter_in_flight_budget"}),
            "rate_limited",
            NO,
            True,
            True,
        ),
        # money and plans, which do not
        (429, openai_error("check your plan", code="insufficient_quota"), "quota_exhausted", NO, False, True),
        (
            429,
            anthropic_error("rate_limit_error", details={"error_code": "contract_spend_limit_reached"}),
            "quota_exhausted",
            NO,
            False,
            True,
        ),
        (
            429,
            google_error(429, "RESOURCE_EXHAUSTED", "quota", quota_failure("RequestsPerDay"), {"retryDelay": "20s"}),
            "quota_exhausted",
            NO,
            False,
            True,
        ),
        (429, google_error(429, "X", "Please check your plan and billing"), "quota_exhausted", NO, False, True),
        (429, openai_error("Please retry after 86400 seconds."), "quota_exhausted", NO, False, True),
        (402, openai_error("Insufficient Balance"), "quota_exhausted", NO, False, True),
        (
            400,
            anthropic_error("invalid_request_error", "Your credit balance is too low to go on"),
            "quota_exhausted",
            NO,
            False,
            True,
        ),
        # keys
        (401, {"detail": "Unauthorized"}, "auth", NO, False, True),
        (403, anthropic_error("permission_error"), "auth", NO, False, True),
        (400, google_error(400, "INVALID_ARGUMENT", "bad", {"reason": "API_KEY_INVALID"}), "auth", NO, False, True),
        # models
        (404, openai_error(code="model_not_found"), "model_not_found", NO, False, True),
        (400, openai_error(code="model_not_found"), "model_not_found", NO, False, True),
        (404, openai_error(code="DeploymentNotFound"), "model_not_found", NO, False, True),
        # size
        (400, openai_error(code="context_length_exceeded"), "context_too_long", NO, False, True),
        (
            400,
            anthropic_error("invalid_request_error", "prompt is too long: 9 > 8"),
            "context_too_long",
            NO,
            False,
            True,
        ),
        (413, anthropic_error("request_too_large"), "context_too_long", NO, False, True),
        (
            400,
            {"object": "error", "message": "the maximum context length is 4096"},
            "context_too_long",
            NO,
            False,
            True,
        ),
        (413, openai_error(code="rate_limit_exceeded"), "exceeds_rate_limit", NO, False, True),
        (
            429,
            openai_error("Request too large for x: Limit 3, Requested 4. Try again in 1s", code="rate_limit_exceeded"),
            "exceeds_rate_limit",
            NO,
            False,
            True,
        ),
        # filters
        (400, openai_error(code="content_filter"), "content_filtered", NO, False, False),
        (403, openai_error("flagged by moderation", code=403), "content_filtered", NO, False, False),
        # what another one may take
        (400, openai_error(code="unsupported_value"), "invalid_request", NO, False, True),
        (422, {"detail": [{"msg": "field required"}]}, "invalid_request", NO, False, True),
        (400, b"", "invalid_request", NO, False, True),
        # the service's fault
        (500, openai_error("sorry"), "server_error", NO, True, True),
        (500, b"<html>", "server_error", UNKNOWN, False, True),
        (503, openai_error("overloaded"), "overloaded", NO, True, True),
        (503, b"<html>", "server_error", UNKNOWN, False, True),
        (529, anthropic_error("overloaded_error"), "overloaded", NO, True, True),
        (498, openai_error(code="capacity_exceeded"), "overloaded", NO, True, True),
        (429, {"message": "Service tier capacity exceeded for this model."}, "overloaded", NO, True, True),
        (409, anthropic_error("conflict_error"), "server_error", NO, True, True),
        (502, openai_error("bad gateway"), "server_error", UNKNOWN, False, True),
        (524, b"", "server_error", UNKNOWN, False, True),
        (408, openai_error("late"), "timeout", UNKNOWN, False, True),
        (504, b"", "timeout", UNKNOWN, False, True),
        (400, openai_error(code="tool_use_failed", failed_generation="{"), "bad_sample", UNKNOWN, False, True),
        (302, b"", "unexpected_status", NO, False, True),
        # a list around the error
        (429, [google_error(429, "RESOURCE_EXHAUSTED")], "rate_limited", NO, True, True),
    ],
)
def test_an_error_is_told_by_its_codes_and_words_before_its_status(
    status: int, body: Any, name: str, billing: Billing, retry: bool, fall_back: bool
) -> None:
    error_class = read(status, body).error_class
    assert (error_class.name, error_class.billing) == (name, billing)
    assert (error_class.retry, error_class.fall_back) == (retry, fall_back)


def test_a_wait_that_does_not_help_is_not_passed_on() -> None:
    """A used-up plan is not there again in 20 seconds, whatever the answer says."""
    assert read(429, openai_error(code="insufficient_quota"), {"retry-after": "20"}).retry_after_ms is None


def test_the_header_x_should_retry_wins_over_the_status_but_not_over_what_the_body_says() -> None:
    assert not read(500, openai_error(), {"x-should-retry": "false"}).error_class.retry
    assert read(404, b"", {"x-should-retry": "true"}).error_class.retry
    assert not read(429, openai_error(code="insufficient_quota"), {"x-should-retry": "true"}).error_class.retry
    assert not read(502, b"", {"x-should-retry": "true"}).error_class.retry, "it may have been billed"


def test_googles_internal_error_is_repeated_once_because_it_may_mean_that_the_input_is_too_long() -> None:
    found = read(500, google_error(500, "INTERNAL", "An internal error has occurred."))
    assert (found.error_class.name, found.error_class.retry, found.error_class.attempts_max) == (
        "server_error",
        True,
        2,
    )
    assert read(500, openai_error("sorry")).error_class.attempts_max is None


def test_an_error_within_a_200_may_have_been_billed_and_is_not_repeated_under_the_same_hold() -> None:
    error_class = read(529, anthropic_error("overloaded_error"), within_200=True).error_class
    assert (error_class.name, error_class.billing, error_class.retry) == ("overloaded", UNKNOWN, False)


@pytest.mark.parametrize("status", [500, 503, 529])
def test_a_service_that_bills_its_errors_leaves_them_unknown(status: int) -> None:
    error_class = read(status, openai_error(), errors_billed=True).error_class
    assert (error_class.billing, error_class.retry) == (UNKNOWN, False)


@pytest.mark.parametrize("name", ["quota", "auth", "model"])
def test_what_somebody_must_mend_alerts(name: str) -> None:
    status = {"quota": 402, "auth": 401, "model": 404}[name]
    assert read(status, openai_error()).error_class.alert


@pytest.mark.parametrize(
    ("body", "of_model"),
    [
        (openai_error("Rate limit reached for gpt-4o-mini in organization org-1 on tokens per min (TPM)"), True),
        (openai_error("Rate limit reached for requests"), False),
        (anthropic_error("rate_limit_error", "the rate limit of 30,000 tokens per minute (model: gpt-4o-mini)"), True),
        (anthropic_error("rate_limit_error", "Number of requests has exceeded your rate limit"), False),
        (google_error(429, "RESOURCE_EXHAUSTED", "no", quota_failure("TokensPerMinutePerProjectPerModel-Free")), True),
        (google_error(429, "RESOURCE_EXHAUSTED", "no", quota_failure("RequestsPerMinutePerProject")), False),
    ],
)
def test_a_limit_is_the_models_where_the_answer_says_so(body: Any, of_model: bool) -> None:
    """Then it is not waited for under the same hold; where no wait is named, it is like any other limit."""
    limited = read(429, body, {"retry-after": "12"}, model="gpt-4o-mini").error_class
    assert (limited.name, limited.of_model, limited.retry) == ("rate_limited", of_model, not of_model)
    assert not read(429, body, model="gpt-4o-mini").error_class.of_model
    assert read(429, body, {"retry-after": "90000"}, model="gpt-4o-mini").error_class.of_model is of_model


def test_a_models_quota_of_a_day_breaks_no_other_model() -> None:
    for quota, trips in (("RequestsPerDayPerProjectPerModel-FreeTier", False), ("RequestsPerDayPerProject", True)):
        spent = read(429, google_error(429, "RESOURCE_EXHAUSTED", "no", quota_failure(quota))).error_class
        assert (spent.name, spent.trips_breaker, spent.alert) == ("quota_exhausted", trips, True)


@given(
    status=st.integers(100, 999),
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["error", "message", "details", "code", "violations", "retryDelay"]), inner
            )
        ),
    ).map(lambda data: json.dumps(data).encode()),
    wait=st.text(max_size=30)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.lists(st.sampled_from(DATE_PARTS), max_size=8).map(" ".join),
    within_200=st.booleans(),
)
def test_whatever_a_server_says_is_classified_and_nothing_unsure_is_repeated(
    status: int, body: bytes, wait: str, within_200: bool
) -> None:
    headers = {"retry-after": wait, "retry-after-ms": wait, "x-ratelimit-reset-tokens": wait, "x-should-retry": "true"}
    found = classify(status, headers, body, now_ms=NOW_MS, within_200=within_200)
    assert not found.error_class.retry or found.error_class.billing is NO
    assert found.retry_after_ms is None or 0 <= found.retry_after_ms <= WAIT_MAX_MS
