"""The wire format `openai`: what is sent is what was asked for and paid for, and nothing that comes back surprises."""

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paymaster.messages import ChatMessage, Grant, LLMRequest, RetrySettings
from paymaster.money import Price, TokenUsage
from paymaster.services import openai
from paymaster.services.bounds import input_bytes
from paymaster.services.openai import Answer, MalformedAnswer, parse_response

OPENAI = "https://api.openai.com/v1"
LOCAL = "http://127.0.0.1:8080/v1"
GRANT = Grant(
    hold_id="run-1/1",
    budget="acme",
    service="openai",
    model="gpt-test",
    price=Price(input_nanos=1, output_nanos=1, source="test"),
    max_output_tokens=321,
    bound_nanos=1,
    granted_at_ms=0,
    expires_at_ms=1,
    epoch="epoch-1",
    timeout_ms=1,
    retry=RetrySettings(),
    max_retry_after_ms=1,
    max_unconfirmed=1,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def request(**fields: Any) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "prompt": "Hello"} | fields)


def answer(**fields: object) -> dict[str, object]:
    """A chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-test-2026-10-01",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi!"}}],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 7,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 12},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    } | fields


def parsed(**fields: object) -> Answer:
    return parse_response(json.dumps(answer(**fields)).encode())


def message(**fields: object) -> list[dict[str, object]]:
    return [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | fields}]


# ---------------------------------------------------------------- requests


def test_a_plain_request_has_a_model_messages_and_the_cap_on_the_output() -> None:
    """Nothing else: what the caller leaves open the service decides."""
    assert openai.build_request(request(), GRANT, OPENAI) == {
        "model": "gpt-test",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_completion_tokens": 321,
    }


@pytest.mark.parametrize(("base_url", "name"), [(OPENAI, "max_completion_tokens"), (LOCAL, "max_tokens")])
def test_the_cap_on_the_output_is_always_sent_under_the_name_that_the_service_knows(base_url: str, name: str) -> None:
    """The bound of the cost is made of it; it is the grant's, which may be lower than the request's."""
    body = openai.build_request(request(max_output_tokens=9_999), GRANT, base_url)
    assert body[name] == 321
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1


def test_messages_come_in_the_order_in_which_a_model_reads_them() -> None:
    """System, what was said before, prompt."""
    earlier = (ChatMessage(role="user", content="Hi"), ChatMessage(role="assistant", content="Yes?"))
    body = openai.build_request(request(system="Be brief.", messages=earlier, prompt="Why?"), GRANT, OPENAI)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]


def test_a_schema_is_asked_for_strictly() -> None:
    """So that the answer can be used as data."""
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    body = openai.build_request(request(json_schema=schema), GRANT, OPENAI)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


def test_what_the_caller_chose_is_sent_zero_included() -> None:
    """A temperature and a seed of 0 are choices."""
    body = openai.build_request(request(temperature=0, seed=0, stop=("\n", "END")), GRANT, LOCAL)
    assert (body["temperature"], body["seed"], body["stop"]) == (0, 0, ["\n", "END"])


def test_a_key_is_sent_as_a_bearer_and_no_key_as_nothing() -> None:
    """A local server needs none."""
    assert openai.headers("sk-test") == {"authorization": "Bearer sk-test"}
    assert openai.headers(None) == {}


@given(system=st.none() | texts, prompt=texts, said=st.lists(texts, max_size=3), schema=st.none() | st.just({"a": [1]}))
@example(system=None, prompt="\ufdfa" * 50, said=[], schema=None)
def test_no_text_that_is_sent_is_larger_than_what_the_bound_is_made_of(
    system: str | None, prompt: str, said: list[str], schema: dict[str, Any] | None
) -> None:
    """Neither as it is nor as a tokenizer sees it that normalises first (U+FDFA is 3 bytes, and then 33)."""
    earlier = [ChatMessage(role="user", content=text) for text in said]
    asked = request(system=system, prompt=prompt, messages=earlier, json_schema=schema)
    body = openai.build_request(asked, GRANT, OPENAI)
    sent = json.dumps([body["messages"], schema], ensure_ascii=False)
    for form in (sent, unicodedata.normalize("NFKC", sent)):
        assert len(form.encode()) <= input_bytes(asked)


# ---------------------------------------------------------------- answers


def test_an_answer_has_its_text_reason_model_and_counts() -> None:
    """As the service says them; cached tokens are part of the input, reasoning is part of the output."""
    assert parsed() == Answer(
        text="Hi!",
        finish_reason="stop",
        model="gpt-test-2026-10-01",
        usage=TokenUsage(input_tokens=20, cached_input_tokens=12, output_tokens=7, reasoning_tokens=4),
    )


def test_an_answer_without_text_is_an_answer() -> None:
    """A tool call, a refusal, an empty answer: it was billed."""
    for content in (None, "", 5, ["text"]):
        assert parsed(choices=message(content=content)).text == ""


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "20",
        {},
        {"prompt_tokens": 20},
        {"completion_tokens": 7},
        {"prompt_tokens": -1, "completion_tokens": 7},
        {"prompt_tokens": "20", "completion_tokens": 7},
        {"prompt_tokens": 20.5, "completion_tokens": 7},
        {"prompt_tokens": True, "completion_tokens": 7},
        {"prompt_tokens": 20, "completion_tokens": None},
        {"prompt_tokens": 10**30, "completion_tokens": 7},
    ],
    ids=repr,
)
def test_counts_that_are_missing_or_senseless_are_unknown_and_not_zero(usage: object) -> None:
    """Unknown is charged at the bound; zero would be free."""
    assert parsed(usage=usage).usage is None
    body = answer()
    del body["usage"]
    assert parse_response(json.dumps(body).encode()).usage is None


@pytest.mark.parametrize(
    "details", [None, 5, [], {"cached_tokens": None}, {"cached_tokens": -3}, {"cached_tokens": "9"}]
)
def test_details_that_make_no_sense_give_no_discount(details: object) -> None:
    """What is not known to be cached is charged as input."""
    usage = parsed(usage={"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": details}).usage
    assert usage == TokenUsage(input_tokens=20, output_tokens=7)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00",
        b"<html>502 Bad Gateway</html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": "Hi!"}]}',
        b'{"error": {"message": "upstream failed", "code": 502}}',
        b'{"choices": [{"message": {"content": "Hi',
        b"[" * 100_000,
        b'{"choices":' * 50_000,
        b"1" * 10_000,
        b'data: {"choices": []}\n\ndata: [DONE]\n\n',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_chat_completion_is_malformed(body: bytes) -> None:
    """An error inside a 200, a cut answer, brackets without end: said in a sentence of bounded length."""
    with pytest.raises(MalformedAnswer) as caught:
        parse_response(body)
    assert len(str(caught.value)) < 1_000


def check(body: bytes) -> None:
    """Only an answer or MalformedAnswer; and an answer that any message can carry."""
    try:
        found = parse_response(body)
    except MalformedAnswer:
        return
    assert isinstance(found, Answer)
    for text in (found.text, found.finish_reason or "", found.model or ""):
        text.encode()
    if found.usage is not None:
        assert min(found.usage.model_dump().values()) >= 0
        TokenUsage.model_validate_json(found.usage.model_dump_json())


@given(body=st.binary(max_size=200))
def test_no_bytes_make_anything_but_an_answer_or_malformed(body: bytes) -> None:
    """Whatever a server sends."""
    check(body)


@given(
    data=st.data(),
    path=st.sampled_from(
        [
            ["choices"],
            ["choices", 0],
            ["choices", 0, "message"],
            ["choices", 0, "message", "content"],
            ["choices", 0, "finish_reason"],
            ["model"],
            ["usage"],
            ["usage", "prompt_tokens"],
            ["usage", "prompt_tokens_details"],
            ["usage", "prompt_tokens_details", "cached_tokens"],
            ["usage", "completion_tokens_details"],
        ]
    ),
    wrong=json_values,
    cut=st.none() | st.integers(0, 400),
)
def test_no_almost_right_json_makes_anything_but_an_answer_or_malformed(
    data: st.DataObject, path: list[str | int], wrong: object, cut: int | None
) -> None:
    """A chat completion with anything anywhere, and cut anywhere."""
    body: Any = answer()
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    check(json.dumps(body).encode()[:cut])


@pytest.mark.parametrize("text", [r"\ud83d", r"\ude00", r"a\ud800b", r"\ude00\ud83d"])
def test_half_a_surrogate_pair_becomes_a_replacement_character(text: str) -> None:
    """JSON can name it and UTF-8 cannot: an answer that was paid for must not be lost for it."""
    body = json.dumps(answer()).replace("Hi!", text).encode()
    assert "\ufffd" in parse_response(body).text


@given(text=texts)
@example(text="\ufeffa mark at the start")
@example(text="\U0001f600 and \x00")
def test_every_other_text_arrives_as_it_was_sent(text: str) -> None:
    """To the last character, however JSON writes it."""
    for ensure_ascii in (True, False):
        body = json.dumps(answer(choices=message(content=text)), ensure_ascii=ensure_ascii).encode()
        assert parse_response(body).text == text
