"""A call without an answer, as an HTTP response from which each SDK makes its own typed error."""

import json
import re
from itertools import count
from pathlib import Path

import anthropic
import google.genai
import google.genai.errors
import httpx2
import openai
import pytest
from google.genai.types import HttpOptions, HttpRetryOptions

from paymaster.messages import BudgetNotice, LLMResult, Outcome, WireAnswer
from paymaster.messages.wire import Dialect
from paymaster.wire.dialects import GRAMMARS
from paymaster.wire.refusals import Told, refusal, told

ENDS = [
    (Outcome.DENIED, "cap_reached", 0, 402, None, anthropic.PaymentRequiredError),
    (Outcome.DENIED, "run_budget_exhausted", 0, 402, None, anthropic.PaymentRequiredError),
    (Outcome.DENIED, "run_calls_exhausted", 0, 402, None, anthropic.PaymentRequiredError),
    (Outcome.DENIED, "run_time_over", 0, 402, None, anthropic.PaymentRequiredError),
    (Outcome.DENIED, "run_ended", 0, 403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    (Outcome.DENIED, "waited_too_long", 0, 429, openai.RateLimitError, anthropic.RateLimitError),
    (Outcome.DENIED, "queue_full", 0, 429, openai.RateLimitError, anthropic.RateLimitError),
    (Outcome.DENIED, "bound_above_cap", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "no_bound", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "bad_body", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "a_reason_of_tomorrow", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "unknown_budget", 0, 403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    (Outcome.DENIED, "unknown_route", 0, 404, openai.NotFoundError, anthropic.NotFoundError),
    (Outcome.DENIED, "call_id_reused", 0, 409, openai.ConflictError, anthropic.ConflictError),
    (Outcome.DENIED, "request_too_long", 0, 413, None, anthropic.ContentTooLargeError),
    (Outcome.UNAVAILABLE, "server_error", 0, 502, openai.InternalServerError, anthropic.InternalServerError),
    (Outcome.UNAVAILABLE, "ledger_unreachable", 0, 503, openai.InternalServerError, anthropic.ServiceUnavailableError),
    (Outcome.UNAVAILABLE, "rate_limited", 0, 429, openai.RateLimitError, anthropic.RateLimitError),
    (Outcome.UNAVAILABLE, "overloaded", 0, 503, openai.InternalServerError, anthropic.ServiceUnavailableError),
    (Outcome.UNAVAILABLE, "timeout", 1, 504, openai.InternalServerError, anthropic.GatewayTimeoutError),
    (Outcome.DENIED, "cap_reached", 1, 504, openai.InternalServerError, anthropic.GatewayTimeoutError),
    (Outcome.COMPLETED, None, 1, 504, openai.InternalServerError, anthropic.GatewayTimeoutError),
    (Outcome.UNAVAILABLE, "invalid_request", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.UNAVAILABLE, "unsupported_parameter", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.UNAVAILABLE, "context_too_long", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
]


def result(outcome: Outcome, reason: str | None, cost_nanos: int, wire: WireAnswer | None = None) -> LLMResult:
    return LLMResult(outcome=outcome, reason=reason, detail="in words", call_id="id", cost_nanos=cost_nanos, wire=wire)


def raised(answer: Told, dialect: Dialect) -> Exception:
    """What the SDK of this dialect raises for a response."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    try:
        if dialect == "anthropic":
            claude = anthropic.Anthropic(api_key="-", http_client=http, max_retries=0)
            claude.messages.create(model="m", max_tokens=1, messages=[])
        else:
            openai.OpenAI(api_key="-", http_client=http, max_retries=0).chat.completions.create(model="m", messages=[])
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return error
    raise AssertionError("the SDK took it for an answer")


@pytest.mark.parametrize(("outcome", "reason", "cost", "status", "of_openai", "of_anthropic"), ENDS)
def test_each_end_is_an_error_of_the_sdk(
    outcome: Outcome,
    reason: str | None,
    cost: int,
    status: int,
    of_openai: type[Exception] | None,
    of_anthropic: type[Exception] | None,
) -> None:
    for dialect in GRAMMARS:
        answer = told(result(outcome, reason, cost), dialect)
        googles = 424 if status == 504 or reason == "waited_too_long" else status
        assert answer.status == (googles if dialect == "gemini" else status)
        # An SDK sends 429 and 5xx once more, where that may end otherwise; what is paid for, or has waited, never.
        may_be_sent_again = status in (429, 502, 503) and reason != "waited_too_long"
        assert (answer.headers.get("x-should-retry") == "false") is not may_be_sent_again
        document = json.loads(answer.body)
        ours = document["error"]["paymaster"] if dialect.startswith("openai") else document["paymaster"]
        assert (ours["reason"], ours["call_id"], ours["cost_nanos"]) == (reason or "answer_withheld", "id", cost)
        wanted = of_anthropic if dialect == "anthropic" else of_openai
        if dialect != "gemini" and wanted is not None:
            assert type(raised(answer, dialect)) is wanted


TABLE = re.compile(r"^\| .* \| (\d{3}) \| `(\w+)` \| `(\w+)` \|$", re.MULTILINE)


def test_the_page_names_the_errors_of_the_sdks() -> None:
    page = (Path(__file__).parents[3] / "docs/transport.md").read_text()
    reasons = {402: "cap_reached", 429: "queue_full", 400: "no_bound", 403: "unknown_budget", 404: "unknown_route"}
    reasons |= {409: "call_id_reused", 413: "request_too_long", 504: "call_ended"}
    rows = {int(status): names for status, *names in TABLE.findall(page)}
    sdks: tuple[Dialect, ...] = ("openai", "anthropic")
    assert rows == {
        status: [type(raised(refusal(dialect, reason, "-"), dialect)).__name__ for dialect in sdks]
        for status, reason in reasons.items()
    }


def test_a_call_that_is_not_ended_is_named() -> None:
    answer = refusal("openai", "call_runs_on", "in words", call_id="id")
    assert (answer.status, answer.headers["x-should-retry"]) == (504, "false")
    assert answer.headers["x-paymaster-call-id"] == json.loads(answer.body)["error"]["paymaster"]["call_id"] == "id"


def raised_by_google(answer: Told) -> tuple[google.genai.errors.APIError, int]:
    """And how often its SDK has sent the request, which may be sent twice."""
    sent = count()

    def respond(request: httpx2.Request) -> httpx2.Response:
        next(sent)
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    retries = HttpRetryOptions(attempts=2, initial_delay=0.001, max_delay=0.001, jitter=0.001)
    options = HttpOptions(httpx_client=http, retry_options=retries)
    client = google.genai.Client(vertexai=False, api_key="-", http_options=options)
    with pytest.raises(google.genai.errors.APIError) as error:
        client.models.generate_content(model="m", contents="x")
    return error.value, next(sent)


@pytest.mark.parametrize(("outcome", "reason", "cost"), [end[:3] for end in ENDS])
def test_google_sends_nothing_again_that_ends_the_same_way(outcome: Outcome, reason: str | None, cost: int) -> None:
    answer = told(result(outcome, reason, cost), "gemini")
    error, sent = raised_by_google(answer)
    assert sent == (1 if "x-should-retry" in answer.headers else 2)
    assert isinstance(
        error, google.genai.errors.ClientError if answer.status < 500 else google.genai.errors.ServerError
    )
    assert (error.code, json.loads(answer.body)["error"]["code"]) == (answer.status, answer.status)


@pytest.mark.parametrize(("cost", "status", "sent"), [(0, 503, 2), (1, 424, 1)])
def test_googles_refusal_is_sent_again_where_nothing_was_paid(cost: int, status: int, sent: int) -> None:
    refusal = WireAnswer(status=503, headers={}, body=b'{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}')
    error, sent_by_it = raised_by_google(told(result(Outcome.UNAVAILABLE, "overloaded", cost, refusal), "gemini"))
    assert (error.code, error.status, sent_by_it) == (status, "UNAVAILABLE", sent)


@pytest.mark.parametrize("cost", [0, 1])
def test_a_providers_refusal_is_told_as_it_was(cost: int) -> None:
    """What may have been paid for is not sent once more, whatever the provider says."""
    refusal = WireAnswer(status=529, headers={"retry-after": "7"}, body=b'{"type": "error" }')
    answer = told(result(Outcome.UNAVAILABLE, "overloaded", cost, refusal), "anthropic")
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (529, refusal.body, "7")
    assert answer.headers.get("x-should-retry") == ("false" if cost else None)


SHORT = (
    BudgetNotice("budget:acme/content", "day", 10, 9, 1, (), 1_804_723_200_000),
    BudgetNotice("budget:acme", "month", 10, 9, 1, (), 1_806_537_600_000),
)


def told_of_money(in_the_way: tuple[BudgetNotice, ...], dialect: Dialect) -> dict[str, object]:
    """What the body of Paymaster says about a call that money is gone for."""
    denied = result(Outcome.DENIED, "cap_reached", 0).model_copy(update={"budget": in_the_way})
    body = json.loads(told(denied, dialect).body)
    return body["paymaster"] if "paymaster" in body else body["error"]["paymaster"]


@pytest.mark.parametrize("dialect", GRAMMARS)
def test_money_that_is_gone_says_where_and_until_when(dialect: Dialect) -> None:
    """The nearest account, and when the last of those in the way has a new window."""
    said = told_of_money(SHORT, dialect)
    assert (said["account"], said["window"], said["resets_at"]) == (
        "budget:acme/content",
        "day",
        "2027-04-01T00:00:00Z",
    )
    assert told_of_money((*SHORT, BudgetNotice("service:s", "total", 10, 9, 1)), dialect)["resets_at"] is None
    assert "account" not in told_of_money((), dialect), "a ledger of version 0.1.0 does not say"
