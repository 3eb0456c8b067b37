"""The local model speaks the wire formats of real services, with real usage."""

import importlib.util
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from paymaster.devstack import MODEL_NAME, EmbeddedStack, StackError


def no_package(_name: str) -> None:
    """As `find_spec` answers when nothing is installed."""


QUESTION = [{"role": "user", "content": "Write a story about a lighthouse."}]


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        EmbeddedStack(temporal=False, postgres=False) as stack,
        httpx.AsyncClient(base_url=stack.model_base_url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_the_output_limit_is_obeyed_and_usage_is_real(service: httpx.AsyncClient, limit: str) -> None:
    answer = (await service.post("/chat/completions", json={"messages": QUESTION, limit: 7})).json()
    assert answer["model"] == MODEL_NAME
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["usage"]["prompt_tokens"] > 10
    assert "cached_tokens" in answer["usage"]["prompt_tokens_details"]


async def test_a_json_schema_with_max_length_is_obeyed(service: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string", "maxLength": 12}},
        "required": ["title"],
        "additionalProperties": False,
    }
    body = {
        "model": MODEL_NAME,
        "messages": QUESTION,
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": {"name": "t", "strict": True, "schema": schema}},
    }
    answer = (await service.post("/chat/completions", json=body)).json()
    parsed = json.loads(answer["choices"][0]["message"]["content"])
    assert list(parsed) == ["title"]
    assert len(parsed["title"]) <= 12


async def test_the_anthropic_wire_format_is_answered(service: httpx.AsyncClient) -> None:
    body = {"model": MODEL_NAME, "max_tokens": 5, "messages": QUESTION}
    answer = (await service.post("/messages", json=body)).json()
    assert answer["type"] == "message"
    assert answer["usage"]["output_tokens"] == 5


async def test_each_request_has_four_thousand_tokens(service: httpx.AsyncClient) -> None:
    (model,) = (await service.get("/models")).json()["data"]
    assert model["id"] == MODEL_NAME
    assert model["meta"]["n_ctx"] == 4_096, "the part of the context that each slot has"


async def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_package)
    with pytest.raises(StackError, match=r"xllamacpp is not installed. Run `uv sync --group stack`"):
        await EmbeddedStack(temporal=False, postgres=False).start()
