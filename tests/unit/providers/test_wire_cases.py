"""Recorded and realistic answers of real services come out as a correct client would have them.

The cases are not part of this project: `PAYMASTER_WIRE_CASES` names the folder that has them.
"""

import copy
import json
import os
import time
from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from raw_server import SomeKeys, failure_of
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire import GRANT

from activities.call_service import CallServiceActivities
from paymaster.calls.cost import known_cost
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import AttemptReport, Billing, Completion, Failure, LLMRequest, ServiceCall
from paymaster.providers.answers import request_id
from paymaster.providers.connections import Connections
from paymaster.providers.http_errors import CONTENT_FILTERED, HttpError, classify
from paymaster.providers.price_list import listed_cost
from paymaster.providers.provider import MalformedAnswer, ServiceAnswer, ServiceError
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import Api, ServiceSettings
from paymaster.values.money import Price

FOLDER = os.environ.get("PAYMASTER_WIRE_CASES")
FILES = sorted(Path(FOLDER).glob("*.json")) if FOLDER else []
GRANTED = Price(input_nanos=0, output_nanos=0, source="of another model")
NOW = datetime.fromisoformat("2026-11-22T12:00:00+00:00")
BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "azure": "https://example.openai.azure.com/openai/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta",
    "mistral": "https://api.mistral.ai/v1",
    "groq": "https://api.groq.com/openai/v1",
    "deepseek": "https://api.deepseek.com",
    "openrouter": "https://openrouter.ai/api/v1",
}
APIS: dict[str, Api] = {"chat": "openai", "responses": "openai-responses", "messages": "anthropic"}
CLASSES = {
    "rate_limited": {"rate_limited"},
    "overloaded": {"overloaded"},
    "server_error": {"retryable"},
    "malformed_answer": {"retryable"},
    "timeout": {"timeout", "retryable"},
    "bad_sample": {"retryable"},
    "quota_exhausted": {"quota_exhausted"},
    "auth": {"auth"},
    "model_not_found": {"model_not_found"},
    "exceeds_rate_limit": {"not_retryable"},
    "context_too_long": {"context_too_long"},
    "content_filtered": {"content_filtered"},
    "invalid_request": {"not_retryable"},
}
"""The words of the cases for our classes."""


def service_of(case: dict[str, Any]) -> ServiceSettings:
    provider = case["provider"]
    api: Api = "gemini" if case["api"] == "generateContent" else APIS[case["api"]]
    if (provider, api) == ("azure", "openai"):
        api = "azure-openai"
    base_url = BASE_URLS.get(provider, "http://127.0.0.1:8000/v1")
    if (provider, api) == ("google", "openai"):
        base_url += "/openai"
    return ServiceSettings(api=api, base_url=base_url, key="a-key")


def cases_of(file: Path) -> list[dict[str, Any]]:
    """The case; and one more, at Azure, of an answer that Azure's Responses API gives too."""
    case = json.loads(file.read_text())
    if (case["provider"], case["api"]) != ("openai", "responses"):
        return [case]
    return [case, case | {"provider": "azure"}]


CASES = [pytest.param(case, id=f"{file.stem}-{case['provider']}") for file in FILES for case in cases_of(file)]


def body_of(response: dict[str, Any]) -> bytes:
    text = response.get("body_text")
    return (json.dumps(response["body"]) if text is None else text).encode()


def read(case: dict[str, Any]) -> ServiceAnswer | HttpError | ServiceError:
    """What `call_service` reads from the case's response."""
    response, service = case["response"], service_of(case)
    headers = {name.lower(): value for name, value in response["headers"].items()}
    body, now_ms = body_of(response), int(NOW.timestamp() * 1000)
    if response["status"] != 200:
        return classify(response["status"], headers, body, now_ms=now_ms)
    provider = PROVIDERS[service.api]
    if headers.get("content-type", "").startswith("text/event-stream"):
        answer = provider.parse_stream(body, service)
    else:
        answer = provider.parse_response(body, service)
    if isinstance(answer, ServiceError):
        return classify(answer.status, headers, answer.body, now_ms=now_ms, within_200=True)
    return answer


COUNTED_APART = {"gemini_openai_compat_tools": (34, "0.0004225")}
"""Output and price of cases whose total has tokens that no other count has: Google's thoughts. What is expected there
leaves them out; they are billed."""
UNFINISHED = {"openai_responses_background_queued"}
"""Cases that are taken for empty answers there. They are none: nothing has been said yet."""


def test_the_wire_cases_are_there() -> None:
    """Says in plain sight that they were not run."""
    if not FILES:
        pytest.skip("PAYMASTER_WIRE_CASES does not name a folder with wire cases")


def expected_of(case: dict[str, Any]) -> dict[str, Any]:
    expected = copy.deepcopy(case["expected"])
    if case["id"] in COUNTED_APART:
        expected["billing"]["usage"]["output_tokens"], expected["billing"]["price_usd"] = COUNTED_APART[case["id"]]
    expected["billing"] = (expected.get("billing") or {}) | expected.get("billing_all_iterations", {})
    return expected


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_answer_comes_out_right(case: dict[str, Any]) -> None:
    expected = expected_of(case)
    headers = {name.lower(): value for name, value in case["response"]["headers"].items()}
    if expected["provider_request_id"] is not None:
        assert request_id(headers, body_of(case["response"])) == expected["provider_request_id"]
    if case["id"] in UNFINISHED:
        with pytest.raises(MalformedAnswer):
            read(case)
    elif expected["outcome"] == "ok":
        check_answer(case, read(case))
    else:
        check_error(case)


def check_error(case: dict[str, Any]) -> None:
    expected = case["expected"]
    try:
        found = read(case)
    except MalformedAnswer:
        assert "retryable" in expected["accept_classes"]
        return
    if isinstance(found, ServiceAnswer):
        assert found.refused
        found = HttpError(CONTENT_FILTERED, "", None)
    assert isinstance(found, HttpError)
    words = CLASSES[found.error_class.name]
    assert words & set(expected["accept_classes"]), found
    if expected["error_class"] in words:
        # An attempt that may have been billed is repeated too, by the workflow and under a new hold; so is one of a
        # model whose own limit was reached.
        again = found.error_class.retry or found.error_class.billing is Billing.UNKNOWN or found.error_class.of_model
        if "x-should-retry" not in case["response"]["headers"]:
            assert again == expected["retry_same_model"], found
    if expected["retry_after_s"] is not None:
        assert found.retry_after_ms == expected["retry_after_s"] * 1000
    else:
        assert found.retry_after_ms is None


def check_answer(case: dict[str, Any], answer: ServiceAnswer | HttpError | ServiceError) -> None:
    expected = expected_of(case)
    billing = expected["billing"]
    assert isinstance(answer, ServiceAnswer), answer
    assert answer.text.strip() == expected["text"].strip()
    assert answer.model == expected["model"]
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
    assert calls == expected["tool_calls"]
    assert answer.finish_reason == expected["finish_reason"]
    if billing["usage"] is None:
        assert answer.usage is None
        return
    assert answer.usage is not None
    names = {
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
        "cache_read_tokens": answer.usage.cached_input_tokens,
        "cache_write_tokens": answer.usage.cache_write_tokens,
        "output_reasoning_tokens": answer.usage.reasoning_tokens,
        "input_audio_tokens": answer.usage.input_audio_tokens,
        "web_searches": answer.usage.web_searches,
    }
    assert {name: count for name, count in billing["usage"].items() if name in names} == {
        name: count for name, count in names.items() if count or name in billing["usage"]
    }
    cost = known_cost(GRANTED, answer.cost_nanos, partial(listed_cost, service_of(case), answer, NOW))
    assert (None if cost is None else cost.nanos) == nanos_of(billing)


def nanos_of(billing: dict[str, Any]) -> int | None:
    price = billing.get("provider_reported_cost_usd") or billing.get("price_usd")
    return None if price is None else int(Decimal(price).scaleb(9).to_integral_value(rounding=ROUND_CEILING))


# ---------------------------------------------------------------- through the whole activity


class Answering(Connections):
    """Connections on which every request gets one response."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__({})
        headers = {name: value for name, value in response["headers"].items() if name.lower() not in OF_THE_WIRE}
        self.client = httpx.AsyncClient(
            transport=httpx.MockTransport(
                lambda request: httpx.Response(
                    response["status"], headers=headers, stream=httpx.ByteStream(body_of(response))
                )
            )
        )

    def __getitem__(self, service: str) -> httpx.AsyncClient:
        return self.client

    async def close(self) -> None:
        await self.client.aclose()


OF_THE_WIRE = ("content-encoding", "content-length", "transfer-encoding")
"""Headers of how a body was sent, which is not recorded."""


async def attempted(case: dict[str, Any]) -> Completion | Failure:
    connections = Answering(case["response"])
    reports = GroupCommit[AttemptReport, None](ignored, size_of=lambda _: 0)
    activities = CallServiceActivities({"one": service_of(case)}, SomeKeys(), connections, reports)
    environment = ActivityEnvironment()
    model = (case["request"]["body"] or {}).get("model") or "the-model"
    hold_id = f"{environment.info.workflow_run_id}/1"
    grant = GRANT.model_copy(update={"hold_id": hold_id, "price": GRANTED, "model": model})
    request = LLMRequest(route="r", budget="acme", prompt="Hello")
    try:
        return await environment.run(activities.call_service, ServiceCall(grant=grant, request=request))
    except ApplicationError as error:
        return failure_of(error)
    finally:
        await connections.close()


async def ignored(reports: Sequence[AttemptReport]) -> Sequence[None]:
    return [None] * len(reports)


@pytest.mark.parametrize("case", CASES)
async def test_a_recorded_answer_goes_through_the_activity(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, errors inside a 200 and others alike: what the agent gets, and what is booked for it."""
    clock = SimpleNamespace(time=NOW.timestamp, monotonic=time.monotonic)
    monkeypatch.setattr("paymaster.providers.exchange.time", clock)
    expected, found = expected_of(case), await attempted(case)
    (attempt,) = found.attempts
    assert attempt.http_status == case["response"]["status"]
    if expected["provider_request_id"] is not None:
        assert attempt.provider_request_id == expected["provider_request_id"]
    if case["id"] in UNFINISHED:
        assert (attempt.error_class, attempt.billing) == ("malformed_answer", Billing.UNKNOWN)
        return
    if expected["outcome"] == "ok":
        assert isinstance(found, Completion)
        assert found.text.strip() == expected["text"].strip()
        assert [(call.name, call.arguments) for call in found.tool_calls] == [
            (call["name"], call["arguments"]) for call in expected["tool_calls"]
        ]
        assert found.finish_reason == expected["finish_reason"]
        assert attempt.model_answered == expected["model"]
    elif isinstance(found, Completion):
        assert found.refused
        assert "content_filtered" in expected["accept_classes"]
    else:
        assert CLASSES[found.reason] & set(expected["accept_classes"])
    usage, nanos = expected["billing"].get("usage"), nanos_of(expected["billing"])
    if usage is not None:
        assert attempt.usage is not None
        counted = (attempt.usage.input_tokens, attempt.usage.output_tokens)
        assert counted == (usage["input_tokens"], usage.get("output_tokens", 0))
    if nanos is not None:
        assert (attempt.billing, attempt.cost_nanos) == (Billing.BILLED, nanos)
    elif expected["outcome"] == "error":
        assert attempt.billing is not Billing.BILLED
    else:
        assert attempt.cost_nanos is None, "the grant's price, or its bound"
        assert (attempt.billing is Billing.BILLED) == (attempt.usage is not None)
