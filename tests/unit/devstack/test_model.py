"""The local model speaks the wire formats of real services, with real usage."""

import importlib.util
import json
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from temporalio.testing import ActivityEnvironment
from wire import GRANT

from activities.call_service import CallServiceActivities
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.devstack import MODEL_NAME, EmbeddedStack, StackError
from paymaster.keys.ring import kept_keys
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import AttemptReport, ChatMessage, Completion, Grant, LLMRequest, RetrySettings, ServiceCall
from paymaster.providers.bounds import input_bytes
from paymaster.providers.connections import Connections
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import Api, ServiceSettings, Settings
from paymaster.values.money import Price

pytestmark = pytest.mark.stack


def no_package(_name: str) -> None:
    """What `find_spec` answers when nothing is installed."""


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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["openai", "openai-responses", "anthropic"])
async def test_it_can_be_called_as_each_service_that_it_speaks_like(
    service: httpx.AsyncClient, api: Api, stream: bool
) -> None:
    """Nobody here wrote this server: our wire formats and our token counts agree with its own."""
    settings = ServiceSettings(api=api, base_url=str(service.base_url).rstrip("/"), stream=stream)
    services = {"local": settings}
    connections = Connections(services)
    reports = GroupCommit[AttemptReport, None](no_reports, size_of=lambda _: 0)
    activities = CallServiceActivities(services, kept_keys(Settings()), connections, reports)
    environment = ActivityEnvironment()
    grant = Grant(
        hold_id=f"{environment.info.workflow_run_id}/1",
        budget="acme",
        service="local",
        model=MODEL_NAME,
        price=Price(input_nanos=1, output_nanos=1, source="configuration"),
        max_output_tokens=7,
        bound_nanos=1_000,
        granted_at_ms=0,
        expires_at_ms=1,
        epoch="e",
        timeout_ms=60_000,
        retry=RetrySettings(),
        max_retry_after_ms=1,
        max_unconfirmed=1,
    )
    request = LLMRequest(route="r", budget="acme", prompt="Write a story about a lighthouse.", system="You are brief.")
    call = ServiceCall(grant=grant, request=request)
    completion: Completion = await environment.run(activities.call_service, call)
    await connections.close()

    messages = [{"role": "user", "content": request.prompt}]
    counted = await service.post(
        "/messages/count_tokens", json={"model": MODEL_NAME, "system": request.system, "messages": messages}
    )
    (attempt,) = completion.attempts
    assert attempt.usage is not None
    assert attempt.usage.input_tokens == counted.json()["input_tokens"]
    assert attempt.usage.output_tokens == 7, "the cap, which the story is longer than"
    assert attempt.model_answered == MODEL_NAME
    assert completion.text
    assert not completion.refused


async def test_what_a_real_tokenizer_makes_of_a_request_is_within_its_bound(service: httpx.AsyncClient) -> None:
    """Of text from every corner of Unicode, in requests as we send them; the counts are the server's own."""
    planes = [chr(code) for code in range(0x20, 0x30000, 89) if not 0xD800 <= code < 0xE000]
    words = ["the tide ", " ", "\n", "0", "\ufdfa", "\x01", "👩‍👩‍👧", "語", "a\u0301", "<|im_start|>", "\\", "é"]
    texts = ["", *(word * 60 for word in words), *("".join(planes[n : n + 150]) for n in range(0, len(planes), 150))]
    settings = ServiceSettings(api="anthropic", base_url=str(service.base_url).rstrip("/"))
    counted: list[tuple[int, int]] = []
    for number, text in enumerate(texts):
        messages = (ChatMessage(role="user", content=text), ChatMessage(role="assistant", content=text[:40]))[
            : number % 3
        ]
        request = LLMRequest(route="r", budget="acme", system=text[:20], messages=messages, prompt=text)
        body = PROVIDERS["anthropic"].build_request(request, GRANT, settings, False).body | {"model": MODEL_NAME}
        tokens = (await service.post("/messages/count_tokens", json=body)).json()["input_tokens"]
        counted.append((tokens, input_bytes(request) + INPUT_OVERHEAD_TOKENS))
    parts = sorted(tokens / bound for tokens, bound in counted)
    print(f"{len(counted)} requests had {parts[0]:.2f} to {parts[-1]:.2f} of their bound")
    assert all(0 < tokens <= bound for tokens, bound in counted), counted
    assert max(tokens for tokens, _ in counted) > 500, "it counts"


async def no_reports(reports: Sequence[AttemptReport]) -> Sequence[None]:
    raise AssertionError("nothing fails here")


async def test_each_request_has_four_thousand_tokens(service: httpx.AsyncClient) -> None:
    (model,) = (await service.get("/models")).json()["data"]
    assert model["id"] == MODEL_NAME
    assert model["meta"]["n_ctx"] == 4_096, "the part of the context that each slot has"


async def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_package)
    with pytest.raises(StackError, match=r"xllamacpp is not installed. Run `uv sync --group stack`"):
        await EmbeddedStack(temporal=False, postgres=False).start()
