"""A call without an answer, as an HTTP response from which each SDK makes its own typed error."""

import json

import anthropic
import httpx2
import openai
import pytest

from paymaster.messages import LLMResult, Outcome, WireAnswer
from paymaster.messages.wire import Dialect
from paymaster.wire.dialects import GRAMMARS
from paymaster.wire.refusals import Told, told

ENDS = [
    (Outcome.DENIED, "cap_reached", 0, 402, None, None),
    (Outcome.DENIED, "waited_too_long", 0, 429, openai.RateLimitError, anthropic.RateLimitError),
    (Outcome.DENIED, "queue_full", 0, 429, openai.RateLimitError, anthropic.RateLimitError),
    (Outcome.DENIED, "bound_above_cap", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "no_bound", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "bad_body", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "a_reason_of_tomorrow", 0, 400, openai.BadRequestError, anthropic.BadRequestError),
    (Outcome.DENIED, "unknown_budget", 0, 403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    (Outcome.DENIED, "unknown_route", 0, 404, openai.NotFoundError, anthropic.NotFoundError),
    (Outcome.DENIED, "call_id_reused", 0, 409, openai.ConflictError, anthropic.ConflictError),
    (Outcome.DENIED, "request_too_long", 0, 413, None, anthropic.RequestTooLargeError),
    (Outcome.UNAVAILABLE, "server_error", 0, 502, openai.InternalServerError, anthropic.InternalServerError),
    (Outcome.UNAVAILABLE, "ledger_unreachable", 0, 503, openai.InternalServerError, None),
    (Outcome.UNAVAILABLE, "timeout", 1, 504, openai.InternalServerError, None),
    (Outcome.DENIED, "cap_reached", 1, 504, openai.InternalServerError, None),
    (Outcome.COMPLETED, None, 1, 504, openai.InternalServerError, None),
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
        assert answer.status == status
        # An SDK sends 429 and 5xx once more, where that may end otherwise; what is paid for, or has waited, never.
        may_be_sent_again = status in (429, 502, 503) and reason != "waited_too_long"
        assert (answer.headers.get("x-should-retry") == "false") is not may_be_sent_again
        document = json.loads(answer.body)
        ours = document["error"]["paymaster"] if dialect.startswith("openai") else document["paymaster"]
        assert (ours["reason"], ours["call_id"], ours["cost_nanos"]) == (reason or "answer_withheld", "id", cost)
        wanted = of_anthropic if dialect == "anthropic" else of_openai
        if dialect != "gemini" and wanted is not None:
            assert type(raised(answer, dialect)) is wanted


@pytest.mark.parametrize("cost", [0, 1])
def test_a_providers_refusal_is_told_as_it_was(cost: int) -> None:
    """What may have been paid for is not sent once more, whatever the provider says."""
    refusal = WireAnswer(status=529, headers={"retry-after": "7"}, body=b'{"type": "error" }')
    answer = told(result(Outcome.UNAVAILABLE, "overloaded", cost, refusal), "anthropic")
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (529, refusal.body, "7")
    assert answer.headers.get("x-should-retry") == ("false" if cost else None)
