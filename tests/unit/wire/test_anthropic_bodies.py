"""Bodies of the Messages API: what they may cost at most, and how little of them is changed."""

import json
from typing import Any

import pytest

from paymaster.wire.anthropic import measured, sent, sent_headers
from paymaster.wire.measured import BadBody, Measured

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 100_000}}
LONG = {"type": "ephemeral", "ttl": "1h"}


def body(**fields: Any) -> bytes:
    usual = {"model": "writer", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
    return json.dumps(usual | fields).encode()


def measure(**fields: Any) -> Measured:
    return measured(body(**fields))


def asked(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def test_a_plain_body_needs_nothing() -> None:
    found = measure(
        stream=True,
        system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
        temperature=1,
        top_p=1,
        top_k=5,
        stop_sequences=["x"],
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[
            {"name": "f", "description": "d", "input_schema": {}, "defer_loading": True},
            {"type": "custom", "name": "g"},
        ],
        tool_choice={"type": "auto"},
        output_config={"effort": "low", "format": {}, "task_budget": {"type": "tokens", "total": 20_000}},
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}, {"type": "clear_thinking_20251015"}]},
        service_tier="auto",
        speed="standard",
        inference_geo=None,
        mcp_servers=[],
    )
    assert found[:1] + found[2:] == ("writer", 50, 1, 0, 0, True, (), (), 0)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"mcp_servers": [{"type": "url"}]}, ("mcp_servers",)),
        ({"container": "c"}, ("container",)),
        ({"fallbacks": "default"}, ("fallbacks",)),
        ({"compaction": {"type": "summarize"}}, ("compaction",)),
        ({"thread": {}}, ("thread",)),
        ({"a_key_of_tomorrow": 1}, ("a_key_of_tomorrow",)),
        ({"output_config": {"effort": "low", "drafts": 3}}, ("output_config.drafts",)),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, ("context_management.compact_20260112",)),
        ({"context_management": {"more": 1}}, ("context_management.more",)),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, ("tools.web_search_20250305",)),
        ({"tools": [{"type": "web_fetch_20260209"}]}, ("tools.web_fetch_20260209",)),
        ({"tools": [{"type": "code_execution_20250825"}]}, ("tools.code_execution_20250825",)),
        ({"tools": [{"type": "tool_search_tool_bm25_20251119"}]}, ("tools.tool_search_tool_bm25_20251119",)),
        ({"tools": [{"type": "mcp_toolset"}]}, ("tools.mcp_toolset",)),
        ({"tools": [{"type": "computer_toolset_20260801"}]}, ("tools.computer_toolset_20260801",)),
        ({"tools": [{"name": "f", "input_schema": {}, "runs_at": "anthropic"}]}, ("tools.runs_at",)),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, ()),
        ({"tools": [{"type": "computer_20251124", "name": "computer", "display_width_px": 1}]}, ()),
        (asked({"type": "container_upload", "file_id": "f"}), ("messages.container_upload",)),
        (asked({"type": "image", "source": {"type": "file", "file_id": "f"}}), ("messages.image.file",)),
        (asked({"type": "document", "source": {"type": "file", "file_id": "f"}}), ("messages.document.file",)),
        (asked({"type": "tool_result", "content": [{"type": "hologram"}]}), ("messages.hologram",)),
        (asked({"type": "document", "source": {"type": "content", "content": [{"type": "odd"}]}}), ("messages.odd",)),
        (asked({"text": "no type"}), ("messages.untyped",)),
        (asked({"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}), ()),
        (
            asked({"type": "tool_addition", "tool": {"definition": {"type": "web_search_20250305"}}}),
            ("tools.web_search_20250305",),
        ),
        ({"system": [{"type": "odd"}]}, ("messages.odd",)),
        ({"messages": [{"role": "user", "content": "x", "price": 1}]}, ("messages.price",)),
        ({"messages": [{"role": "system", "content": "x", "output_config": {"effort": "low"}}]}, ()),
        (
            {"messages": [{"role": "system", "content": "x", "output_config": {"more": 1}}]},
            ("messages.output_config.more",),
        ),
        (asked({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}), ()),
        (asked({"type": "server_tool_use", "id": "s"}, {"type": "web_search_tool_result", "content": []}), ()),
    ],
)
def test_what_has_no_bound_is_named(fields: dict[str, Any], needs: tuple[str, ...]) -> None:
    assert measure(**fields).needs == needs


@pytest.mark.parametrize(
    ("fields", "chooses"),
    [
        ({"speed": "fast"}, ("speed=fast",)),
        ({"inference_geo": "us"}, ("inference_geo=us",)),
        ({"inference_geo": "global"}, ()),
        ({"service_tier": "standard_only"}, ()),
        ({"service_tier": "batch"}, ("service_tier=batch",)),
        ({"cache_control": LONG}, ("cache_control.ttl=1h",)),
        ({"system": [{"type": "text", "text": "x", "cache_control": LONG}]}, ("cache_control.ttl=1h",)),
        ({"tools": [{"name": "f", "cache_control": LONG}]}, ("cache_control.ttl=1h",)),
        (
            asked({"type": "tool_addition", "tool": {"definition": {"name": "f", "cache_control": LONG}}}),
            ("cache_control.ttl=1h",),
        ),
        (
            asked({"type": "tool_result", "content": [{"type": "text", "text": "x", "cache_control": LONG}]}),
            ("cache_control.ttl=1h",),
        ),
    ],
)
def test_what_chooses_a_price_is_named(fields: dict[str, Any], chooses: tuple[str, ...]) -> None:
    assert (measure(**fields).chooses, measure(**fields).needs) == (chooses, ())


def test_media_are_counted_one_by_one_wherever_they_stand() -> None:
    by_url = [
        {"type": "image", "source": {"type": "url", "url": "https://a/b"}},
        {"type": "document", "source": {"type": "url", "url": "https://a/c"}},
    ]
    result = {"type": "tool_result", "tool_use_id": "t", "content": [PNG, {"type": "text", "text": "x" * 500}]}
    inside = {"type": "document", "source": {"type": "content", "content": [PNG]}}
    fetched = {"type": "web_fetch_tool_result", "content": {"type": "web_fetch_result", "content": PDF}}
    found = measure(**asked(PNG, PDF, *by_url, result, inside, fetched))
    assert (found.images, found.documents, found.needs) == (4, 3, ())
    assert 500 < found.input_bytes < 2_500


@pytest.mark.parametrize(
    "hidden",
    [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"type": "base64", "data": "x" * 10_000}},
        {"type": "text", "text": "x", "source": {"type": "base64", "data": "x" * 10_000}},
        {"type": "document", "source": {"type": "text", "data": "x" * 10_000}},
        {"type": "image", "source": {"data": "x" * 10_000}},
        {"type": "thinking", "thinking": "x" * 10_000, "signature": "s"},
    ],
)
def test_what_only_looks_like_media_is_counted(hidden: dict[str, Any]) -> None:
    assert measure(**asked(hidden)).input_bytes > 10_000


def test_a_description_that_anthropic_adds_is_counted() -> None:
    plain = measure(tools=[{"type": "custom", "name": "bash"}]).input_bytes
    assert measure(tools=[{"type": "bash_20250124", "name": "bash"}]).input_bytes > plain + 1_000


def test_a_call_that_only_fills_the_cache_has_a_bound() -> None:
    assert measure(max_tokens=0).max_output_tokens == 1
    assert json.loads(sent(body(max_tokens=0), model="m", cap=40))["max_tokens"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b'{"max_tokens":1}',
        body(max_tokens=-1),
        body(max_tokens="many"),
        body(messages=["x"]),
        body(messages={}),
        body(tools={}),
        body(context_management={"edits": {}}),
    ],
)
def test_a_body_that_is_none_is_refused(wrong: bytes) -> None:
    with pytest.raises(BadBody):
        measured(wrong)


WRITTEN = b'{ "model":"writer", "temperature":1.0,"messages":[{"role":"user","content":"\\u00e9t\\u00e9"}]%s }'


@pytest.mark.parametrize(
    ("asked_for", "changed"),
    [
        (b', "max_tokens": 39', b', "max_tokens": 39'),
        (b', "max_tokens" : 5000', b', "max_tokens" : 2000'),
        (
            b', "thinking": {"budget_tokens" : 4000, "type":"enabled"}, "max_tokens": 5000',
            b', "thinking": {"budget_tokens" : 1999, "type":"enabled"}, "max_tokens": 2000',
        ),
        (
            b', "thinking": {"type":"enabled", "budget_tokens":1500}, "max_tokens": 5000',
            b', "thinking": {"type":"enabled", "budget_tokens":1500}, "max_tokens": 2000',
        ),
        # More thinking than output is the caller's own affair where the cap is his own.
        (
            b', "thinking": {"type":"enabled", "budget_tokens":4000}, "max_tokens": 1500',
            b', "thinking": {"type":"enabled", "budget_tokens":4000}, "max_tokens": 1500',
        ),
        (
            b', "thinking": {"type":"adaptive"}, "max_tokens": 5000',
            b', "thinking": {"type":"adaptive"}, "max_tokens": 2000',
        ),
    ],
)
def test_the_cap_is_lowered_and_thinking_stays_below_it(asked_for: bytes, changed: bytes) -> None:
    expected = WRITTEN.replace(b"writer", b"m-1") % changed
    assert sent(WRITTEN % asked_for, model="m-1", cap=2_000) == expected


def test_a_body_without_a_cap_gets_one() -> None:
    found = sent(WRITTEN % b"", model="m-1", cap=40)
    assert found == WRITTEN.replace(b"writer", b"m-1") % b',"max_tokens":40'


def test_no_key_of_the_caller_is_passed_on() -> None:
    given = {
        "X-Api-Key": "sk",
        "Authorization": "Bearer sk",
        "Anthropic-Beta": "b",
        "anthropic-version": "v",
        "Cookie": "c",
    }
    assert sent_headers(given) == {"anthropic-beta": "b", "anthropic-version": "v"}
