"""Which activities ModelCalls takes for a plugin's model activity, and what it says of those that it leaves."""

from types import SimpleNamespace
from typing import Any

import pytest
from agents import ModelSettings
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters

from paymaster.integrations.model_calls import agents_sdk, pydantic_ai_models
from paymaster.integrations.model_calls.moving import Kept
from paymaster.transport import PaymasterTransport

TRANSPORT = PaymasterTransport("acme")
REQUEST = SimpleNamespace(
    messages=[ModelRequest(parts=[])],
    model_settings=None,
    model_request_parameters=ModelRequestParameters(),
    model_id=None,
)


@pytest.mark.parametrize(
    "name", ["summarize", "agent__a__toolset__t__call_tool", "my__model_request", "agent__x__model"]
)
def test_other_activities_are_nobodys(name: str) -> None:
    assert agents_sdk.moves(TRANSPORT)(name, [REQUEST]) is None
    assert pydantic_ai_models.moves(TRANSPORT)(name, [REQUEST, None]) is None


def test_the_agents_sdks_activity_is_known_by_its_argument() -> None:
    decided = agents_sdk.moves(TRANSPORT)
    request = {"input": "Hello", "model_settings": ModelSettings(), "tracing": 0}
    assert callable(decided("invoke_model_activity", [request]))


@pytest.mark.parametrize(
    "args", [[], ["Hello"], [{"input": "Hello"}], [{"input": 1, "model_settings": 1, "tracing": 0}, 2]]
)
def test_somebodys_activity_of_that_name_stays(args: list[Any]) -> None:
    answer = agents_sdk.moves(TRANSPORT)("invoke_model_activity", args)
    assert isinstance(answer, Kept)
    assert "temporalio-openai-agents" in answer.why


@pytest.mark.parametrize(
    ("moves", "name"),
    [
        (agents_sdk.moves, "invoke_model_activity_streaming"),
        (pydantic_ai_models.moves, "agent__a__model_request_stream"),
    ],
)
def test_streams_stay(moves: Any, name: str) -> None:
    answer = moves(TRANSPORT)(name, [REQUEST, None])
    assert isinstance(answer, Kept)
    assert "stream" in answer.why


def test_outside_a_run_pydantic_ais_activity_stays() -> None:
    answer = pydantic_ai_models.moves(TRANSPORT)("agent__a__model_request", [REQUEST, None])
    assert isinstance(answer, Kept)
    assert "pydantic-ai" in answer.why
