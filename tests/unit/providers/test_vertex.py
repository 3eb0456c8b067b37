"""Vertex AI: Claude and Gemini in the words of Google Cloud."""

import json
from typing import Any

import pytest
from wire import GRANT, WEATHER, ask, build, service
from wire_answers import GEMINI

from paymaster.messages import Billing, ChatMessage, Image, ServiceCall
from paymaster.providers.answers import HttpAnswer, read_answer
from paymaster.providers.provider import UnsupportedParameter
from paymaster.providers.registry import PROVIDERS

GEMINI_MODEL = "gemini-2.5-flash"


@pytest.mark.parametrize("stream", [False, True])
def test_claudes_version_is_in_the_body_its_model_in_the_path(stream: bool) -> None:
    request = ask(system="Be brief.", tools=(WEATHER,), temperature=0.5)
    claude = build(request, "anthropic", stream=stream)
    found = build(request, "vertex-claude", stream=stream)
    body = dict(claude.body)
    del body["model"]
    assert found.body == {"anthropic_version": "vertex-2023-10-16", **body}
    assert found.headers == {}


@pytest.mark.parametrize(("stream", "method"), [(False, "rawPredict"), (True, "streamRawPredict")])
def test_a_version_of_a_model_stays_as_it_is_in_the_path(stream: bool, method: str) -> None:
    grant = GRANT.model_copy(update={"model": "claude-sonnet-4-5@20250929"})
    path = PROVIDERS["vertex-claude"].build_request(ask(), grant, service("vertex-claude"), stream).path
    assert path == f"/publishers/anthropic/models/claude-sonnet-4-5@20250929:{method}"


def test_claude_there_fetches_no_image() -> None:
    said = ChatMessage(role="user", content="What is it?", images=(Image(url="https://example.com/a.png"),))
    with pytest.raises(UnsupportedParameter, match="images"):
        build(ask(messages=(said,)), "vertex-claude")


@pytest.mark.parametrize("stream", [False, True])
def test_geminis_request_is_the_one_of_its_own_api(stream: bool) -> None:
    own, found = build(ask(), "gemini", stream=stream), build(ask(), "vertex-gemini", stream=stream)
    assert (found.body, found.path) == (own.body, f"/publishers/google{own.path}")


@pytest.mark.parametrize(
    ("traffic", "billing"),
    [
        ("ON_DEMAND", Billing.BILLED),
        ("PROVISIONED_THROUGHPUT", Billing.BILLED),
        ("ON_DEMAND_PRIORITY", Billing.UNKNOWN),
    ],
)
def test_another_kind_of_traffic_costs_nobody_knows_what(traffic: str, billing: Billing) -> None:
    usage: Any = GEMINI["usageMetadata"] | {"trafficType": traffic}
    body = json.dumps(GEMINI | {"modelVersion": GEMINI_MODEL, "usageMetadata": usage}).encode()
    call = ServiceCall(grant=GRANT.model_copy(update={"model": GEMINI_MODEL}), request=ask())
    answer = HttpAnswer(200, [(b"content-type", b"application/json")], body)
    found = read_answer(call, service("vertex-gemini"), answer, started_at_ms=0, now_ms=0)
    assert found.billing is billing
    assert (found.facts.cost_nanos is not None) is (billing is Billing.BILLED)
