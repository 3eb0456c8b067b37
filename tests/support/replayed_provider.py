"""Providers that keep to what they document: they answer as they are told, and refuse with their own 400 what breaks
their rules. What `replayed_claude`, `replayed_chat`, `replayed_gemini`, `replayed_bedrock` and `replayed_responses`
have in common.

The rules are those of the providers' pages and of the errors that people report; each one's text begins as theirs does.
"""

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from paymaster.settings import Api

Body = dict[str, Any]


class Refusal(Exception):
    """Why a provider refuses a request."""


def require(condition: object, why: str) -> None:
    """Raises Refusal unless the condition holds."""
    if not condition:
        raise Refusal(why)


def require_known(given: Mapping[str, object], known: set[str], where: str) -> None:
    """Raises Refusal for a name that the provider does not know."""
    for name in given:
        require(name in known, f"Unknown parameter: '{where}{name}'")


@dataclass(frozen=True)
class SaidCall:
    """A tool that a model wants called."""

    name: str = "weather"
    arguments: str = '{"city": "Bern"}'
    id: str = ""
    """Used by a server that takes whatever its model writes; the others make their own."""


@dataclass(frozen=True)
class Said:
    """What a model says in one turn, whoever provides it."""

    text: str = ""
    calls: tuple[SaidCall, ...] = ()
    thought: str = "hm"
    """Empty: it did not think."""
    refused: bool = False


class ReplayedProvider(ABC):
    """One service with one model."""

    api: Api
    base_url: str
    model: str
    stream_type = "text/event-stream"

    def __init__(self) -> None:
        self.script: deque[Said] = deque()
        """What it says to the next requests."""
        self.asked: list[Body] = []
        self.refusals: list[str] = []
        self._turns = 0

    def check(self, body: Body) -> None:
        """Raises Refusal for a request that breaks a rule."""
        self._check(json.loads(json.dumps(body)))

    def answer(self, said: Said, body: Body | None = None) -> Body:
        """The answer in the provider's form. `body`: the request that it answers, where that matters later."""
        self._turns += 1
        return self._answer(said, self._turns, body)

    @abstractmethod
    def _check(self, body: Body) -> None: ...

    @abstractmethod
    def _answer(self, said: Said, turn: int, body: Body | None) -> Body: ...

    @abstractmethod
    def streamed(self, answer: Body) -> str | bytes:
        """The answer as the events of a stream."""

    def is_streamed(self, path: str, body: Body) -> bool:
        """Whether the request to this path wants a stream."""
        return bool(body.get("stream")) or "streamGenerateContent" in path

    @abstractmethod
    def refusal(self, why: str) -> Body:
        """The body of a 400."""

    def client(self) -> httpx.AsyncClient:
        """A client whose requests, to whatever address, come here."""
        return httpx.AsyncClient(transport=httpx.MockTransport(self._respond))

    def _respond(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        try:
            self.check(body)
        except Refusal as refusal:
            self.refusals.append(str(refusal))
            return _response(400, "application/json", json.dumps(self.refusal(str(refusal))))
        answer = self.answer(self.script.popleft(), body)
        if self.is_streamed(request.url.path, body):
            return _response(200, self.stream_type, self.streamed(answer))
        return _response(200, "application/json", json.dumps(answer))


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _response(status: int, content_type: str, body: str | bytes) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": content_type}, stream=httpx.ByteStream(as_bytes(body)))
