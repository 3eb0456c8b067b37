"""A conversation that one provider's model made, however odd, is sent to every other one in a form that it takes."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed_bedrock import ReplayedBedrock
from replayed_chat import (
    ReplayedAzureChat,
    ReplayedDeepSeek,
    ReplayedGoogleChat,
    ReplayedGroq,
    ReplayedLocal,
    ReplayedMagistral,
    ReplayedMistral,
    ReplayedOpenAI,
    ReplayedOpenRouter,
    ReplayedXai,
)
from replayed_claude import ReplayedClaude
from replayed_gemini import ReplayedGemini, ReplayedGeminiWithoutIds
from replayed_provider import ReplayedProvider, Said, SaidCall, as_bytes
from replayed_responses import ReplayedAzureResponses, ReplayedResponses
from replayed_vertex import ReplayedVertexClaude, ReplayedVertexGemini
from searches import examples
from wire import GRANT, WEATHER

from paymaster.messages import ChatMessage, LLMRequest, LLMResult, Outcome, ServiceCall, Tool
from paymaster.providers.answers import HttpAnswer, read_answer
from paymaster.providers.registry import PROVIDERS
from paymaster.providers.tool_names import with_sent_names
from paymaster.settings import ServiceSettings

MAKERS: list[Callable[[], ReplayedProvider]] = [
    ReplayedAzureChat,
    ReplayedAzureResponses,
    ReplayedBedrock,
    ReplayedClaude,
    ReplayedDeepSeek,
    ReplayedGemini,
    ReplayedGeminiWithoutIds,
    ReplayedGoogleChat,
    ReplayedGroq,
    ReplayedLocal,
    ReplayedMagistral,
    ReplayedMistral,
    ReplayedOpenAI,
    ReplayedOpenRouter,
    ReplayedResponses,
    ReplayedVertexClaude,
    ReplayedVertexGemini,
    ReplayedXai,
]
TOOLS = (WEATHER, Tool(name="3d.search"), Tool(name="mcp/read"))
texts = st.sampled_from(["", " ", "\n", "ok", "ﷺ", "\0"]) | st.text(st.characters(codec="utf-8"), max_size=8)
names = st.sampled_from(
    ["weather", "weather", "_3d_search", "mcp_read", "functions.weather", "a b", "-", "0", "x" * 200]
)
objects = st.sampled_from(["{}", '{"city": "Bern"}', '{"a": [1, {"b": null}]}'])
arguments = objects | st.sampled_from(["", "null", "[1]", '"x"', '{"city": ', "not JSON"])
ids = st.sampled_from(["", "1", "1", "functions.weather:0", "call-1", "call00001", "x" * 100]) | st.text(max_size=5)


def said(maker: Callable[[], ReplayedProvider]) -> st.SearchStrategy[Said]:
    """Whatever a model can say by this provider's API."""
    is_gemini = maker in (ReplayedGemini, ReplayedGeminiWithoutIds, ReplayedVertexGemini)
    has_objects = is_gemini or maker in (ReplayedBedrock, ReplayedClaude, ReplayedVertexClaude)
    calls = st.builds(
        SaidCall,
        name=st.sampled_from(["weather", "_3d_search", "mcp_read"]) if is_gemini else names,
        arguments=objects if has_objects else arguments,
        id=ids,
    )
    thought = st.sampled_from(["", "hm", "a longer thought"])
    return st.one_of(
        st.builds(Said, text=texts, calls=st.lists(calls, max_size=3).map(tuple), thought=thought),
        st.builds(Said, text=texts, thought=thought, refused=st.booleans()),
    )


def body_for(provider: ReplayedProvider, messages: Sequence[ChatMessage], system: str | None) -> dict[str, Any]:
    request = LLMRequest(route="r", budget="acme", system=system, messages=tuple(messages), tools=TOOLS)
    grant = GRANT.model_copy(update={"model": provider.model})
    built = PROVIDERS[provider.api].build_request(with_sent_names(request), grant, _service(provider), False)
    return json.loads(json.dumps(built.body))


def message_of(
    provider: ReplayedProvider, answer: dict[str, Any], messages: Sequence[ChatMessage], *, stream: bool
) -> ChatMessage | None:
    """What an agent appends; None: it was no answer."""
    kind, body = "application/json", json.dumps(answer).encode()
    if stream:
        kind, body = provider.stream_type, as_bytes(provider.streamed(answer))
    request = LLMRequest(route="r", budget="acme", messages=tuple(messages), tools=TOOLS)
    call = ServiceCall(grant=GRANT.model_copy(update={"model": provider.model}), request=request)
    raw = HttpAnswer(200, [(b"content-type", kind.encode())], body)
    completion = read_answer(call, _service(provider), raw, started_at_ms=0, now_ms=0).completion
    if completion is None:
        return None
    fields = completion.model_dump(include={"text", "tool_calls", "state"})
    return LLMResult.model_validate({"outcome": Outcome.COMPLETED, "call_id": "1", **fields}).message()


def _service(provider: ReplayedProvider) -> ServiceSettings:
    return ServiceSettings(api=provider.api, base_url=provider.base_url)


@pytest.mark.parametrize("made", MAKERS)
@settings(max_examples=examples(120), deadline=None)
@given(data=st.data())
def test_any_conversation_keeps_to_the_rules_of_every_provider(made: Callable[[], ReplayedProvider], data: Any) -> None:
    maker = made()
    system = data.draw(st.sampled_from([None, "Be brief."]))
    marks = st.booleans() if data.draw(st.booleans()) else st.just(False)
    messages = [ChatMessage(role="user", content="What is it?", cache=data.draw(marks))]
    for turn in data.draw(st.lists(said(made), min_size=1, max_size=4)):
        body = body_for(maker, messages, system)
        maker.check(body)
        answer = maker.answer(turn, body)
        message = message_of(maker, answer, messages, stream=data.draw(st.booleans()))
        if message is None:
            continue
        messages.append(message.model_copy(update={"cache": data.draw(marks)}))
        results = [
            ChatMessage(role="tool", content=data.draw(texts), tool_call_id=call.id, cache=data.draw(marks))
            for call in message.tool_calls
        ]
        messages += results or [ChatMessage(role="user", content="And?", cache=data.draw(marks))]
    for other in MAKERS:
        judge = maker if other is made else other()
        judge.check(body_for(judge, messages, system))
