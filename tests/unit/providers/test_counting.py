"""Tokens are counted for the request as it would be sent; whatever goes wrong is CannotCount and holds no key."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from loopback_server import LoopbackServer
from openai_encodings import kept_encodings
from raw_server import SomeKeys
from wire import BASE_URLS, SCHEMA, WEATHER, ask, service

from paymaster.keys.api_key import KeyWithdrawn
from paymaster.messages import Candidate, Image, LLMRequest, Wire
from paymaster.providers import counting, tokenizer
from paymaster.providers.connections import Connections
from paymaster.providers.counting import TokenCounting, check_extra, encodings_wanted, ways_of_counting
from paymaster.providers.provider import CannotCount
from paymaster.providers.tokenizer import Tokenizer
from paymaster.settings import Api, Settings
from paymaster.values import extras
from paymaster.values.extras import ExtraMissing

KEY = "sk-live-0123456789"
CANDIDATE = Candidate(service="one", model="the-model", max_output_tokens=77, price=None)
COUNTERS: dict[Api, tuple[str, dict[str, Any]]] = {
    "anthropic": ("/messages/count_tokens", {"input_tokens": 12}),
    "gemini": ("/models/the-model:countTokens", {"totalTokens": 12}),
    "openai-responses": ("/responses/input_tokens", {"object": "response.input_tokens", "input_tokens": 12}),
    "vertex-claude": ("/publishers/anthropic/models/count-tokens:rawPredict", {"input_tokens": 12}),
    "vertex-gemini": ("/publishers/google/models/the-model:countTokens", {"totalTokens": 12}),
}


class Counter:
    """A provider's counter on loopback, which keeps what it was asked and answers as it is told."""

    def __init__(self, answer: bytes, status: int = 200) -> None:
        self.answer, self.status = answer, status
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self._server = LoopbackServer(self._serve)

    @asynccontextmanager
    async def counts(self, api: Api, **fields: Any) -> AsyncGenerator[TokenCounting]:
        await self._server.listen()
        url = f"http://127.0.0.1:{self._server.port}"
        services = {"one": service(api, url, bound="counted", key="a-key", **fields)}
        connections = Connections(services)
        try:
            yield TokenCounting(services, SomeKeys(), connections)
        finally:
            await connections.close()
            await self._server.refuse()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.asked.append((head[0].split(" ")[1], headers, body))
        await self.answers.wait()
        writer.write(f"HTTP/1.1 {self.status} x\r\ncontent-length: {len(self.answer)}\r\n\r\n".encode() + self.answer)
        await writer.drain()
        return True


@pytest.fixture
def encodings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(kept_encodings(tmp_path / "encodings")))


def wire_of(dialect: Any, **body: Any) -> LLMRequest:
    path = "models/m:generateContent" if dialect == "gemini" else None
    return LLMRequest(
        route="writer", budget="acme", wire=Wire(dialect=dialect, path=path, body=json.dumps(body).encode())
    )


# ---------------------------------------------------------------- what a provider's counter is asked


@pytest.mark.parametrize("api", COUNTERS)
async def test_a_counter_is_asked_about_what_would_be_sent(api: Api) -> None:
    """Texts, tools and schema, with the key in its place; and nothing that only the answer depends on."""
    path, answer = COUNTERS[api]
    server = Counter(json.dumps(answer).encode())
    request = ask(system="Be brief.", tools=(WEATHER,), json_schema=SCHEMA, max_output_tokens=5)
    async with server.counts(api) as counts:
        assert await counts.count(request, CANDIDATE) == 12
    [(asked_path, headers, body)] = server.asked
    text = json.dumps(body)
    assert asked_path == path
    assert KEY in json.dumps(headers)
    assert all(word in text for word in ("Be brief.", "Hello", "The weather somewhere", '"answer"'))
    assert "the-model" in asked_path + text
    assert "max_tokens" not in text
    assert "max_output_tokens" not in text
    assert "stream" not in text


async def test_of_a_wire_call_its_own_words_are_counted() -> None:
    server = Counter(b'{"input_tokens": 12}')
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    said = [{"role": "user", "content": "Hello"}]
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    asked = wire_of(
        "anthropic", model="m", max_tokens=2_000, system=system, messages=said, thinking=thinking, temperature=1
    )
    async with server.counts("anthropic") as counts:
        await counts.count(asked, CANDIDATE.model_copy(update={"max_output_tokens": 2_000}))
    [(_, headers, body)] = server.asked
    assert body == {"model": "the-model", "system": system, "messages": said, "thinking": thinking}
    assert headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("api", "request_"),
    [
        ("anthropic", wire_of("anthropic", model="m", max_tokens=9, messages=[], mcp_servers=[{"url": "https://x"}])),
        ("vertex-gemini", wire_of("gemini", contents=[], cachedContent="cached/1")),
        ("openai-responses", wire_of("openai-responses", model="m", input="Hello", previous_response_id="r1")),
    ],
)
async def test_a_key_that_the_counter_does_not_cover_is_not_counted(api: Api, request_: LLMRequest) -> None:
    server = Counter(b'{"input_tokens": 12}')
    async with server.counts(api) as counts:
        with pytest.raises(CannotCount, match=r"the counter does not cover (mcp_servers|cachedContent|previous_resp)"):
            await counts.count(request_, CANDIDATE)
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, f'{{"error": "wrong key {KEY}"}}'.encode()),
        (404, b"no such path"),
        (200, b"no JSON"),
        (200, b'{"input_tokens": -1}'),
        (200, b'{"input_tokens": "12"}'),
        (200, b"{}"),
        (200, b'{"input_tokens": 12, "more": "' + b"x" * 70_000 + b'"}'),
        (302, b""),
    ],
)
async def test_an_answer_that_names_no_count_is_none(status: int, answer: bytes) -> None:
    server = Counter(answer, status)
    async with server.counts("anthropic") as counts:
        with pytest.raises(CannotCount) as raised:
            await counts.count(ask(), CANDIDATE)
    assert KEY not in str(raised.value)
    assert len(str(raised.value)) <= 200
    assert len(server.asked) == 1


async def test_a_counter_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "ANSWER_WITHIN_S", 0.05)
    server = Counter(b"")
    server.answers.clear()
    async with server.counts("anthropic") as counts:
        with pytest.raises(CannotCount, match="TimeoutError"):
            await counts.count(ask(), CANDIDATE)
        server.answers.set()


async def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(self: SomeKeys, name: str) -> None:
        raise KeyWithdrawn(f"there is no key {name!r}")

    monkeypatch.setattr(SomeKeys, "get", none)
    server = Counter(b'{"input_tokens": 12}')
    async with server.counts("anthropic") as counts:
        with pytest.raises(CannotCount, match="there is no key 'a-key'"):
            await counts.count(ask(), CANDIDATE)
    assert server.asked == []


async def test_what_a_service_cannot_be_asked_is_not_counted() -> None:
    async with Counter(b"").counts("anthropic") as counts:
        with pytest.raises(CannotCount, match="seed"):
            await counts.count(ask(seed=1), CANDIDATE)
        with pytest.raises(CannotCount, match="no such service"):
            await counts.count(ask(), CANDIDATE.model_copy(update={"service": "gone"}))


# ---------------------------------------------------------------- OpenAI's tokenizer


def own(api: Api, model: str = "gpt-4o") -> tuple[TokenCounting, Candidate]:
    services = {"one": service(api)}
    return TokenCounting(services, SomeKeys(), Connections(services)), CANDIDATE.model_copy(update={"model": model})


@pytest.mark.parametrize("api", ["openai", "openai-responses"])
async def test_the_tokenizer_counts_all_that_the_model_sees(api: Api, encodings: None) -> None:
    """A word is a token in it, and what stands around the words takes few."""
    counts, candidate = own(api)
    short, long = ask(prompt="Hello"), ask(prompt="Hello" + " word" * 100_000, system="Be brief.")
    of_short = await counts.count(short, candidate)
    assert 0 < of_short < 60
    assert 100_000 < await counts.count(long, candidate) < 100_100
    with_tools = ask(prompt="Hello", tools=(WEATHER,), json_schema=SCHEMA)
    assert await counts.count(with_tools, candidate) > of_short + 40


async def test_an_image_is_in_no_count(encodings: None) -> None:
    counts, candidate = own("openai")
    image = Image.of(b"x" * 100_000, "image/png")
    with_image = ask(prompt=None, messages=({"role": "user", "content": "Hello", "images": (image,)},))
    assert await counts.count(with_image, candidate) < 100


async def test_encrypted_thoughts_are_not_counted_by_their_letters(encodings: None) -> None:
    counts, candidate = own("openai-responses")
    thought = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAAA"}
    request = wire_of("openai-responses", model="gpt-5", input=[thought, {"role": "user", "content": "Hello"}])
    with pytest.raises(CannotCount, match="encrypted"):
        await counts.count(request, candidate)


async def test_what_looks_like_a_special_token_is_text(encodings: None) -> None:
    counts, candidate = own("openai")
    before = await counts.count(ask(prompt="Hello"), candidate)
    assert await counts.count(ask(prompt="Hello <|endoftext|>"), candidate) > before + 3


async def test_an_encoding_that_cannot_be_had_is_told_once_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine reaches nothing outside; a proxy that refuses stands for that, quickly."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    tried: list[str] = []

    def refused(url: str) -> bytes:
        tried.append(url)
        raise ConnectionError("a network that ends here, and a proxy with sk-live-0123456789")

    monkeypatch.setattr("tiktoken.load.read_file", refused)
    found = Tokenizer()
    for _ in range(2):
        with pytest.raises(CannotCount, match="TIKTOKEN_CACHE_DIR") as raised:
            await found.count("gpt-4o", "Hello")
        assert KEY not in str(raised.value)
    assert len(tried) == 1


async def test_a_download_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr(tokenizer, "LOAD_WITHIN_S", 0.05)
    entered, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hangs(url: str) -> bytes:
        loop.call_soon_threadsafe(entered.set)
        release.wait(30)
        raise ConnectionError

    monkeypatch.setattr("tiktoken.load.read_file", hangs)
    found = Tokenizer()
    with pytest.raises(CannotCount, match="TimeoutError"):
        await found.count("gpt-4o", "Hello")
    await entered.wait()
    release.set()


# ---------------------------------------------------------------- where which of them counts


@pytest.mark.parametrize(
    ("api", "base_url", "bound", "model", "ways"),
    [
        ("openai", None, None, "gpt-4o-mini", ("tokenizer",)),
        ("openai", "https://eu.api.openai.com/v1", None, "gpt-5.1", ("tokenizer",)),
        ("openai", None, "bytes", "gpt-4o", ()),
        ("openai", None, None, "nobody-knows-it", ()),
        ("openai", "https://api.openai.com.example.com/v1", None, "gpt-4o", ()),
        ("openai", "https://llm.example.com/v1", "counted", "gpt-4o", ("tokenizer",)),
        ("openai", "https://llm.example.com/v1", "counted", "llama-4", ()),
        ("openai-responses", None, None, "gpt-5", ("tokenizer",)),
        ("openai-responses", None, "counted", "gpt-5", ("tokenizer", "provider")),
        ("openai-responses", None, "counted", "nobody-knows-it", ("provider",)),
        ("azure-openai", None, None, "gpt-4o", ()),
        ("azure-openai", None, "counted", "gpt-4o", ("tokenizer",)),
        *((api, None, None, "m", ()) for api in ("anthropic", "gemini", "vertex-claude", "vertex-gemini", "bedrock")),
        *((api, None, "counted", "m", ("provider",)) for api in ("anthropic", "gemini", "vertex-claude")),
    ],
)
def test_only_an_exact_count_needs_no_word_in_the_configuration(
    api: Api, base_url: str | None, bound: Any, model: str, ways: Sequence[str]
) -> None:
    assert ways_of_counting(service(api, base_url, bound=bound), model) == ways


def test_bedrock_has_no_counter() -> None:
    with pytest.raises(ValueError, match="has no counter here"):
        service("bedrock", bound="counted")


def test_a_configuration_that_needs_the_tokenizer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        return None

    monkeypatch.setattr(extras, "find_spec", none)
    for api in ("anthropic", "openai-responses"):
        check_extra({"one": service(api, bound="counted")})
    check_extra({"one": service("openai")})
    with pytest.raises(ExtraMissing, match=r"pip install 'paymaster\[tiktoken\]'"):
        check_extra({"one": service("openai", bound="counted")})


def test_the_encodings_that_a_worker_needs_are_known_beforehand() -> None:
    table = {"api": "openai", "base_url": BASE_URLS["openai"]}
    settings = Settings.model_validate(
        {
            "services": {"one": table, "two": {**table, "bound": "counted"}},
            "routes": {"writer": ["one/gpt-4o", "one/nobody-knows-it", "two/gpt-4"]},
        }
    )
    assert encodings_wanted(settings) == {"o200k_base": "one/gpt-4o", "cl100k_base": "two/gpt-4"}
    assert encodings_wanted(settings, named_only=True) == {"cl100k_base": "two/gpt-4"}
