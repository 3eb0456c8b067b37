"""Neutral answers of all kinds, for searches with hypothesis, and a service that an SDK gets them from."""

import json
from typing import Any

import httpx2
from hypothesis import strategies as st

from paymaster.messages import LLMRequest, ToolCall
from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.provider import ServiceAnswer, ServiceError
from paymaster.translation.dialects import neutral_request, told
from paymaster.translation.neutral import Ending, NeutralAnswer
from paymaster.values.money import TokenUsage

texts = st.sampled_from(["", "é\u2028\n\ndata: [DONE]", '"'] * 2) | st.text(st.characters(codec="utf-8"), max_size=20)
counts = st.integers(0, 10**6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
arguments = st.dictionaries(
    texts, scalars | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
)
calls = st.one_of(
    st.builds(ToolCall, id=texts.filter(bool), name=st.sampled_from(["weather", "mcp.read/all"]), arguments=arguments),
    st.builds(ToolCall, id=st.just("call-7"), name=st.just("weather"), invalid_arguments=st.sampled_from(["[1", "x"])),
)
ENDINGS: tuple[Ending, ...] = ("stop", "length", "tools", "refused")


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """Input includes what was cached and written, output what was thought."""
    plain, cached, written, said, thought = draw(st.tuples(*[counts] * 5))
    return TokenUsage(
        input_tokens=plain + cached + written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=said + thought,
        reasoning_tokens=thought,
    )


@st.composite
def answers(draw: st.DrawFn) -> NeutralAnswer:
    """Whatever a service can answer: where it ends with wanting tools, there are some."""
    ending = draw(st.sampled_from(ENDINGS))
    some = draw(
        st.lists(
            calls, min_size=ending == "tools", max_size=0 if ending == "stop" else 3, unique_by=lambda call: call.id
        )
    )
    usage = draw(st.none() | usages())
    return NeutralAnswer("a-1", 1_700_000_000, "m-1", draw(texts), tuple(some), ending, usage)


def assert_read_alike(found: ServiceAnswer | ServiceError, answer: NeutralAnswer) -> None:
    """Whether our own reader of that format finds the answer in what the caller gets."""
    assert isinstance(found, ServiceAnswer)
    assert (found.text, found.tool_calls, found.model) == (answer.text, answer.tool_calls, answer.model)
    assert found.refused == (answer.ending == "refused")
    assert (None if found.usage is None else found.usage.model_dump(include=set(TokenUsage.model_fields))) == (
        None if answer.usage is None else answer.usage.model_dump()
    )


class Scripted:
    """Answers an SDK's requests as a worker does whose service speaks another format; keeps what was asked."""

    def __init__(self, dialect: Dialect, *answers: NeutralAnswer) -> None:
        self.asked: list[LLMRequest] = []
        self.bodies: list[dict[str, Any]] = []
        self._dialect: Dialect = dialect
        self._answers = iter(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        wire = Wire(dialect=self._dialect, body=request.read())
        self.bodies.append(json.loads(wire.body))
        self.asked.append(in_neutral_words(wire))
        answer = told(wire, next(self._answers))
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        return self(request)


def in_neutral_words(wire: Wire) -> LLMRequest:
    return neutral_request(LLMRequest(route="writer", budget="acme", wire=wire), wire)


def wire(dialect: Dialect, **fields: Any) -> Wire:
    """A call with this body."""
    return Wire(dialect=dialect, body=json.dumps(fields).encode())
