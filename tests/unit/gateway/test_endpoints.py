"""Who is let in, and what is refused before there is a call: the ASGI application without Temporal."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, contextmanager
from hashlib import sha256
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from paymaster.gateway import endpoints
from paymaster.gateway.app import gateway_app
from paymaster.gateway.clients import Clients
from paymaster.gateway.live import LiveCalls, LiveResponse
from paymaster.gateway.streams import Streams
from paymaster.keys.ring import named_keys
from paymaster.live.frames import Head
from paymaster.settings import Settings

KEY = "gw-0123456789abcdef"
CHAT = "/v1/chat/completions"
TABLES: dict[str, Any] = {
    "services": {
        "openai": {
            "api": "openai",
            "base_url": "https://api.openai.com/v1",
            "models": {"gpt-5": {"max_output_tokens": 100, "price": {"input": "1", "output": "1"}}},
        }
    },
    "routes": {"writer": ["openai/gpt-5"], "other": ["openai/gpt-5"]},
    "gateway": {
        "body_bytes_max": 1000,
        "header_bytes_max": 2000,
        "clients": {
            "all": {"key_sha256": sha256(KEY.encode()).hexdigest(), "budget": "acme"},
            "few": {"key_sha256": sha256(b"few").hexdigest(), "budget": "acme", "routes": ["writer"]},
        },
    },
}


async def serving(tables: dict[str, Any]) -> httpx.AsyncClient:
    settings = Settings.model_validate(tables)
    nowhere = await Client.connect("127.0.0.1:1", lazy=True)
    keys = named_keys(settings)
    app = gateway_app(settings, Clients(settings.gateway), nowhere, Streams(settings.gateway.streams, keys), keys)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with await serving(TABLES) as http:
        yield http


@pytest.fixture
async def open_http() -> AsyncIterator[httpx.AsyncClient]:
    async with await serving({**TABLES, "gateway": {"budget": "acme"}}) as http:
        yield http


def bearer(key: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        {"authorization": f"bearer {KEY}"},
        {"x-api-key": KEY},
        {"api-key": KEY},
        {"x-goog-api-key": KEY},
    ],
)
async def test_a_client_is_known_by_its_key(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no_key"),
        (bearer(""), "no_key"),
        (bearer("gw-another"), "unknown_key"),
        ({"authorization": f"Basic {KEY}"}, "bad_key"),
        (bearer(sha256(KEY.encode()).hexdigest()), "unknown_key"),
    ],
)
async def test_nobody_else_is(http: httpx.AsyncClient, headers: dict[str, str], reason: str) -> None:
    refused = await http.post(CHAT, headers=headers, json={})
    assert (refused.status_code, refused.headers["x-should-retry"]) == (401, "false")
    assert refused.json()["error"]["paymaster"]["reason"] == reason


async def test_a_key_in_a_url_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.post(f"/v1beta/models/writer:generateContent?key={KEY}", json={})
    assert refused.status_code == 400
    assert "send it as a header" in refused.json()["error"]["message"]
    assert KEY not in refused.text


@pytest.mark.parametrize(
    ("path", "headers", "form"),
    [
        ("/v1/messages", {}, {"type", "error", "request_id", "paymaster"}),
        ("/v1/messages/files", {}, {"type", "error", "request_id", "paymaster"}),
        ("/v1/files", {"anthropic-version": "2023-06-01"}, {"type", "error", "request_id", "paymaster"}),
        ("/v1beta/models/writer:generateContent", {}, {"error", "paymaster"}),
        ("/v1beta/files", {}, {"error", "paymaster"}),
        (CHAT, {}, {"error"}),
    ],
)
async def test_whoever_asks_is_refused_in_his_words(
    http: httpx.AsyncClient, path: str, headers: dict[str, str], form: set[str]
) -> None:
    refused = await http.post(path, headers=headers, json={})
    assert refused.status_code in (401, 404)
    assert refused.json().keys() == form


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/../v1/files",
        "/v1/chat%00/completions",
        "/v1/CHAT/completions",
        "/internal/streams/x",
        "/.env",
        "/",
    ],
)
async def test_a_path_that_is_none_is_not_found(http: httpx.AsyncClient, path: str) -> None:
    found = await http.post(path, headers=bearer(), json={})
    assert (found.status_code, "location" in found.headers) == (404, False)
    assert found.json()["error"]["paymaster"]["reason"] == "no_such_path"


async def test_a_method_that_is_none_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.put(CHAT, headers=bearer(), json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_codex_is_told_that_there_are_no_websockets(http: httpx.AsyncClient) -> None:
    refused = await http.get("/v1/responses", headers={"connection": "upgrade", "upgrade": "websocket"})
    assert refused.status_code == 426


async def test_a_body_that_is_too_large(http: httpx.AsyncClient) -> None:
    announced = await http.post(CHAT, headers=bearer(), content=b"x" * 1001)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    chunked = await http.post(CHAT, headers=bearer(), content=pieces())
    for refused in (announced, chunked):
        assert refused.status_code == 413
        assert "may have 1,000" in refused.json()["error"]["message"]


async def test_headers_that_are_too_large(http: httpx.AsyncClient) -> None:
    refused = await http.post(CHAT, headers={**bearer(), "x-a": "x" * 2000}, json={})
    assert (refused.status_code, refused.json()["error"]["paymaster"]["reason"]) == (431, "headers_too_large")


async def test_a_compressed_body_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.post(CHAT, headers={**bearer(), "content-encoding": "gzip"}, content=b"x")
    assert refused.status_code == 400


async def test_without_temporal_it_is_tried_again(http: httpx.AsyncClient) -> None:
    failed = await http.post(CHAT, headers=bearer(), json={"model": "writer"})
    assert (failed.status_code, failed.headers["retry-after"]) == (503, "2")
    assert "127.0.0.1" not in failed.text
    assert (await http.get("/healthz")).status_code == 503


async def test_a_defect_is_no_fault_of_the_caller(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it sent again, since nobody knows what became of it; and its text stays in the log."""
    measured = list[tuple[object, ...]]()

    def measure(*of: object) -> None:
        measured.append(of)

    monkeypatch.setattr(endpoints, "measure_request", measure)

    async def breaks(self: Clients, headers: object) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr(Clients, "of", breaks)
    failed = await http.get("/v1/models/x")
    assert (failed.status_code, failed.headers["x-should-retry"]) == (500, "false")
    assert "a secret" not in failed.text
    assert [of[:3] for of in measured] == [("GET", "/v1/models/{name:path}", 500)]


async def test_a_stream_is_measured_to_its_end(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, active, meanwhile = list[tuple[Any, ...]](), list[str](), list[tuple[int, int]]()

    def measure(*of: object) -> None:
        measured.append(of)

    @contextmanager
    def one_more(method: str) -> Generator[None]:
        active.append(method)
        yield
        active.pop()

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"One"
        await asyncio.sleep(0.05)
        meanwhile.append((len(measured), len(active)))
        yield b" two"

    async def answer(self: LiveCalls, request: object, call: object) -> LiveResponse:
        return LiveResponse(Head(status=200, service="one"), "c-1", pieces(), AsyncExitStack())

    monkeypatch.setattr(endpoints, "measure_request", measure)
    monkeypatch.setattr(endpoints, "active_request", one_more)
    monkeypatch.setattr(LiveCalls, "answer", answer)
    asked = {"model": "writer", "stream": True, "messages": []}
    assert (await http.post(CHAT, headers=bearer(), json=asked)).content == b"One two"
    assert (meanwhile, active) == ([(0, 1)], [])
    assert [of[:3] for of in measured] == [("POST", CHAT, 200)]
    assert measured[0][3] >= 0.05


@pytest.mark.parametrize(
    ("key", "names"), [(KEY, ["writer", "other", "openai/gpt-5"]), ("few", ["writer"])], ids=["all", "few"]
)
async def test_models_are_what_a_client_may_name(http: httpx.AsyncClient, key: str, names: list[str]) -> None:
    listed = (await http.get("/v1/models", headers=bearer(key))).json()
    assert [model["id"] for model in listed["data"]] == names
    claudes = (await http.get("/v1/models", headers={**bearer(key), "anthropic-version": "2023-06-01"})).json()
    assert ([model["id"] for model in claudes["data"]], claudes["has_more"]) == (names, False)
    for googles in (
        await http.get("/v1beta/models", headers=bearer(key)),
        await http.get("/v1/models", headers={"x-goog-api-key": key}),
    ):
        assert [model["name"] for model in googles.json()["models"]] == [f"models/{name}" for name in names]


async def test_one_model_by_its_name(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models/openai/gpt-5", headers=bearer())).json()["id"] == "openai/gpt-5"
    assert (await http.get("/v1/models/nowhere", headers=bearer())).status_code == 404
    assert (await http.get("/v1/models/other", headers=bearer("few"))).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"authorization": "Bearer unused"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "elsewhere.example"}, 403),
        ({"host": "127.0.0.1:4000"}, 200),
        ({"host": "[::1]:4000"}, 200),
    ],
)
async def test_an_open_gateway_is_for_programs_here(
    open_http: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    """A page that a browser shows may send anything to this machine."""
    assert (await open_http.get("/v1/models", headers=headers)).status_code == status
