"""Bodies of chat completions: what they may cost at most, and how little of them is changed."""

import json
from typing import Any

import pytest

from paymaster.wire.measured import BadBody, Measured
from paymaster.wire.openai_chat import given_back, measured, sent, sent_headers

MESSAGES = [{"role": "user", "content": "Hello"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "writer", "messages": MESSAGES} | fields).encode()


def measure(**fields: Any) -> Measured:
    return measured(body(**fields))


def test_a_plain_body_needs_nothing() -> None:
    asked = measure(temperature=0, max_tokens=50, stream=True, tools=[{"type": "function", "function": {"name": "f"}}])
    assert asked[:1] + asked[2:] == ("writer", 50, 1, 0, 0, True, (), (), 0)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, ("modalities", "audio")),
        ({"modalities": ["text"]}, ()),
        ({"web_search_options": {}}, ("web_search_options",)),
        ({"plugins": None}, ()),
        ({"a_key_of_tomorrow": 1}, ("a_key_of_tomorrow",)),
        ({"tools": [{"type": "function"}, {"type": "web_search"}]}, ("tools.web_search",)),
        ({"tools": [{"function": {"name": "f"}}, {"name": "g"}]}, ("tools.untyped",)),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, ("messages.input_audio",)),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, ("messages.file",)),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "A", "file_id": "f"}}]}]},
            ("messages.file",),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": None}}]}]},
            ("messages.file",),
        ),
        ({"messages": [{"role": "user", "content": {"type": "input_audio"}}]}, ("messages.input_audio",)),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, ("messages.untyped",)),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, ("messages.audio",)),
        ({"messages": [{"role": "user", "content": "x", "video": "https://a/b"}]}, ("messages.video",)),
        ({"messages": [{"role": "assistant", "content": None, "refusal": None, "tool_calls": []}]}, ()),
    ],
)
def test_what_has_no_bound_is_named(fields: dict[str, Any], needs: tuple[str, ...]) -> None:
    assert measure(**fields).needs == needs


@pytest.mark.parametrize(
    ("fields", "chooses"),
    [
        ({"service_tier": "priority"}, ("service_tier=priority",)),
        ({"service_tier": "default"}, ()),
        ({"service_tier": None}, ()),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "cache_control": {"ttl": "1h"}}]}]},
            ("cache_control.ttl=1h",),
        ),
        ({"messages": [{"role": "user", "content": "x", "cache_control": {"type": "ephemeral", "ttl": "5m"}}]}, ()),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "cache_control": {"ttl": "1h"}}}]},
            ("cache_control.ttl=1h",),
        ),
    ],
)
def test_what_chooses_a_price_is_named(fields: dict[str, Any], chooses: tuple[str, ...]) -> None:
    assert measure(**fields).chooses == chooses
    assert measure(**fields).needs == ()


def test_media_are_counted_one_by_one_and_not_by_their_bytes() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000, "detail": "low"}}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "A" * 100_000}}
    asked = measure(messages=[{"role": "user", "content": [image, image, pdf, {"type": "text", "text": "x" * 500}]}])
    assert (asked.images, asked.documents, asked.needs) == (2, 1, ())
    assert 500 < asked.input_bytes < 900


def test_escapes_do_not_hide_what_a_tokenizer_makes_of_them() -> None:
    escaped = body(messages=[{"role": "user", "content": "ﷺ" * 100}])
    assert rb"\ufdfa" in escaped
    assert measured(escaped).input_bytes > 3_000


def test_several_outputs_are_counted() -> None:
    assert measure(n=3).outputs == 3
    assert measure(n=None).outputs == 1


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b'{"messages":[]}',
        b'{"model":7}',
        b'{"model":"a","model":"b"}',
        b"\xff",
        body(messages={"role": "user"}),
        body(messages=["x"]),
        body(tools={"type": "web_search"}),
        body(n=0),
        body(n=True),
        body(n=1e9),
        body(max_tokens=0),
        body(max_tokens="many"),
    ],
)
def test_a_body_that_is_none_is_refused(wrong: bytes) -> None:
    with pytest.raises(BadBody):
        measured(wrong)


WRITTEN = b'{ "model":"writer", "temperature":1.0,"messages":[{"role":"user","content":"\\u00e9t\\u00e9"}]%s }'


@pytest.mark.parametrize(
    ("asked", "changed"),
    [
        (b"", b', "max_tokens": 40'),
        (b', "max_tokens": 4e1', None),
        (b', "max_tokens": 39', b', "max_tokens": 39'),
        (b', "max_tokens": 41', b', "max_tokens": 40'),
        (b', "max_completion_tokens" : 41', b', "max_tokens" : 40'),
        (b', "max_completion_tokens" : null', b', "max_tokens" : 40'),
    ],
)
def test_the_cap_is_lowered_and_never_raised(asked: bytes, changed: bytes | None) -> None:
    if changed is None:
        with pytest.raises(BadBody):
            sent(WRITTEN % asked, model="m-1", cap=40, cap_name="max_tokens")
        return
    found = sent(WRITTEN % asked, model="m-1", cap=40, cap_name="max_tokens")
    expected = WRITTEN.replace(b"writer", b"m-1")
    if not asked:
        assert found == expected.replace(b"%s", b"").replace(b"}] }", b'}],"max_tokens":40 }')
    else:
        assert found == expected % changed


@pytest.mark.parametrize(("holder", "budget"), [("thinking", "budget_tokens"), ("reasoning", "max_tokens")])
def test_thinking_stays_below_a_cap_that_is_lowered(holder: str, budget: str) -> None:
    for given, cap, left in ((4_000, 2_000, 1_999), (1_500, 2_000, 1_500), (4_000, 500, 4_000)):
        asked = body(max_tokens=5_000, **{holder: {budget: given, "a": 1.0}})
        expected = asked.replace(b'"max_tokens": 5000', b'"max_tokens": %d' % cap).replace(b"writer", b"m-1")
        expected = expected.replace(b'"%s": %d' % (budget.encode(), given), b'"%s": %d' % (budget.encode(), left))
        assert sent(asked, model="m-1", cap=cap, cap_name="max_tokens") == expected


def test_a_stream_says_what_is_billed() -> None:
    for options, expected in (
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {"a": 1, "include_usage": False}}, {"a": 1, "include_usage": True}),
    ):
        found = json.loads(sent(body(stream=True, **options), model="m", cap=9, cap_name="max_tokens"))
        assert found["stream_options"] == expected
    assert "stream_options" not in json.loads(sent(body(), model="m", cap=9, cap_name="max_tokens"))


def test_the_chunk_that_was_not_asked_for_is_taken_out() -> None:
    first = b'data: {"choices":[{"delta":{"content":"\\"usage\\""}}],"usage":null}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\r\n\r\n'
    last = b"data: [DONE]\n\n"
    assert given_back(body(stream=True))(first + usage + last) == first + last
    asked = body(stream=True, stream_options={"include_usage": True})
    assert given_back(asked)(first + usage + last) == first + usage + last


def test_no_key_of_the_caller_is_passed_on() -> None:
    given = {
        "Authorization": "Bearer sk",
        "api-key": "k",
        "Cookie": "c",
        "OpenAI-Beta": "b",
        "openai-organization": "o",
    }
    assert sent_headers(given) == {"openai-beta": "b"}
