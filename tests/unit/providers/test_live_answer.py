"""What may be given of a stream while it comes: whole events, no key in any form, nothing before it says something."""

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_answers import CHAT_STREAM, sse

from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.live_answer import EVENT_BYTES_MAX, LiveAnswer, NotToBeGiven
from paymaster.redaction import PLACEHOLDER, known_secrets, redact_bytes, remember

KEY = "sk-live-Zq8+w3/Y7x2Kd9Lm"


@pytest.fixture(autouse=True)
def knows_the_key() -> Iterator[None]:
    remember(KEY)
    yield
    known_secrets.pop(KEY)


def live(dialect: Dialect = "openai", **more: Any) -> LiveAnswer:
    body = json.dumps({"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}, **more})
    return LiveAnswer(Wire(dialect=dialect, body=body.encode()))


def given_of(answer: LiveAnswer, pieces: Iterable[bytes]) -> list[bytes]:
    """What is given for each piece, and at the end."""
    return [*(answer.take(piece) for piece in pieces), answer.rest()]


def chunk(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(each % (len(data) + 1) for each in cuts)})
    return [data[begin:end] for begin, end in pairwise(at)]


@given(cuts=st.lists(st.integers(0), max_size=20), end=st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n"]))
def test_wherever_it_is_cut_it_is_given_whole(cuts: list[int], end: str) -> None:
    stream = CHAT_STREAM.removesuffix("\n\n").replace("\n\n", "\n\n" if end == "\n" else end).encode() + end.encode()
    assert b"".join(given_of(live(), cut(stream, cuts))) == stream


def test_each_event_is_given_when_it_is_whole() -> None:
    first, second = chunk("One"), chunk(" two")
    given = given_of(live(), [first + second[:20], second[20:-1], second[-1:]])
    assert given == [first, b"", second, b""]


def test_the_event_that_only_we_asked_for_is_not_given() -> None:
    stream = CHAT_STREAM.encode()
    given = b"".join(given_of(live(stream_options={}), [stream]))
    assert b'"usage": {' not in given
    assert given.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("dialect", "before", "says"),
    [
        ("openai", {"choices": []}, {"choices": [{"delta": {"content": "A"}}]}),
        ("openai", {"choices": [{"delta": {"role": "assistant"}}]}, {"choices": [{"delta": {"refusal": "No"}}]}),
        ("openai", {"choices": [{"delta": {}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        ("anthropic", {"type": "message_start", "message": {}}, {"type": "content_block_start", "index": 0}),
        ("anthropic", {"type": "ping"}, {"type": "message_delta", "delta": {}}),
        ("openai-responses", {"type": "response.created"}, {"type": "response.output_item.added"}),
        ("openai-responses", {"type": "response.in_progress"}, {"type": "response.output_text.delta"}),
    ],
)  # fmt: skip
def test_nothing_is_given_before_an_event_that_says_something(
    dialect: Dialect, before: dict[str, Any], says: dict[str, Any]
) -> None:
    beginning, token = sse(before).encode(), sse(says).encode()
    assert given_of(live(dialect), [beginning, token]) == [b"", beginning + token, b""]
    assert given_of(live(dialect), [beginning]) == [b"", b""]


@pytest.mark.parametrize(
    ("dialect", "error"),
    [
        ("openai", {"error": {"message": "overloaded"}}),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}),
        ("openai-responses", {"type": "response.failed", "response": {}}),
        ("gemini", {"error": {"code": 503}}),
    ],
)
def test_an_error_is_given_only_after_something_was(dialect: Dialect, error: dict[str, Any]) -> None:
    event = sse(error).encode()
    early = live(dialect)
    with pytest.raises(NotToBeGiven):
        early.take(event)
    assert not early.has_told_error
    late, said = live("gemini"), sse({"candidates": []}).encode()
    assert given_of(late, [said, event]) == [said, event, b""]
    assert late.has_told_error


WRITTEN = [KEY, quote(KEY, safe=""), quote(quote(KEY, safe=""), safe=""), KEY.replace("/", "\\/"), KEY.encode().hex()]


@pytest.mark.parametrize("written", WRITTEN, ids=["plain", "URL", "URL twice", "JSON", "hexadecimal"])
@given(cuts=st.lists(st.integers(1), min_size=1, max_size=8))
def test_no_key_is_given_in_the_pieces_of_one_event(written: str, cuts: list[int]) -> None:
    event = chunk(f"see {written} there")
    given = b"".join(given_of(live(), cut(event, cuts)))
    assert given == redact_bytes(event)
    assert PLACEHOLDER.encode() in given


@pytest.mark.parametrize("written", WRITTEN, ids=["plain", "URL", "URL twice", "JSON", "hexadecimal"])
@given(cuts=st.lists(st.integers(1), min_size=1, max_size=8))
def test_no_key_is_given_in_the_texts_of_several_events(written: str, cuts: list[int]) -> None:
    """Of the whole at most the seven characters go out that most keys begin with, and their forms."""
    text = f"see {written} there"
    pieces = [piece.decode() for piece in cut(text.encode(), cuts)]
    answer, given = live(), b""
    try:
        for piece in pieces:
            given += answer.take(chunk(piece))
    except NotToBeGiven:
        assert len(pieces) > 1
    else:
        assert PLACEHOLDER.encode() in given
        return
    said = "".join(json.loads(line[5:])["choices"][0]["delta"]["content"] for line in given.decode().split("\n\n")[:-1])
    assert text.startswith(said)
    assert len(said) <= len("see ") + len(written) // 3


def test_a_key_that_json_writes_by_its_numbers_is_not_given() -> None:
    by_number = "".join(f"\\u{ord(character):04x}" for character in KEY)
    event = f'data: {{"choices": [{{"delta": {{"content": "{by_number}"}}}}]}}\n\n'.encode()
    with pytest.raises(NotToBeGiven):
        live().take(event)


def test_what_only_begins_like_a_key_is_held_back_and_given() -> None:
    first, held, last = chunk("see sk-l"), chunk("ive-Zq"), chunk(" and so on")
    assert given_of(live(), [first, held, last]) == [first, b"", held + last, b""]
    assert given_of(live(), [first, held]) == [first, b"", held]


def test_an_event_without_end_is_left_to_the_result() -> None:
    answer, part = live(), b"x" * (EVENT_BYTES_MAX // 2)
    assert answer.take(b"data: " + part) == b""
    with pytest.raises(NotToBeGiven):
        answer.take(part)
