"""A service whose answers an SDK of OpenAI gets in its own format."""

import json
from typing import Any

import httpx2

from paymaster.messages import LLMRequest
from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.provider import ServiceAnswer, ServiceError
from paymaster.translation.dialects import neutral_request, told
from paymaster.translation.neutral import NeutralAnswer
from paymaster.values.money import TokenUsage


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
    return neutral_request(LLMRequest(route="writer", budget="acme", wire=wire))


def wire(dialect: Dialect, **fields: Any) -> Wire:
    """A call with this body."""
    return Wire(dialect=dialect, body=json.dumps(fields).encode())
