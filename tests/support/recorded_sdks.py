"""Recorded interactions (`sdk_recordings`), asked again by their SDKs over a transport, and answered as recorded."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import anthropic
import google.genai
import httpx2
import openai
from google.genai import errors
from google.genai.types import HttpOptions
from loopback_server import LoopbackServer
from sdk_recordings import Interaction

from paymaster.integrations.anthropic import AsyncAnthropic
from paymaster.integrations.openai import AsyncOpenAI
from paymaster.transport import PaymasterTransport
from paymaster.wire.dialects import sent_headers
from paymaster.wire.event_pieces import event_pieces

_OF_CONNECTIONS = (b"content-encoding", b"transfer-encoding", b"content-length", b"connection", b"keep-alive")
"""Headers of an answer that do not hold for a recorded one, which is decompressed."""
_USAGE_CHUNK = {"id": "u", "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}}


def answer_headers(interaction: Interaction) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in interaction.headers if name not in _OF_CONNECTIONS]


# ---------------------------------------------------------------- what the SDKs make of it


class AsRecorded(httpx2.AsyncBaseTransport):
    """Answers whatever is asked with the recorded answer."""

    def __init__(self, interaction: Interaction) -> None:
        self._interaction = interaction

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        found = self._interaction
        return httpx2.Response(found.status, headers=answer_headers(found), content=found.answer)


class Recorded(PaymasterTransport):
    """Sends the recorded body to the recorded path, with the SDK's headers and those recorded that are passed on."""

    def __init__(self, interaction: Interaction, budget: str, **terms: Any) -> None:
        super().__init__(budget, **terms)
        self._interaction = interaction

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        wire = self._interaction.wire
        headers = request.headers.copy()
        del headers["content-length"]
        headers.update(sent_headers(wire.dialect, wire.headers))
        url = f"https://provider.invalid{self._interaction.path}"
        return await super().handle_async_request(httpx2.Request("POST", url, headers=headers, content=wire.body))


Told = list[Any]
"""What an SDK gave: its objects as data, those of a stream in their order, at the end perhaps its error."""


async def asked(interaction: Interaction, transport: httpx2.AsyncBaseTransport) -> Told:
    """What the dialect's SDK gives for the interaction, when this transport is below it."""
    told: Told = []
    async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None) as http:
        try:
            async for each in _ASKING[interaction.dialect](interaction, http):
                told.append((type(each).__name__, each.model_dump(exclude={"sdk_http_response": {"headers"}})))
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            told.append((type(error).__name__, error.status_code, error.body))
        except errors.APIError as error:
            told.append((type(error).__name__, error.code, error.details))
        except Exception as error:  # what an SDK says of an answer that it cannot read
            told.append((type(error).__name__, str(error)))
    return told


def without_usage(interaction: Interaction, told: Told) -> Told:
    """Without the chunks of a chat's stream that only say its usage: who did not ask for them does not get them."""
    if interaction.dialect != "openai" or b'"include_usage"' in interaction.wire.body:
        return told
    return [each for each in told if not (each[0] == "ChatCompletionChunk" and each[1]["choices"] == [])]


async def _each(answer: Any) -> AsyncIterator[Any]:
    """The events of a stream, or the one answer."""
    if isinstance(answer, AsyncIterator | openai.AsyncStream | anthropic.AsyncStream):
        async for event in answer:
            yield event
    else:
        yield answer


def _streams(interaction: Interaction) -> bool:
    return json.loads(interaction.wire.body).get("stream") is True


async def _chat(interaction: Interaction, http: httpx2.AsyncClient) -> AsyncIterator[Any]:
    made = AsyncOpenAI(http_client=http).chat.completions.create
    async for each in _each(await made(model="m", messages=[], stream=_streams(interaction))):
        yield each


async def _responses(interaction: Interaction, http: httpx2.AsyncClient) -> AsyncIterator[Any]:
    made = AsyncOpenAI(http_client=http).responses.create
    async for each in _each(await made(model="m", input="", stream=_streams(interaction))):
        yield each


async def _embeddings(interaction: Interaction, http: httpx2.AsyncClient) -> AsyncIterator[Any]:
    yield await AsyncOpenAI(http_client=http).embeddings.create(model="m", input="")


async def _messages(interaction: Interaction, http: httpx2.AsyncClient) -> AsyncIterator[Any]:
    client = AsyncAnthropic(http_client=http)
    made = client.beta.messages.create if "beta=true" in interaction.path else client.messages.create
    async for each in _each(await made(model="m", max_tokens=1, messages=[], stream=_streams(interaction))):
        yield each


async def _gemini(interaction: Interaction, http: httpx2.AsyncClient) -> AsyncIterator[Any]:
    options = HttpOptions(httpx_async_client=http, httpx_client=httpx2.Client(trust_env=False))
    vertex = "/publishers/" in interaction.path
    models = google.genai.Client(vertexai=vertex, api_key="unused", http_options=options).aio.models
    if ":streamGenerateContent" in interaction.path:
        async for each in await models.generate_content_stream(model="m", contents="x"):
            yield each
    elif ":generateContent" in interaction.path:
        yield await models.generate_content(model="m", contents="x")
    else:
        yield await models.embed_content(model="m", contents="x")


_ASKING: Mapping[str, Callable[[Interaction, httpx2.AsyncClient], AsyncIterator[Any]]] = {
    "openai": _chat,
    "openai-responses": _responses,
    "openai-embeddings": _embeddings,
    "anthropic": _messages,
    "gemini": _gemini,
}

# ---------------------------------------------------------------- who answers


class Arrived(NamedTuple):
    """A request as the provider got it."""

    path: str
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes


class ReplayingProvider:
    """Answers on loopback, below `/NUMBER`, as the interaction of that number was answered.

    As a provider does it, a stream of chat completions that is asked for its usage has it at its end.
    """

    def __init__(self, found: list[Interaction]) -> None:
        self.arrived: dict[int, list[Arrived]] = {}
        self.found = found
        self._server = LoopbackServer(self._serve_one)

    async def __aenter__(self) -> Self:
        await self._server.listen()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.refuse()

    def base_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self._server.port}/{number}"

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        number, _, path = head[0].split(" ")[1].removeprefix("/").partition("/")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers["content-length"]))
        self.arrived.setdefault(int(number), []).append(Arrived(f"/{path}", headers, body))
        found = self.found[int(number)]
        answer = _with_usage(found, body)
        lines = [b"%s: %s" % header for header in answer_headers(found)]
        writer.write(b"\r\n".join([b"HTTP/1.1 %d as-recorded" % found.status, *lines, b""]))
        writer.write(b"content-length: %d\r\n\r\n" % len(answer) + answer)
        await writer.drain()
        return True


def _with_usage(interaction: Interaction, asked_with: bytes) -> bytes:
    """The recorded answer; where only Paymaster asked for the usage, and it has none, with an event that says it."""
    name = b'"include_usage"'
    only_ours = interaction.dialect == "openai" and name in asked_with and name not in interaction.wire.body
    if not only_ours or not interaction.streamed or b'"usage":{' in interaction.answer:
        return interaction.answer
    events = event_pieces(interaction.answer)
    ends = next((at for at, event in enumerate(events) if event.startswith(b"data: [DONE]")), len(events))
    return b"".join([*events[:ends], b"data: %s\n\n" % json.dumps(_USAGE_CHUNK).encode(), *events[ends:]])
