"""What an answer means that was made to hurt: compressed ones, absurd numbers, keys that JSON wrote in pieces."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
from large_answers import chunks
from wire import GRANT, ask

from paymaster import redaction
from paymaster.messages import Billing, Completion, LLMRequest, ServiceCall, Wire
from paymaster.providers.answers import HEADER_LENGTH_MAX, HttpAnswer, Reading, read_answer
from paymaster.providers.decompression import BodyTooLarge, BodyUnreadable, read_body
from paymaster.providers.openai import dollars_to_nanos
from paymaster.redaction import remember
from paymaster.settings import ServiceSettings

MB = 1_000_000
KEY = "sk-live-Zq7/Wm3+Kx9"
OPENROUTER = ServiceSettings(api="openai", base_url="https://openrouter.ai/api/v1", key="a-key")


def read(body: object, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Reading:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = ServiceCall(grant=GRANT, request=ask())
    answer = HttpAnswer(status, headers or [], content)
    return read_answer(call, OPENROUTER, answer, started_at_ms=1_795_000_000_000, now_ms=1_795_000_000_000)


# ---------------------------------------------------------------- of many values

USAGE = {"prompt_tokens": 12, "completion_tokens": 900}


def with_likelihoods(tokens: int) -> bytes:
    """An answer that has for each token itself and twenty others, with their bytes."""
    token = {"token": "a", "logprob": -0.5, "bytes": [97, 98]}
    content = [token | {"top_logprobs": [token] * 20}] * tokens
    choice = {"message": {"content": "Snow"}, "logprobs": {"content": content}, "finish_reason": "stop"}
    return json.dumps({"model": "m", "choices": [choice], "usage": USAGE}).encode()


def test_an_answer_with_log_probabilities_is_an_answer() -> None:
    reading = read(with_likelihoods(900))
    assert reading.completion is not None
    assert (reading.completion.text, reading.billing) == ("Snow", Billing.BILLED)
    assert reading.facts.usage is not None
    assert (reading.facts.usage.input_tokens, reading.facts.usage.output_tokens) == (12, 900)


@pytest.mark.parametrize("body", [with_likelihoods(9_000), b'{"logprob":[' + b"{}," * 60_000 + b"{}]}"])
def test_an_answer_of_too_many_values_says_so(body: bytes) -> None:
    reading = read(body)
    assert reading.error is not None
    assert (reading.error.error_class.name, reading.billing) == ("malformed_answer", Billing.UNKNOWN)


def test_too_many_values_are_not_called_no_json() -> None:
    reading = read({"choices": [0] * 60_000})
    assert reading.error is not None
    assert reading.error.message.startswith("JSON may have 50,000 values; this begins with")


# ---------------------------------------------------------------- streams

CHUNKS = b"".join(
    b"data: %s\n\n" % json.dumps(chunk).encode()
    for chunk in (
        {"model": "m", "choices": [{"delta": {"content": "Snow"}, "finish_reason": "stop"}]},
        {"model": "m", "choices": [], "usage": USAGE},
    )
)


@pytest.mark.parametrize("headers", [[], [(b"Content-Type", b"text/plain")]])
@pytest.mark.parametrize("begin", [b"", b"event: chunk\n"])
def test_a_stream_that_is_not_called_one_is_read(headers: list[tuple[bytes, bytes]], begin: bytes) -> None:
    """The SDKs read it too, whatever its content type is."""
    reading = read(begin + CHUNKS + b"data: [DONE]\n\n", headers=headers)
    assert reading.completion is not None
    assert (reading.completion.text, reading.billing) == ("Snow", Billing.BILLED)


# ---------------------------------------------------------------- compressed


async def pieces(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


@pytest.mark.parametrize("encodings", [[], ["identity"], ["gzip"], ["GZip"], ["x-gzip"], ["identity, gzip"]])
@pytest.mark.parametrize("size", [1, 100, 65_536])
async def test_the_one_encoding_that_is_asked_for_is_read(encodings: list[str], size: int) -> None:
    content = json.dumps(list(range(20_000))).encode()
    sent = gzip.compress(content) if any("gzip" in name.lower() for name in encodings) else content
    assert (await read_body(pieces(sent, size), encodings, MB)).whole() == content
    assert (await read_body(pieces(b"", size), encodings, MB)).whole() == b""


@pytest.mark.parametrize(
    "encodings", [["gzip, gzip"], ["gzip", "gzip"], ["br"], ["deflate"], ["zstd"], ["gzip, br"], ["x" * 9_000]]
)
async def test_any_other_encoding_is_refused(encodings: list[str]) -> None:
    with pytest.raises(BodyUnreadable):
        await read_body(pieces(gzip.compress(gzip.compress(b"{}"))), encodings, MB)


@pytest.mark.parametrize(
    "sent",
    [b"{}", gzip.compress(b"{}" * 1_000)[:-9], gzip.compress(b"{}")[:5], zlib.compress(b"{}")],
    ids=["JSON", "cut at its end", "cut at its beginning", "zlib"],
)
async def test_what_is_no_gzip_or_cut_off_is_refused(sent: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        await read_body(pieces(sent), ["gzip"], MB)


async def test_a_long_answer_is_held_compressed_while_it_arrives() -> None:
    """17 MB of a stream of single tokens: a thousand of them may arrive at once."""
    said = b"".join(chunks(60_000))
    tracemalloc.start()
    body = await read_body(pieces(said), [], 40 * MB)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(body) == len(said) > 16 * MB
    assert held < 5 * MB
    assert body.whole() == said


async def test_an_answer_that_grows_without_end_is_read_to_its_limit() -> None:
    """A gigabyte in one megabyte, and the answer of 2,650 bytes that took 3.3 GB."""
    bomb = gzip.compress(b"\0" * 1_000 * MB, compresslevel=1)
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        await read_body(pieces(bomb), ["gzip"], 8 * MB)
    with pytest.raises(BodyUnreadable):
        await read_body(pieces(gzip.compress(bomb)), ["gzip, gzip"], 8 * MB)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 * MB


def test_an_error_with_an_unreadable_body_means_what_its_status_says() -> None:
    call = ServiceCall(grant=GRANT, request=ask())
    for status, billing in ((400, Billing.NOT_BILLED), (429, Billing.NOT_BILLED), (500, Billing.UNKNOWN)):
        answer = HttpAnswer(status, [], b"", "the body is encoded as br")
        assert read_answer(call, OPENROUTER, answer, started_at_ms=0, now_ms=0).billing is billing
    reading = read_answer(call, OPENROUTER, HttpAnswer(200, [], b"", "encoded as br"), started_at_ms=0, now_ms=0)
    assert reading.error is not None
    assert (reading.error.error_class.name, reading.billing) == ("malformed_answer", Billing.UNKNOWN)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "cost",
    ["1e999999", "-1e999999", "1e-999999", "1" * 5_000, "9" * 101, "Infinity", "NaN", "sNaN", 1e300, -1, True, [1]],
)
def test_an_absurd_amount_is_none_and_no_defect(cost: object) -> None:
    """`usage.cost = "1e999999"` was a defect: charged at the bound and sent again."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": cost}
    reading = read({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage})
    assert isinstance(reading.completion, Completion)
    assert reading.facts.cost_nanos in (None, 0, 1)


def test_every_amount_that_is_one_is_taken() -> None:
    assert [dollars_to_nanos(amount) for amount in ("0.1", 0.1, 1, "1E-9", "1e-20", 0)] == [
        10**8,
        10**8,
        10**9,
        1,
        1,
        0,
    ]


@pytest.mark.parametrize("count", [-1, 10**11, 10**4_000, 1.5, 1e308, "7", True, None, [7], {}])
def test_an_absurd_count_makes_the_cost_unknown(count: object) -> None:
    reading = read(
        {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": count, "completion_tokens": 1}}
    )
    assert reading.facts.usage is None


# ---------------------------------------------------------------- keys


@pytest.fixture
def known_key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(redaction, "known_secrets", {})
    remember(KEY)
    return KEY


def in_escapes(text: str) -> str:
    """A text in JSON with each sign by its number, letters too, which no search in the body can know."""
    return "".join(f"\\u{ord(sign):04x}" for sign in text)


def read_wire(body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Reading:
    wire = Wire(dialect="openai", body=b'{"model": "m"}')
    call = ServiceCall(grant=GRANT, request=LLMRequest(route="r", budget="acme", wire=wire))
    answer = HttpAnswer(status, headers or [], body)
    return read_answer(call, OPENROUTER, answer, started_at_ms=1_795_000_000_000, now_ms=1_795_000_000_000)


def test_a_wire_call_gets_no_key_back(known_key: str) -> None:
    """In the bytes as they came, in escapes, in pieces of a stream; what cannot be cut out of them is not given."""
    ends = b'"usage": {"prompt_tokens": 1, "completion_tokens": 1}'
    answer = b'{"choices": [{"message": {"content": "a"}}], "odd": "%b", ' + ends + b"}"
    plain = read_wire(answer % known_key.encode()).completion
    assert plain is not None
    assert plain.wire is not None
    assert plain.wire.body == answer % b"[key]"
    hidden = read_wire(answer % in_escapes(known_key).encode()).completion
    assert hidden is not None
    assert (hidden.text, hidden.wire) == ("a", None)
    chunk = 'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n'
    pieces = (
        chunk % known_key[:9] + chunk % known_key[9:] + f'data: {{"choices": [], {ends.decode()}}}\n\ndata: [DONE]\n\n'
    )
    streamed = read_wire(pieces.encode(), headers=[(b"content-type", b"text/event-stream")]).completion
    assert streamed is not None
    assert (streamed.text, streamed.wire) == ("[key]", None)
    refused = b'{"error": {"message": "no such key: %b"}}'
    shown = read_wire(refused % known_key.encode(), 401).refusal
    assert shown is not None
    assert shown.body == refused % b"[key]"
    assert read_wire(refused % in_escapes(known_key).encode(), 401).refusal is None


def test_a_key_that_json_wrote_in_escapes_is_taken_out_everywhere(known_key: str) -> None:
    """A request's id was not searched again after it was decoded, nor was an error's text before it was cut."""
    written = in_escapes(known_key)
    error = read(f'{{"request_id": "{written}", "error": {{"message": "{"a" * 490}{written}"}}}}'.encode(), 400)
    assert error.facts.provider_request_id == "[key]"
    assert error.error is not None
    assert "sk-live" not in error.error.message
    message = f'{{"content": "{written}", "tool_calls": [{{"id": "{written}", "function": {{"name": "f"}}}}]}}'
    counts = '"usage": {"prompt_tokens": 1, "completion_tokens": 1}'
    choices = f'[{{"finish_reason": "{written}", "message": {message}}}]'
    answered = read(f'{{"model": "{written}", {counts}, "choices": {choices}}}'.encode())
    assert answered.completion is not None
    assert known_key not in str(answered)
    assert "sk-live" not in str(answered)
    malformed = read(f'{{"{"a" * 180}{written}": 1}}'.encode())
    assert malformed.error is not None
    assert "sk-live" not in malformed.error.message
    no_object = read(f'["{written}"]'.encode())
    assert no_object.error is not None
    assert known_key not in json.dumps(json.loads(no_object.error.message.removeprefix("not an object: ")))


def test_headers_are_searched_and_long_ones_are_not_read(known_key: str) -> None:
    names = [(b"X-Request-Id", known_key.encode()), (b"retry-after", b"1" * 100_000), (b"a", b"b")]
    assert read({}, 429, names).facts.provider_request_id == "[key]"
    assert read({}, 429, [(b"x-request-id", b"a" * (HEADER_LENGTH_MAX + 1))]).facts.provider_request_id is None
