"""Bedrock: what Converse wants otherwise than others, how it fails, its event streams, and signed requests."""

import json
from typing import Any

import pytest
from aws_frames import event, exception, frames
from aws_signatures import is_signed
from hypothesis import given
from hypothesis import strategies as st
from wire import GRANT, WEATHER, ask, build, service
from wire_answers import CONVERSE, CONVERSE_ANSWER, CONVERSE_EVENTS

from paymaster.keys.api_key import KeyUnavailable
from paymaster.messages import Billing, ChatMessage, LLMRequest, ServiceCall, Tool, ToolCall
from paymaster.providers.answers import HttpAnswer, Reading, read_answer
from paymaster.providers.aws_event_stream import as_server_sent_events
from paymaster.providers.bedrock import PROVIDER
from paymaster.providers.http_errors import HttpError, classify
from paymaster.providers.provider import Outgoing, ServiceAnswer, UnsupportedParameter
from paymaster.redaction import redact, remember
from paymaster.settings import ServiceSettings

KEY_ID, SECRET, TOKEN = (
    "AKIAEXAMPLE0KEY0ID00",
    "wJalrXUtnFEMI/K7MDENG+bPxRfiCY0EXAMPLE0K",
    "FwoGZXIvYXdzEXAMPLE+TOKEN==",
)
CALL = ToolCall(id="c1", name="weather", arguments={"city": "Bern"})
TOLD = (
    ChatMessage(role="user", content="What is the weather?"),
    ChatMessage(role="assistant", content="", tool_calls=(CALL,)),
    ChatMessage(role="tool", content=" ", tool_call_id="c1"),
)


def signing(**fields: Any) -> ServiceSettings:
    return service("bedrock", auth="aws", **fields)


def sent_by(model: str, request: LLMRequest) -> dict[str, Any]:
    return PROVIDER.build_request(request, GRANT.model_copy(update={"model": model}), service("bedrock"), False).body


def parsed(**changed: Any) -> ServiceAnswer:
    answer = PROVIDER.parse_response(json.dumps(CONVERSE | changed).encode(), service("bedrock"))
    assert isinstance(answer, ServiceAnswer)
    return answer


def read(
    status: int, headers: dict[str, str], body: bytes, *, model: str = "us.anthropic.claude-opus-4-6-v1"
) -> Reading:
    call = ServiceCall(grant=GRANT.model_copy(update={"model": model}), request=ask())
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return read_answer(call, service("bedrock"), HttpAnswer(status, raw, body), started_at_ms=0, now_ms=0)


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.amazon.nova-lite-v1%3A0",
        ),
    ],
)
def test_a_model_is_one_part_of_the_path(model: str, path: str) -> None:
    grant = GRANT.model_copy(update={"model": model})
    paths = [PROVIDER.build_request(ask(), grant, service("bedrock"), stream).path for stream in (False, True)]
    assert paths == [f"{path}/converse", f"{path}/converse-stream"]


def test_results_and_what_the_user_says_then_are_one_turn() -> None:
    body = build(ask(messages=TOLD, prompt="And now?", tools=(WEATHER,)), "bedrock").body
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "What is the weather?"}]},
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Bern"}}}],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "c1", "content": [{"text": "(no output)"}]}},
                {"text": "And now?"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ("weather", {"tool": {"name": "weather"}}),
    ],
)
def test_the_choice_of_a_tool_in_bedrocks_words(choice: str | None, sent: Any) -> None:
    tools = (WEATHER, Tool(name="other"))
    config: Any = build(ask(tools=tools, tool_choice=choice), "bedrock").body["toolConfig"]
    assert config.get("toolChoice") == sent
    assert config["tools"] == [
        {
            "toolSpec": {
                "name": "weather",
                "description": WEATHER.description,
                "inputSchema": {"json": WEATHER.parameters},
            }
        },
        {"toolSpec": {"name": "other", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
    ]


def test_without_tools_a_conversation_with_calls_has_one_tool() -> None:
    """It is refused without any, and "none" has no word."""
    for fields in ({}, {"tools": (WEATHER,), "tool_choice": "none"}):
        assert "toolConfig" not in build(ask(**fields), "bedrock").body
        config: Any = build(ask(messages=TOLD, **fields), "bedrock").body["toolConfig"]
        assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["no_tool"]


def test_effort_and_schema_are_in_the_output_config() -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    config: Any = sent_by("us.anthropic.claude-opus-5-5", ask(json_schema=schema, reasoning_effort="high"))
    assert config["outputConfig"]["effort"] == "high"
    structure = config["outputConfig"]["textFormat"]["structure"]
    assert json.loads(structure["jsonSchema"]["schema"])["additionalProperties"] is False
    with pytest.raises(UnsupportedParameter, match="json_schema"):
        sent_by("us.amazon.nova-pro-v1:0", ask(json_schema=schema))


def test_openais_models_are_told_the_effort_in_their_own_word() -> None:
    body = sent_by("us.openai.gpt-5.6-sol", ask(reasoning_effort="high"))
    assert body["additionalModelRequestFields"] == {"reasoning_effort": "high"}
    assert "outputConfig" not in body
    assert "additionalModelRequestFields" not in sent_by("us.openai.gpt-5.6-sol", ask())


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("model", ["us.anthropic.claude-opus-4-6-v1:0", "arn:aws:bedrock:eu-west-1:1:x/y"])
def test_a_signed_request_is_what_aws_checks(token: str, model: str) -> None:
    grant = GRANT.model_copy(update={"model": model})
    built = PROVIDER.build_request(ask(), grant, signing(), False)
    body = json.dumps(built.body).encode()
    request = Outgoing("POST", f"https://bedrock-runtime.us-east-1.amazonaws.com{built.path}", {"a": " b"}, body)
    key = ":".join(part for part in (KEY_ID, SECRET, token) if part)
    headers = PROVIDER.authenticate(request, key, signing())
    assert set(headers) == {"authorization", "x-amz-date"} | ({"x-amz-security-token"} if token else set())
    arrived = {**request.headers, **headers, "host": "bedrock-runtime.us-east-1.amazonaws.com"}
    proof: dict[str, Any] = {"key_id": KEY_ID, "secret": SECRET, "region": "us-east-1"}
    assert is_signed(built.path, arrived, body, **proof)
    assert not is_signed(built.path, arrived, body + b" ", **proof), "the check checks nothing"
    assert SECRET not in str(headers)


@pytest.mark.parametrize("key", ["ABSKexample", f"{KEY_ID}:", f"{KEY_ID}:{SECRET}:{TOKEN}:x"])
def test_a_key_that_cannot_sign_is_refused_without_its_value(key: str) -> None:
    with pytest.raises(KeyUnavailable, match="ACCESS-KEY-ID:SECRET-ACCESS-KEY") as refused:
        PROVIDER.authenticate(Outgoing("POST", "https://x/y", {}, b""), key, signing(key="aws-key"))
    assert key not in str(refused.value)


def test_what_signs_is_taken_out_of_texts_by_itself() -> None:
    PROVIDER.authenticate(Outgoing("POST", "https://x/y", {}, b""), f"{KEY_ID}:{SECRET}:{TOKEN}", signing())
    assert redact(f"{SECRET} {TOKEN}") == "[key] [key]"


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("vpce-0a1b.bedrock-runtime.us-west-2.vpce.amazonaws.com", "us-west-2"),
    ],
)
def test_the_region_is_the_one_of_the_address(host: str, region: str) -> None:
    assert signing(base_url=f"https://{host}").aws_region() == region
    assert signing(base_url=f"https://{host}", region="sa-east-1").aws_region() == "sa-east-1"


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("reason", ["guardrail_intervened", "content_filtered"])
def test_a_filter_is_a_refusal(reason: str) -> None:
    assert parsed(stopReason=reason).refused


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_a_malformed_sample_is_one_and_billed(reason: str) -> None:
    body = json.dumps(CONVERSE | {"stopReason": reason}).encode()
    found = read(200, {"content-type": "application/json"}, body)
    assert found.error is not None
    assert (found.error.error_class.name, found.billing) == ("bad_sample", Billing.BILLED)


def test_the_model_that_was_asked_is_the_one_that_is_paid() -> None:
    body = json.dumps(CONVERSE).encode()
    facts = read(200, {"content-type": "application/json"}, body).facts
    assert facts.model_answered == "us.anthropic.claude-opus-4-6-v1"
    assert facts.cost_source is not None
    assert facts.cost_source.endswith("aws/regional.anthropic.claude-opus-4-6-v1:0")


def test_a_prompt_router_names_its_model() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-6-v1"
    body = json.dumps(CONVERSE | {"trace": {"promptRouter": {"invokedModelId": arn}}}).encode()
    found = read(200, {"content-type": "application/json"}, body, model="arn:aws:bedrock:us-east-1:1:prompt-router/x")
    assert found.facts.model_answered == arn
    assert found.facts.cost_nanos is not None


@pytest.mark.parametrize(
    ("changed", "is_known"),
    [
        ({"serviceTier": {"type": "default"}, "performanceConfig": {"latency": "standard"}}, True),
        ({"serviceTier": {"type": "priority"}}, False),
        ({"performanceConfig": {"latency": "optimized"}}, False),
    ],
)
def test_another_tier_costs_nobody_knows_what(changed: dict[str, Any], is_known: bool) -> None:
    found = read(200, {"content-type": "application/json"}, json.dumps(CONVERSE | changed).encode())
    assert (found.facts.cost_nanos is not None) is is_known
    assert found.billing is (Billing.BILLED if is_known else Billing.UNKNOWN)


def test_thoughts_without_a_signature_are_not_kept() -> None:
    content = [{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "Yes."}]
    answer = parsed(output={"message": {"content": content}})
    assert (answer.text, answer.state) == ("Yes.", None)


# ---------------------------------------------------------------- event streams


STREAM = b"".join(frames(CONVERSE_EVENTS))
EVENT_STREAM = {"content-type": "application/vnd.amazon.eventstream"}


@given(end=st.integers(0, len(STREAM) - 1))
def test_a_stream_cut_anywhere_is_no_answer(end: int) -> None:
    found = read(200, EVENT_STREAM, STREAM[:end])
    assert found.completion is None
    assert (found.error and found.error.error_class.name, found.billing) == ("malformed_answer", Billing.UNKNOWN)


@given(at=st.integers(0, len(STREAM) - 1), bit=st.integers(0, 7))
def test_a_damaged_stream_is_no_answer(at: int, bit: int) -> None:
    """Every byte is under a checksum."""
    damaged = bytearray(STREAM)
    damaged[at] ^= 1 << bit
    assert read(200, EVENT_STREAM, bytes(damaged)).completion is None


@given(body=st.binary(max_size=100))
def test_any_bytes_behind_a_stream_change_nothing(body: bytes) -> None:
    found = PROVIDER.parse_stream(as_server_sent_events(STREAM + body), service("bedrock"))
    assert found == CONVERSE_ANSWER


def test_half_a_surrogate_pair_in_a_stream_is_replaced() -> None:
    events = [
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "a\ud800b"}}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}, "\udfff": 1}),
    ]
    found = read(200, EVENT_STREAM, b"".join(frames(events))).completion
    assert found is not None
    assert found.text == "a\ufffdb"


def test_a_long_stream_is_taken_apart_in_time() -> None:
    """8 MB of single letters: 60,000 frames. Quadratic, it would take a minute."""
    delta = event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "a"}})
    body = STREAM[: len(b"".join(frames(CONVERSE_EVENTS[:6])))] + delta * 50_000 + b"".join(frames(CONVERSE_EVENTS[7:]))
    answer = PROVIDER.parse_stream(as_server_sent_events(body), service("bedrock"))
    assert isinstance(answer, ServiceAnswer)
    assert len(answer.text) == 50_006


def test_a_key_in_a_stream_is_taken_out_and_leaves_it_whole() -> None:
    remember("sk-live-in-a-frame-0123456789")
    said = {"contentBlockIndex": 1, "delta": {"text": "It is sk-live-in-a-frame-0123456789."}}
    changed = [*frames(CONVERSE_EVENTS[:5]), event("contentBlockDelta", said), *frames(CONVERSE_EVENTS[7:])]
    found = read(200, EVENT_STREAM, b"".join(changed))
    assert found.completion is not None
    assert found.completion.text == "It is [key]."


@pytest.mark.parametrize(
    ("name", "error_class"),
    [
        ("throttlingException", "rate_limited"),
        ("modelStreamErrorException", "server_error"),
        ("internalServerException", "server_error"),
        ("serviceUnavailableException", "overloaded"),
        ("validationException", "invalid_request"),
        ("somethingNewException", "server_error"),
    ],
)
def test_an_exception_in_a_stream_may_have_been_billed(name: str, error_class: str) -> None:
    found = read(200, EVENT_STREAM, b"".join(frames(CONVERSE_EVENTS[:3])) + exception(name, "Too bad."))
    assert found.error is not None
    assert (found.error.error_class.name, found.billing) == (error_class, Billing.UNKNOWN)
    assert not found.error.error_class.retry
    assert "Too bad." in found.error.message


# ---------------------------------------------------------------- errors


def refused(status: int, name: str, message: str) -> HttpError:
    headers = {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return classify(status, headers, json.dumps({"message": message}).encode(), now_ms=0)


@pytest.mark.parametrize(
    ("status", "name", "message", "error_class", "retry"),
    [
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", "rate_limited", True),
        (429, "ThrottlingException", "Too many tokens per day, please wait.", "quota_exhausted", False),
        (429, "ModelNotReadyException", "Model is not ready for inference.", "overloaded", True),
        (400, "ServiceQuotaExceededException", "Your request exceeds the quota.", "quota_exhausted", False),
        (403, "AccessDeniedException", "User is not authorized to perform: bedrock:InvokeModel", "auth", False),
        (
            403,
            "AccessDeniedException",
            "You don't have access to the model with the specified model ID.",
            "model_not_found",
            False,
        ),
        (403, "ExpiredTokenException", "The security token included in the request is expired", "auth", False),
        (403, "UnrecognizedClientException", "The security token is invalid.", "auth", False),
        (400, "IncompleteSignatureException", "Credential must have five elements", "auth", False),
        (400, "ValidationException", "The provided model identifier is invalid.", "model_not_found", False),
        (
            400,
            "ValidationException",
            "Invocation of model ID x with on-demand throughput isn\u2019t supported.",
            "model_not_found",
            False,
        ),
        (
            404,
            "ResourceNotFoundException",
            "This model version has reached the end of its life.",
            "model_not_found",
            False,
        ),
        (400, "ValidationException", "Input is too long for requested model.", "context_too_long", False),
        (400, "ValidationException", "prompt is too long: 9 tokens > 8 maximum", "context_too_long", False),
        (400, "ValidationException", "Malformed input request", "invalid_request", False),
        (424, "ModelErrorException", "The model failed.", "server_error", True),
        (500, "InternalServerException", "Try again.", "server_error", True),
        (503, "ServiceUnavailableException", "Try again.", "overloaded", True),
    ],
)
def test_what_bedrock_refuses_is_known_by_its_name(
    status: int, name: str, message: str, error_class: str, retry: bool
) -> None:
    found = refused(status, name, message).error_class
    assert (found.name, found.retry, found.billing) == (error_class, retry, Billing.NOT_BILLED)


def test_a_timeout_of_the_model_may_have_been_billed() -> None:
    found = refused(408, "ModelTimeoutException", "The request took too long.").error_class
    assert (found.name, found.billing) == ("timeout", Billing.UNKNOWN)


def test_the_request_has_the_name_that_aws_gave_it() -> None:
    headers = {"x-amzn-requestid": "b1d2-4f", "x-amzn-errortype": "ThrottlingException"}
    found = read(429, headers, b'{"message": "Too many requests"}')
    assert found.facts.provider_request_id == "b1d2-4f"
