"""What real services answered, asked for or refused, and how a correct client reads it."""

import json
import re
import time
from itertools import islice, product
from typing import Any

import pytest
import wire

from paymaster.messages import Billing, ChatMessage, LLMRequest, LLMResult, Outcome, ServiceCall, Tool, ToolCall
from paymaster.providers.answers import HttpAnswer, Reading, read_answer
from paymaster.providers.bounds import input_bytes
from paymaster.providers.call_ids import MADE_ID_BYTES
from paymaster.providers.http_errors import HttpError, classify
from paymaster.providers.registry import PROVIDERS
from paymaster.providers.tool_names import sent_names
from paymaster.settings import Api, ServiceSettings
from paymaster.values.money import Price

NOW_MS = 1_790_000_000_000
PRICE = Price(input_nanos=1_000_000_000, output_nanos=4_000_000_000, source="configuration")
GRANT = wire.GRANT.model_copy(update={"price": PRICE, "max_output_tokens": 1_000})
OPENAI = ("openai", "https://api.openai.com/v1")
XAI = ("openai", "https://api.x.ai/v1")
GOOGLE = ("openai", "https://generativelanguage.googleapis.com/v1beta/openai")
GROQ = ("openai", "https://api.groq.com/openai/v1")
MISTRAL = ("openai", "https://api.mistral.ai/v1")
CLAUDE = ("anthropic", "https://api.anthropic.com/v1")
GEMINI = ("gemini", "https://generativelanguage.googleapis.com/v1beta")
RESPONSES = ("openai-responses", "https://api.openai.com/v1")
Address = tuple[Api, str]


def service_at(address: Address, **fields: Any) -> ServiceSettings:
    return ServiceSettings(api=address[0], base_url=address[1], **fields)


def ask(**fields: Any) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme"} | fields)


def body_of(request: LLMRequest, address: Address, **fields: Any) -> dict[str, Any]:
    """The body that is sent."""
    return PROVIDERS[address[0]].build_request(request, GRANT, service_at(address, **fields), False).body


def read(address: Address, body: Any, *, streamed: bool = False, headers: dict[str, str] | None = None) -> Reading:
    """An answer with status 200."""
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "text/event-stream" if streamed else "application/json"
    raw = [(name.encode(), value.encode()) for name, value in {"content-type": kind, **(headers or {})}.items()]
    call = ServiceCall(grant=GRANT, request=ask(prompt="Hello"))
    return read_answer(
        call, service_at(address), HttpAnswer(200, raw, written), started_at_ms=NOW_MS, now_ms=NOW_MS + 1_000
    )


def refused(status: int, error: Any, headers: dict[str, str] | None = None) -> HttpError:
    return classify(status, headers or {}, json.dumps({"error": error}).encode(), now_ms=NOW_MS)


def chat(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "", **message}}
    return {"model": "the-model", "choices": [choice], "usage": usage} | fields


def stream(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def gemini(parts: list[Any], finish_reason: str = "STOP", **fields: Any) -> dict[str, Any]:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": finish_reason}
    return {"modelVersion": "the-model", "candidates": [candidate], "usageMetadata": usage} | fields


# ---------------------------------------------------------------- counts of tokens


@pytest.mark.parametrize(
    ("address", "body", "kinds"),
    [
        (
            OPENAI,
            chat(
                {"content": "x"},
                usage={
                    "prompt_tokens": 100,
                    "completion_tokens": 50,
                    "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10},
                    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5},
                },
            ),
            {"input": 50, "cached_input": 40, "input_audio": 10, "output": 25, "reasoning": 20, "output_audio": 5},
        ),
        (
            RESPONSES,
            {
                "model": "the-model",
                "status": "completed",
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}],
                "usage": {
                    "input_tokens": 100,
                    "input_tokens_details": {"cached_tokens": 40},
                    "output_tokens": 50,
                    "output_tokens_details": {"reasoning_tokens": 20},
                },
            },
            {"input": 60, "cached_input": 40, "output": 30, "reasoning": 20},
        ),
        (
            GEMINI,
            gemini(
                [{"text": "x"}],
                usageMetadata={
                    "promptTokenCount": 100,
                    "cachedContentTokenCount": 40,
                    "candidatesTokenCount": 30,
                    "thoughtsTokenCount": 20,
                    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}],
                    "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
                    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 8}],
                },
            ),
            {
                "input": 40,
                "cached_input": 35,
                "input_audio": 20,
                "cached_audio": 5,
                "output": 22,
                "reasoning": 20,
                "output_image": 8,
            },
        ),
    ],
    ids=["chat completions", "responses", "gemini"],
)
def test_each_format_says_what_is_paid_for(address: Address, body: Any, kinds: dict[str, int]) -> None:
    """All of it, and at the price that is configured."""
    facts = read(address, body).facts
    assert facts.usage is not None
    assert facts.paid_for is not None
    assert {line.kind: line.quantity for line in facts.paid_for} == kinds
    assert sum(line.cost_nanos for line in facts.paid_for) == PRICE.cost_nanos(facts.usage)


@pytest.mark.parametrize(
    ("address", "usage", "output"),
    [
        (  # reasoning is counted apart
            XAI,
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 10,
                "total_tokens": 1_310,
                "completion_tokens_details": {"reasoning_tokens": 300},
            },
            310,
        ),
        (GOOGLE, {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 105}, 96),
        (  # apart, though no total says so: part of the output it cannot be
            OPENAI,
            {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 7}},
            10,
        ),
    ],
)
def test_output_is_all_that_the_total_leaves(address: Address, usage: dict[str, Any], output: int) -> None:
    whole, pieces = chat({"content": "x"}, usage=usage), {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    for found in (read(address, whole), read(address, stream({**pieces, "usage": usage}), streamed=True)):
        assert found.facts.usage is not None
        assert (found.billing, found.facts.usage.output_tokens) == (Billing.BILLED, output)


APART = {"input_tokens": 1_000, "output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 300}}


@pytest.mark.parametrize("base_url", ["https://api.x.ai/v1", "https://api.openai.com/v1", "https://gateway.example/v1"])
@pytest.mark.parametrize("total", [{}, {"total_tokens": 1_310}])
def test_output_of_a_response_is_all_that_its_total_leaves(base_url: str, total: dict[str, int]) -> None:
    said = [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}]
    for usage, billing, output in (
        (APART | total, Billing.BILLED, 310),
        (APART | {"total_tokens": 1_005}, Billing.UNKNOWN, None),
        (APART | {"input_tokens_details": {"cached_tokens": 1_001}}, Billing.UNKNOWN, None),
    ):
        body = {"model": "the-model", "status": "completed", "output": said, "usage": usage}
        found = read(("openai-responses", base_url), body)
        assert found.billing is billing
        assert (found.facts.usage and found.facts.usage.output_tokens) == output


def test_output_of_gemini_is_all_that_its_total_leaves() -> None:
    """Where the total is less than its parts, these are what is billed."""
    for total, output in ((105, 96), (12, 3), (10, 3)):
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": total}
        found = read(GEMINI, gemini([{"text": "x"}], usageMetadata=usage)).facts.usage
        assert found is not None
        assert found.output_tokens == output


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 120},
        {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 300}},
    ],
)
def test_counts_that_contradict_each_other_are_unknown(usage: dict[str, Any]) -> None:
    found = read(OPENAI, chat({"content": "x"}, usage=usage))
    assert (found.billing, found.facts.usage) == (Billing.UNKNOWN, None)


@pytest.mark.parametrize(
    "count", [{"num_search_queries": 10**11}, {"num_search_queries": 1e300}, {"reasoning_tokens": 1.5}]
)
def test_counts_that_are_a_mistake_are_unknown(count: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 50, **count}
    found = read(("openai", "https://api.perplexity.ai"), chat({"content": "x"}, usage=usage))
    assert (found.billing, found.facts.usage, found.facts.cost_nanos) == (Billing.UNKNOWN, None, None)
    assert found.completion is not None, "the answer is there all the same"


@pytest.mark.usefixtures("heap_of_a_worker")
def test_passes_beyond_any_use_make_the_cost_unknown() -> None:
    other = {"model": "claude-haiku-4-5", "input_tokens": 1, "output_tokens": 1}
    began = time.process_time()
    assert cost_of(CLAUDE, claude({**COUNTS, "iterations": [other] * 16_000})) == (Billing.UNKNOWN, None)
    assert time.process_time() - began < 1


@pytest.mark.usefixtures("heap_of_a_worker")
def test_a_model_with_no_models_name_has_no_listed_price() -> None:
    began = time.process_time()
    found = cost_of(CLAUDE, claude(COUNTS, model="claude-2" + "x" * 500_000))
    assert found == (Billing.BILLED, None), "its grant's price decides"
    assert time.process_time() - began < 1


def test_counts_that_agree_are_taken_as_they_are() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 50},
    }
    found = read(OPENAI, chat({"content": "x"}, usage=usage)).facts.usage
    assert found is not None
    assert (found.input_tokens, found.output_tokens, found.reasoning_tokens) == (100, 50, 50)


# ---------------------------------------------------------------- what an answer says of its price


def claude(usage: dict[str, Any], **fields: Any) -> dict[str, Any]:
    said = [{"type": "text", "text": "x"}]
    return {"model": "claude-opus-5", "content": said, "stop_reason": "end_turn", "usage": usage} | fields


def cost_of(address: Address, body: Any, listed: str = "genai-prices") -> tuple[Billing, int | None]:
    """With a price from the list, as most have."""
    call = ServiceCall(
        grant=GRANT.model_copy(update={"price": GRANT.price.model_copy(update={"source": listed})}),
        request=ask(prompt="Hello"),
    )
    answer = HttpAnswer(200, [(b"content-type", b"application/json")], json.dumps(body).encode())
    found = read_answer(call, service_at(address), answer, started_at_ms=NOW_MS, now_ms=NOW_MS)
    return found.billing, found.facts.cost_nanos


COUNTS = {"input_tokens": 1_000, "output_tokens": 100}


@pytest.mark.parametrize("word", ["us", "global", "not_available", None])
def test_a_factor_that_an_answer_names_multiplies_its_price(word: str | None) -> None:
    plain = cost_of(CLAUDE, claude(COUNTS))
    factor = 1.1 if word == "us" else 1
    assert plain == (Billing.BILLED, 7_500_000)
    assert cost_of(CLAUDE, claude({**COUNTS, "inference_geo": word})) == (Billing.BILLED, round(7_500_000 * factor))


def test_a_fast_answer_has_the_listed_price_of_its_speed() -> None:
    """claude-opus-5: $10 and $50 for a million tokens, twice the usual; at one that has no such price nobody knows."""
    assert cost_of(CLAUDE, claude({**COUNTS, "speed": "standard"})) == (Billing.BILLED, 7_500_000)
    assert cost_of(CLAUDE, claude({**COUNTS, "speed": "fast"})) == (Billing.BILLED, 15_000_000)
    geo_too = cost_of(CLAUDE, claude({**COUNTS, "speed": "fast", "inference_geo": "us"}))
    assert geo_too == (Billing.BILLED, 16_500_000)
    assert cost_of(CLAUDE, claude({**COUNTS, "speed": "fast"}, model="claude-haiku-4-5")) == (Billing.UNKNOWN, None)


@pytest.mark.parametrize("named", [{"inference_geo": "moon"}, {"speed": "warp"}, {"speed": 7}])
def test_a_factor_that_nobody_knows_makes_the_cost_unknown(named: dict[str, str]) -> None:
    assert cost_of(CLAUDE, claude({**COUNTS, **named})) == (Billing.UNKNOWN, None)
    configured = cost_of(CLAUDE, claude({**COUNTS, **named}), listed="configuration")
    assert configured == (Billing.BILLED, None), "what the owner set holds whatever is named"


def of_gemini(model: str, **counts: Any) -> tuple[Billing, int | None]:
    return cost_of(GEMINI, gemini([{"text": "x"}], modelVersion=model, usageMetadata=counts))


def test_images_in_an_answer_have_their_own_rate() -> None:
    """gemini-2.5-flash-image: $0.30 for a million tokens of input, $2.50 of text, $30 of images."""
    details = [{"modality": "IMAGE", "tokenCount": 1_290}, {"modality": "TEXT", "tokenCount": 10}]
    counts = {"promptTokenCount": 100, "candidatesTokenCount": 1_300, "candidatesTokensDetails": details}
    nanos = 100 * 300 + 1_290 * 30_000 + 10 * 2_500
    assert of_gemini("gemini-2.5-flash-image", **counts) == (Billing.BILLED, nanos)


def test_cached_sound_has_its_own_rate() -> None:
    """gemini-2.5-flash: $0.30 and $1 (sound) for a million tokens of input, $0.03 and $0.10 cached, $2.50 of output."""
    counts: dict[str, Any] = {
        "promptTokenCount": 1_000,
        "cachedContentTokenCount": 500,
        "candidatesTokenCount": 10,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 300}, {"modality": "TEXT", "tokenCount": 700}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 200}, {"modality": "TEXT", "tokenCount": 300}],
    }
    nanos = 100 * 1_000 + 200 * 100 + 400 * 300 + 300 * 30 + 10 * 2_500
    assert of_gemini("gemini-2.5-flash", **counts) == (Billing.BILLED, nanos)


def test_what_may_have_been_cached_counts_as_if_it_was_not() -> None:
    """Half of the input was, and nobody says what of it was sound."""
    sound = [{"modality": "AUDIO", "tokenCount": 900}, {"modality": "TEXT", "tokenCount": 100}]
    counts = {"promptTokenCount": 1_000, "candidatesTokenCount": 10, "promptTokensDetails": sound}
    whole = of_gemini("gemini-2.5-flash", **counts)
    assert of_gemini("gemini-2.5-flash", cachedContentTokenCount=500, **counts) == whole
    assert whole == (Billing.BILLED, 900 * 1_000 + 100 * 300 + 10 * 2_500)


def test_a_pass_of_another_model_has_that_ones_price() -> None:
    """And so have cache writes within it, which are kept for an hour."""
    own = {"type": "message", "input_tokens": 1_000, "output_tokens": 100}
    written = {"ephemeral_1h_input_tokens": 400, "ephemeral_5m_input_tokens": 0}
    other = {"type": "advisor_message", "model": "claude-haiku-4-5", "input_tokens": 600, "output_tokens": 50}
    other |= {"cache_creation_input_tokens": 400, "cache_creation": written}
    by_itself = {name: value for name, value in other.items() if name not in ("type", "model")}
    (_, first), (_, second), whole = (
        cost_of(CLAUDE, claude(COUNTS)),
        cost_of(CLAUDE, claude(by_itself, model="claude-haiku-4-5")),
        cost_of(CLAUDE, claude({**COUNTS, "iterations": [own, other]})),
    )
    assert first is not None
    assert second is not None
    assert whole == (Billing.BILLED, first + second)
    unknown = claude({**COUNTS, "iterations": [own, {**other, "model": "nobody-knows"}]})
    assert cost_of(CLAUDE, unknown) == (Billing.UNKNOWN, None)


def test_cache_writes_within_a_pass_are_kept_for_as_long_as_it_says() -> None:
    counts = {"cache_creation_input_tokens": 400, "cache_creation": {"ephemeral_1h_input_tokens": 400}}
    inside = claude({**COUNTS, "iterations": [{**COUNTS, **counts}]})
    assert cost_of(CLAUDE, inside) == cost_of(CLAUDE, claude({**COUNTS, **counts}))


@pytest.mark.parametrize("usage", [{"cost": 0}, {"prompt_tokens": 10, "completion_tokens": 5, "cost": 0}])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_within_an_answer_has_the_services_own_figure(usage: dict[str, Any], streamed: bool) -> None:
    body: Any = {"model": "some/model", "usage": usage, "error": {"code": 502, "message": "upstream failed"}}
    found = read(("openai", "https://openrouter.ai/api/v1"), stream(body) if streamed else body, streamed=streamed)
    assert found.error is not None
    assert (found.billing, found.facts.cost_nanos, found.facts.model_answered) == (Billing.BILLED, 0, "some/model")
    assert found.error.error_class.fall_back


# ---------------------------------------------------------------- streams


def test_a_whole_last_event_without_its_blank_line_counts() -> None:
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    found = read(
        OPENAI, stream({"choices": [{"delta": {"content": "Hi"}}]}, end=f"data: {json.dumps(last)}"), streamed=True
    )
    assert found.completion is not None
    assert (found.completion.text, found.billing) == ("Hi", Billing.BILLED)


def test_a_cut_last_event_is_no_end() -> None:
    last = json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    for end in ("", f"data: {last[:-1]}", "data: [DON"):
        found = read(OPENAI, stream({"choices": [{"delta": {"content": "Hi"}}]}, end=end), streamed=True)
        assert found.error is not None
        assert (found.error.error_class.name, found.billing) == ("malformed_answer", Billing.UNKNOWN)


# ---------------------------------------------------------------- calls of tools


@pytest.mark.parametrize("whole", [True, False])
def test_streamed_calls_are_told_apart_by_their_ids(whole: bool) -> None:
    """Ollama gives each whole call the index 0. In pieces, the later ones have no id or the one of the first."""
    chunks: list[Any] = []
    for number in (1, 2, 3):
        call = {"index": 0, "id": f"call_{number}", "function": {"name": "look", "arguments": f'{{"at": {number}}}'}}
        if whole:
            chunks.append({"choices": [{"delta": {"tool_calls": [call]}}]})
            continue
        for piece, identity in (('{"at"', f"call_{number}"), (": ", ""), (f"{number}}}", f"call_{number}")):
            call = {"index": 0, "id": identity, "function": {"name": "look" if identity else None, "arguments": piece}}
            chunks.append({"choices": [{"delta": {"tool_calls": [call]}}]})
    found = read(OPENAI, stream(*chunks, {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}), streamed=True)
    assert found.completion is not None
    calls = [(call.id, call.arguments) for call in found.completion.tool_calls]
    assert calls == [(f"call_{number}", {"at": number}) for number in (1, 2, 3)]


@pytest.mark.usefixtures("heap_of_a_worker")
def test_calls_by_the_thousand_are_put_together_in_time() -> None:
    calls = [{"index": number, "id": f"c{number}", "function": {"name": "f"}} for number in range(20_000)]
    chunks = [{"choices": [{"delta": {"tool_calls": calls[at : at + 100]}}]} for at in range(0, len(calls), 100)]
    body = stream(*chunks, {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    began = time.process_time()
    found = read(OPENAI, body, streamed=True)
    assert found.completion is not None
    assert len(found.completion.tool_calls) == 20_000
    assert time.process_time() - began < 5


@pytest.mark.usefixtures("heap_of_a_worker")
def test_results_by_the_thousand_find_their_calls_in_time() -> None:
    """In reverse order; and tools whose names become the same."""
    number = 3_000
    request = conversation((tuple(f"c{at}" for at in range(number)), tuple(reversed(range(number)))))
    names = tuple(Tool(name="".join(signs)) for signs in islice(product("./:", repeat=9), 4_000))
    began = time.process_time()
    body_of(request, CLAUDE)
    assert len(set(sent_names(ask(prompt="x", tools=names)).values())) == len(names)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "arguments", [{}, {"arguments": None}, {"arguments": "null"}, {"arguments": ""}, {"arguments": " \n"}]
)
def test_a_call_without_arguments_has_none(arguments: dict[str, Any]) -> None:
    call = {"id": "call_1", "function": {"name": "now", **arguments}}
    found = read(OPENAI, chat({"tool_calls": [call]}))
    assert found.completion is not None
    assert found.completion.tool_calls == (ToolCall(id="call_1", name="now"),)


def turn(*ids: str) -> ChatMessage:
    calls = tuple(ToolCall(id=each, name="look", arguments={"at": number}) for number, each in enumerate(ids))
    return ChatMessage(role="assistant", content="", tool_calls=calls)


def result(of: str, content: str) -> ChatMessage:
    return ChatMessage(role="tool", tool_call_id=of, content=content)


def conversation(*turns: tuple[tuple[str, ...], tuple[int, ...]]) -> LLMRequest:
    """Turns of calls by their ids, and the order in which their results are given; each result says what it is of."""
    messages = [ChatMessage(role="user", content="Look.")]
    for number, (ids, order) in enumerate(turns):
        messages += [turn(*ids), *(result(ids[at], f"{number}:{at}") for at in order)]
    return ask(messages=tuple(messages))


IDS = [
    pytest.param(conversation((("functions.look:0", "functions.look:1"), (1, 0))), id="with dots and colons"),
    pytest.param(conversation((("", ""), (0, 1)), (("",), (0,))), id="empty"),
    pytest.param(conversation((("call-1", "call-2"), (0, 1)), (("call-1",), (0,))), id="again in every turn"),
    pytest.param(conversation((("x" * 90, "x" * 91), (1, 0))), id="long"),
]


def pairs_in(body: dict[str, Any]) -> list[tuple[str, str]]:
    """The id of each call with the text of its result; every call has exactly one."""
    calls: list[str] = []
    results: dict[str, str] = {}
    for message in body["messages"]:
        blocks = message["content"] if isinstance(message["content"], list) else []
        calls += [block["id"] for block in blocks if block["type"] == "tool_use"]
        calls += [call["id"] for call in message.get("tool_calls", ())]
        answered = [(block["tool_use_id"], block["content"]) for block in blocks if block["type"] == "tool_result"]
        answered += [(message["tool_call_id"], message["content"])] if message["role"] == "tool" else []
        for call_id, text in answered:
            assert call_id not in results
            results[call_id] = text
    assert sorted(calls) == sorted(results)
    return [(call_id, results[call_id]) for call_id in calls]


@pytest.mark.parametrize("request_", IDS)
@pytest.mark.parametrize(
    ("address", "form"),
    [(CLAUDE, r"[a-zA-Z0-9_-]{1,64}"), (MISTRAL, r"[a-zA-Z0-9]{9}"), (OPENAI, r".{1,40}"), (RESPONSES, r".{1,64}")],
)
def test_ids_of_calls_are_unique_and_in_the_services_form(request_: LLMRequest, address: Address, form: str) -> None:

    body = body_of(request_, address)
    if address is RESPONSES:
        items = body["input"]
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        results = {item["call_id"]: item["output"] for item in items if item.get("type") == "function_call_output"}
        pairs = [(call_id, results[call_id]) for call_id in calls]
    else:
        pairs = pairs_in(body)
    assert len({call_id for call_id, _ in pairs}) == len(pairs)
    assert all(re.fullmatch(form, call_id) for call_id, _ in pairs)
    numbers = [text.split(":") for _, text in pairs]
    assert numbers == sorted(numbers), "a result is at another call than it was given for"
    assert body == body_of(request_, address)


def test_ids_that_are_sent_instead_are_within_the_bound() -> None:
    request = conversation(*[(("",), (0,))] * 500)
    for address in (CLAUDE, MISTRAL, RESPONSES):
        sent = sum(map(len, re.findall("call[0-9]{5}", json.dumps(body_of(request, address)))))
        assert sent == 500 * 2 * MADE_ID_BYTES
        as_sent = conversation(*[(("x" * MADE_ID_BYTES,), (0,))] * 500)
        written = json.dumps([message.model_dump(exclude_defaults=True) for message in as_sent.messages])
        assert input_bytes(request) >= len(written)


def test_geminis_results_are_in_the_order_of_its_calls() -> None:
    """Where it gave no ids; else they are sent back."""
    contents = body_of(conversation((("call-1", "call-2"), (1, 0))), GEMINI)["contents"]
    assert [part["functionResponse"]["response"]["result"] for part in contents[2]["parts"]] == ["0:0", "0:1"]
    assert all("id" not in part["functionResponse"] for part in contents[2]["parts"])
    contents = body_of(conversation((("fc-7", "fc-8"), (1, 0))), GEMINI)["contents"]
    assert [part["functionCall"]["id"] for part in contents[1]["parts"]] == ["fc-7", "fc-8"]
    found = {part["functionResponse"]["id"]: part["functionResponse"]["response"] for part in contents[2]["parts"]}
    assert found == {"fc-7": {"result": "0:0"}, "fc-8": {"result": "0:1"}}


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([{"text": "print(look("}], "MALFORMED_FUNCTION_CALL"),
        ([], "UNEXPECTED_TOOL_CALL"),
        ([], "STOP"),
        ([{"text": "hm", "thought": True}], "STOP"),
        ([], "OTHER"),
        ([], "NO_IMAGE"),
        ([], "a reason of next year"),
    ],
)
def test_what_gemini_calls_broken_is_no_answer(parts: list[Any], reason: str) -> None:
    found = read(GEMINI, gemini(parts, reason))
    assert found.completion is None
    assert found.error is not None
    assert (found.error.error_class.name, found.billing) == ("bad_sample", Billing.BILLED)


def test_a_byte_order_mark_before_an_answer_hides_nothing_of_it() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    pieces = stream(
        {"choices": [{"index": 0, "delta": {"content": "Hel"}}]},
        {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}], "usage": usage},
    )
    mark = b"\xef\xbb\xbf"
    for found in (
        read(OPENAI, mark + pieces, streamed=True),
        read(OPENAI, mark + json.dumps(chat({"content": "Hello"})).encode()),
    ):
        assert found.completion is not None
        assert found.completion.text == "Hello"


@pytest.mark.parametrize("reason", ["IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "SAFETY"])
def test_what_gemini_filters_is_a_refusal(reason: str) -> None:
    found = read(GEMINI, gemini([], reason)).completion
    assert found is not None
    assert found.refused


def thinking(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text} for text in texts], **fields}


MAGISTRAL: list[tuple[list[Any], list[dict[str, Any]], str]] = [
    ([[thinking("Okay")], [thinking(", Bern.")], "Sun", "ny.", ""], [thinking("Okay, Bern.")], "Sunny."),
    (
        [[thinking("Okay")], "Let me see.", [thinking("Hm", closed=True)], [{"type": "text", "text": " Sunny."}]],
        [thinking("Okay"), thinking("Hm", closed=True)],
        "Let me see. Sunny.",
    ),
    (["Sunny."], [], "Sunny."),
    ([[{"type": "text", "text": "Sun"}, {"type": "reference", "reference_ids": [1]}], "ny."], [], "Sunny."),
]


@pytest.mark.parametrize(("deltas", "thoughts", "text"), MAGISTRAL)
def test_what_mistrals_models_think_is_kept_and_not_said(
    deltas: list[Any], thoughts: list[dict[str, Any]], text: str
) -> None:
    """Whole, and in a stream, where thoughts come in lists and texts in strings."""
    whole: list[Any] = []
    for delta in deltas:
        whole += [{"type": "text", "text": delta}] if isinstance(delta, str) else delta
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    end = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}], "usage": usage}
    pieces = stream(*({"choices": [{"index": 0, "delta": {"content": delta}}]} for delta in deltas), end)
    for found in (read(MISTRAL, chat({"content": whole})), read(MISTRAL, pieces, streamed=True)):
        completion = found.completion
        assert completion is not None
        assert completion.text == text
        said = completion.model_dump(include={"text", "state"})
        told = LLMResult.model_validate({"outcome": Outcome.COMPLETED, "call_id": "1", **said}).message()
        (sent,) = body_of(ask(messages=(told,)), MISTRAL)["messages"]
        assert kept_of(sent["content"]) == (text, "".join(each["thinking"][0]["text"] for each in thoughts))


def kept_of(content: Any) -> tuple[str, str]:
    """What was said and what was thought in an assistant's content."""
    if isinstance(content, str):
        return content, ""
    thoughts = [part["text"] for each in content if each["type"] == "thinking" for part in each["thinking"]]
    return "".join(each["text"] for each in content if each["type"] == "text"), "".join(thoughts)


def test_what_only_mistral_thought_goes_to_nobody_else() -> None:
    """Nor does anything go back in a thought that is no thought."""
    state = {"api": "openai", "host": "api.mistral.ai", "service": "one", "model": GRANT.model}
    image = {"type": "image_url", "image_url": "https://example.com/huge.png"}
    own = thinking("hm", signature="s")
    own |= {"extra": 1, "thinking": [*own["thinking"], image]}
    message = ChatMessage.model_validate(
        {"role": "assistant", "content": "Hi", "state": {**state, "data": [{"own": own}, {"text": 2}]}}
    )
    assert body_of(ask(messages=(message,)), MISTRAL)["messages"][0]["content"] == [
        thinking("hm", signature="s"),
        {"type": "text", "text": "Hi"},
    ]
    for address in (OPENAI, GROQ, CLAUDE, GEMINI, RESPONSES):
        assert "hm" not in json.dumps(body_of(ask(messages=(message,)), address))


BROKEN_CHAT = [
    ({"content": "Hel"}, "error", None),
    ({"content": ""}, "insufficient_system_resource", None),
    ({"content": None}, "network_error", None),
    ({"content": "Hel"}, "abort", None),
    ({"content": ""}, "function_call_filter: MALFORMED_FUNCTION_CALL", None),
    ({"content": "print(look("}, "stop", "MALFORMED_FUNCTION_CALL"),
    ({"content": ""}, "stop", "UNEXPECTED_TOOL_CALL"),
    ({"content": None}, "stop", None),
    ({"content": None, "reasoning_content": "hm"}, "stop", None),
    ({"content": "", "reasoning_content": "hm"}, "stop", None),
    ({"content": [thinking("hm")]}, "stop", None),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("message", "reason", "native"), BROKEN_CHAT)
def test_a_chat_that_its_service_calls_broken_is_no_answer(
    message: dict[str, Any], reason: str, native: str | None, streamed: bool
) -> None:
    choice = {"index": 0, "finish_reason": reason, "native_finish_reason": native}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    body: Any = {"model": "the-model", "choices": [choice | {"message": message}], "usage": usage}
    if streamed:
        deltas = [{"index": 0, "delta": {name: value}} for name, value in message.items()]
        body = stream(*({"choices": [each]} for each in [*deltas, choice | {"delta": {}}]), {"usage": usage})
    for address in (OPENAI, GOOGLE):
        found = read(address, body, streamed=streamed)
        assert found.completion is None
        assert found.error is not None
        assert (found.error.error_class.name, found.billing) == ("bad_sample", Billing.BILLED)


@pytest.mark.parametrize(("content", "reason"), [("", "stop"), (None, "length"), (None, "content_filter")])
def test_an_empty_text_or_one_that_was_cut_is_an_answer(content: str | None, reason: str) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    whole = {"choices": [{"index": 0, "finish_reason": reason, "message": {"content": content}}], "usage": usage}
    pieces = stream(
        {"choices": [{"index": 0, "delta": {"content": content}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
    )
    for found in (read(OPENAI, whole), read(OPENAI, pieces, streamed=True)):
        assert found.completion is not None
        assert (found.completion.text, found.completion.finish_reason) == ("", reason)


def response(status: str | None, output: list[Any], usage: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "model": "the-model", "status": status, "output": output, "usage": usage, **fields}


AZURE_RESPONSES = ("openai-responses", "https://example.openai.azure.com/openai/v1")
RESPONSES_USAGE = {"input_tokens": 10, "output_tokens": 5}
SAID = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}


def answered(address: Address, body: dict[str, Any], *, kind: str | None) -> Reading:
    """The response as the whole body, or in the event of this kind at the end of a stream."""
    if kind is None:
        return read(address, body)
    begun = {"type": "response.created", "response": response("in_progress", [])}
    return read(address, stream(begun, {"type": kind, "response": body}, end=""), streamed=True)


@pytest.mark.parametrize("address", [RESPONSES, AZURE_RESPONSES], ids=["OpenAI", "Azure"])
@pytest.mark.parametrize("status", ["queued", "in_progress"])
@pytest.mark.parametrize("kind", [None, "response.queued", "response.in_progress", "response.completed"])
def test_a_response_that_has_not_ended_is_no_answer(address: Address, status: str, kind: str | None) -> None:
    """It may be made and billed all the same: it is charged at its bound, and its id is kept for questions."""
    for output in ([], [SAID]):
        found = answered(address, response(status, output, background=True), kind=kind)
        assert found.completion is None
        assert found.error is not None
        assert (found.error.error_class.name, found.billing) == ("malformed_answer", Billing.UNKNOWN)
        assert found.error.error_class.trips_breaker
        assert "resp_1" in found.error.message or kind in ("response.queued", "response.in_progress")


@pytest.mark.parametrize("address", [RESPONSES, AZURE_RESPONSES], ids=["OpenAI", "Azure"])
@pytest.mark.parametrize("kind", [None, "response.completed", "response.cancelled"])
@pytest.mark.parametrize(
    ("status", "output"),
    [
        ("cancelled", []),
        ("cancelled", [SAID]),
        ("expired", [SAID]),
        ("completed", []),
        ("completed", [THOUGHT]),
        ("completed", [{"type": "message", "content": []}]),
        (None, []),
    ],
)
def test_a_response_that_was_broken_off_is_no_answer(
    address: Address, kind: str | None, status: str | None, output: list[Any]
) -> None:
    """Nor is one with nothing in it. What it was billed with is what it costs, else its bound."""
    for usage, billing in ((RESPONSES_USAGE, Billing.BILLED), (None, Billing.UNKNOWN)):
        found = answered(address, response(status, output, usage), kind=kind)
        assert found.completion is None
        assert found.error is not None
        assert (found.error.error_class.name, found.billing) == ("bad_sample", billing)
        assert found.facts.model_answered == "the-model"


@pytest.mark.parametrize("kind", [None, "response.incomplete", "response.failed"])
def test_a_response_that_ended_early_says_why(kind: str | None) -> None:
    """Cut at its cap it is an answer, also where the model only thought; a failed one is an error with its bill."""
    cut: dict[str, Any] = {"incomplete_details": {"reason": "max_output_tokens"}}
    for output, text in (([SAID], "Hello"), ([THOUGHT], "")):
        found = answered(RESPONSES, response("incomplete", output, RESPONSES_USAGE, **cut), kind=kind).completion
        assert found is not None
        assert (found.text, found.finish_reason) == (text, "max_output_tokens")
    error = {"error": {"code": "server_error", "message": "sorry"}}
    for usage, billing in ((RESPONSES_USAGE, Billing.BILLED), (None, Billing.UNKNOWN)):
        failed = answered(RESPONSES, response("failed", [SAID], usage, **error), kind=kind)
        assert failed.error is not None
        assert (failed.error.error_class.name, failed.billing) == ("server_error", billing)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "'temperature' does not support 0 with this model.", "code": "unsupported_value"}),
        (400, {"message": "max_tokens is too large: 20000. This model supports at most 16384", "code": None}),
        (400, {"message": "messages.1: all messages must have non-empty content", "type": "invalid_request_error"}),
        (400, {"message": "Unsupported parameter: 'max_tokens'", "code": "unsupported_parameter"}),
        (422, {"message": "extra inputs are not permitted"}),
    ],
)
def test_what_one_service_refuses_another_may_take(status: int, error: Any) -> None:
    error_class = refused(status, error).error_class
    assert (error_class.fall_back, error_class.billing) == (True, Billing.NOT_BILLED)
    assert not error_class.trips_breaker
    assert not error_class.retry


@pytest.mark.parametrize(
    "error",
    [
        {"message": "The encrypted content gAAA...Rg== could not be verified.", "code": "invalid_encrypted_content"},
        {"message": "The encrypted content for item rs_1 could not be verified."},
        {"message": "messages.1.content.0: Invalid `signature` in `thinking` block", "type": "invalid_request_error"},
        {
            "message": "messages.5.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message "
            "cannot be modified.",
            "type": "invalid_request_error",
        },
        {"message": "Invalid thought signature.", "status": "INVALID_ARGUMENT"},
        {"message": "Item 'rs_1' of type 'reasoning' was provided without its required following item."},
        {"message": "property 'reasoning' is unsupported", "type": "invalid_request_error"},
        {"message": "messages[2].reasoning: reasoning is not supported with this model"},
        {"message": "messages.1.assistant.reasoning_content: property 'messages.1.x.reasoning_content' is unsupported"},
    ],
)
def test_a_refused_state_is_told_from_other_mistakes(error: Any) -> None:
    error_class = refused(400, error).error_class
    assert (error_class.name, error_class.billing, error_class.fall_back) == ("state_refused", Billing.NOT_BILLED, True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_known_code_counts_under_any_status(status: int) -> None:
    error_class = refused(status, {"message": "no access", "code": "model_not_found"}).error_class
    assert (error_class.name, error_class.trips_breaker, error_class.alert) == ("model_not_found", False, True)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "The model `x` has been decommissioned", "code": "model_decommissioned"}),
        (403, {"message": "no access", "code": "model_not_available"}),
        (400, {"message": "Invalid model: x", "type": "invalid_model", "code": "1500"}),
        (403, {"message": "model: x", "type": "not_found_error"}),
        (400, {"message": "models/x is not found", "status": "NOT_FOUND"}),
        (410, {"message": "The model is gone"}),
    ],
)
def test_a_model_that_is_gone_is_nothing_of_its_service(status: int, error: Any) -> None:
    error_class = refused(status, error).error_class
    assert (error_class.name, error_class.trips_breaker, error_class.alert) == ("model_not_found", False, True)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_an_answers_id_is_its_requests_where_no_header_says_it(streamed: bool) -> None:
    message = {"role": "assistant", "id": "msg_1", "model": "m", "content": [{"type": "text", "text": "x"}]}
    message |= {"stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}
    answer = chat({"content": "x"}, id="chatcmpl-1")
    done = response("completed", [SAID], RESPONSES_USAGE)
    bodies: list[tuple[Address, Any, list[Any], str]] = [
        (
            OPENAI,
            answer,
            [{"id": "chatcmpl-1", "choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}],
            "chatcmpl-1",
        ),
        (RESPONSES, done, [{"type": "response.completed", "response": done}], "resp_1"),
        (CLAUDE, message, [{"type": "message_start", "message": message}, {"type": "message_stop"}], "msg_1"),
    ]
    for address, whole, chunks, name in bodies:
        body = stream(*chunks) if streamed else whole
        assert read(address, body, streamed=streamed).facts.provider_request_id == name
        headers = {"x-request-id": "from-a-header"}
        assert read(address, body, streamed=streamed, headers=headers).facts.provider_request_id == "from-a-header"


def test_a_retry_after_near_now_is_a_time() -> None:
    found = refused(429, {"message": "slow down"}, {"retry-after": str(NOW_MS // 1_000 + 12)})
    assert (found.error_class.name, found.retry_after_ms) == ("rate_limited", 12_000)


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": str(NOW_MS + 12_000)},
        {"retry-after-ms": str(NOW_MS + 12_000)},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": str(NOW_MS // 1_000 + 12)},
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": str(NOW_MS + 12_000)},
    ],
)
def test_a_time_is_one_wherever_it_stands(headers: dict[str, str]) -> None:
    found = refused(429, {"message": "slow down"}, headers)
    assert (found.error_class.name, found.retry_after_ms) == ("rate_limited", 12_000)


def test_a_wait_of_days_is_a_pause_with_an_alert() -> None:
    found = refused(429, {"message": "slow down"}, {"retry-after": str(3 * 86_400)})
    assert found.retry_after_ms == 3 * 86_400_000
    assert (found.error_class.alert, found.error_class.retry, found.error_class.fall_back) == (True, False, True)
    assert not found.error_class.trips_breaker, "it would be probed all day"


# ---------------------------------------------------------------- names of requests


@pytest.mark.parametrize(
    ("address", "body", "headers", "name"),
    [
        (OPENAI, chat({"content": "x"}), {"x-ds-trace-id": "trace-1"}, "trace-1"),
        (OPENAI, chat({"content": "x"}), {"x-generation-id": "gen-1"}, "gen-1"),
        (GEMINI, gemini([{"text": "x"}], responseId="r-1"), {}, "r-1"),
        (GROQ, chat({"content": "x"}, x_groq={"id": "req_1"}), {}, "req_1"),
    ],
)
def test_a_requests_name_is_kept_wherever_it_comes(address: Address, body: Any, headers: Any, name: str) -> None:
    assert read(address, body, headers=headers).facts.provider_request_id == name


def test_a_streams_name_of_the_request_is_kept() -> None:
    chunks: list[Any] = [{"choices": [{"delta": {"content": "x"}}], "x_groq": {"id": "req_1"}}]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert read(GROQ, stream(*chunks), streamed=True).facts.provider_request_id == "req_1"
    assert (
        read(GEMINI, stream(gemini([{"text": "x"}], responseId="r-1"), end=""), streamed=True).facts.provider_request_id
        == "r-1"
    )


# ---------------------------------------------------------------- the cap on the output


@pytest.mark.parametrize("host", ["eu.api.openai.com", "us.api.openai.com"])
def test_openais_regions_know_the_cap_by_its_new_name(host: str) -> None:
    assert body_of(ask(prompt="x"), ("openai", f"https://{host}/v1"))["max_completion_tokens"] == 1_000


def test_the_caps_name_can_be_set_for_a_gateway() -> None:
    address: Address = ("openai", "https://gateway.example/v1")
    body = body_of(ask(prompt="x"), address, output_cap="max_completion_tokens")
    assert (body.get("max_completion_tokens"), "max_tokens" in body) == (1_000, False)


def test_an_empty_message_of_the_assistant_is_left_out_for_claude() -> None:
    said = (ChatMessage(role="user", content="a"), ChatMessage(role="assistant", content=""))
    turns = body_of(ask(messages=said, prompt="b"), CLAUDE)["messages"]
    assert all(each["content"] for each in turns)
