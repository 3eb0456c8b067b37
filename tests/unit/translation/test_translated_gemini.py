"""Calls of generateContent for services that speak another format, and their answers as Google would give them."""

import json
import time
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from changed_bodies import changed
from conversations import conversations
from google.genai import Client, types
from hypothesis import given, settings
from hypothesis import strategies as st
from neutral_answers import answer, answers
from searches import examples
from wire import SCHEMA, WEATHER, ask, build, service

from paymaster.messages import ChatMessage, Document, Image, LLMRequest, Tool, ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.providers.gemini import parse_response, parse_stream, parse_wire
from paymaster.providers.provider import UnsupportedParameter
from paymaster.providers.schemas import GEMINI, in_words
from paymaster.translation.dialects import neutral_request, told
from paymaster.translation.neutral import NeutralAnswer, Untranslatable
from paymaster.values.money import TokenUsage
from paymaster.wire.gemini import measured
from paymaster.wire.measured import BadBody

Response = types.GenerateContentResponse
GENERATE, STREAM = "models/writer:generateContent", "models/writer:streamGenerateContent"
PNG = {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}
IMAGE = Image(data="iVBO", media_type="image/png")
FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "refused": "SAFETY"}
SERVICE = service("gemini")


def wire(body: bytes | None = None, path: str = GENERATE, **fields: Any) -> Wire:
    usual = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    return Wire(dialect="gemini", path=path, body=body if body is not None else json.dumps(usual | fields).encode())


def neutral(asked: Wire) -> LLMRequest:
    return neutral_request(LLMRequest(route="writer", budget="acme", wire=asked))


def asked(*parts: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def config(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": fields}


def tools(*names: str, **calling: Any) -> dict[str, Any]:
    functions = {"tools": [{"functionDeclarations": [{"name": name} for name in names]}]}
    return {**functions, "toolConfig": {"functionCallingConfig": calling}}


def user(content: str = "", **fields: Any) -> ChatMessage:
    return ChatMessage(role="user", content=content, **fields)


# ---------------------------------------------------------------- what is asked

RICH: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Look:"}, PNG]},
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True, "thoughtSignature": "c2lnbg=="},
                {"text": "I l"},
                {"text": "ook.", "thoughtSignature": "c2lnbg=="},
                {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2lnbg=="},
                {"functionCall": {"id": "fc_1", "name": "weather", "args": {"city": "Rome"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "fc_1", "name": "weather", "response": {"result": "Sun"}}},
                {"functionResponse": {"name": "weather", "response": {"rain": True}}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://a/b.pdf", "displayName": "tides.pdf"}},
                {"text": "And now?"},
            ],
        },
    ],
    "generationConfig": {
        "temperature": 0.5,
        "topP": 0.9,
        "maxOutputTokens": 50,
        "stopSequences": ["END"],
        "seed": 7,
        "candidateCount": 1,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"answer": {"type": "STRING"}}},
        "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": False},
        "responseModalities": ["TEXT"],
        "topK": None,
    },
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "The weather somewhere",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {"city": {"type": "STRING"}},
                        "required": ["city"],
                    },
                }
            ]
        }
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    "safetySettings": [],
    "labels": {"team": "tides"},
    "serviceTier": "standard",
}
SAID = (
    ChatMessage(role="system", content="Be brief."),
    user("Look:"),
    user(images=(IMAGE,)),
    ChatMessage(
        role="assistant",
        content="I look.",
        tool_calls=(
            ToolCall(id="call-1", name="weather", arguments={"city": "Oslo"}),
            ToolCall(id="fc_1", name="weather", arguments={"city": "Rome"}),
        ),
    ),
    ChatMessage(role="tool", content="Sun", tool_call_id="fc_1"),
    ChatMessage(role="tool", content='{"rain": true}', tool_call_id="call-1"),
    user("And now?", documents=(Document(url="https://a/b.pdf", name="tides.pdf"),)),
)


def snake(data: Any) -> Any:
    """The body with names as Google's Python SDK has them; those of the caller's own data and schemas stay."""
    if isinstance(data, list):
        return [snake(each) for each in data]
    if not isinstance(data, dict):
        return data
    kept = ("args", "response", "parameters", "responseSchema", "labels")
    found: dict[str, Any] = {}
    for name, value in data.items():
        written = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        found[written] = value if name in kept else snake(value)
    return found


@pytest.mark.parametrize("body", [RICH, snake(RICH)], ids=["camel", "snake"])
def test_a_body_is_said_in_neutral_words(body: dict[str, Any]) -> None:
    found = neutral(wire(json.dumps(body).encode()))
    assert found == ask(
        prompt=None,
        messages=SAID,
        tools=(WEATHER,),
        tool_choice="required",
        stop=("END",),
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_output_tokens=50,
        json_schema=SCHEMA,
        reasoning_effort="low",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (config(thinkingConfig={"thinkingBudget": 0}), {"reasoning_effort": "none"}),
        (config(thinkingConfig={"thinkingBudget": -1, "thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}), {}),
        (config(responseMimeType="text/plain"), {}),
        (config(responseMimeType="application/json", responseJsonSchema=SCHEMA), {"json_schema": SCHEMA}),
        (tools("f", mode="AUTO"), {"tools": (Tool(name="f"),), "tool_choice": "auto"}),
        (tools("f", mode="VALIDATED"), {"tools": (Tool(name="f"),), "tool_choice": "auto"}),
        (tools("f", mode="NONE"), {"tools": (Tool(name="f"),), "tool_choice": "none"}),
        (tools("f", mode="ANY", allowedFunctionNames=["f"]), {"tools": (Tool(name="f"),), "tool_choice": "f"}),
        (
            tools("f", "g", mode="ANY", allowedFunctionNames=["g", "f"]),
            {"tools": (Tool(name="f"), Tool(name="g")), "tool_choice": "required"},
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}, {}),
        ({"contents": {"parts": {"text": "one"}}}, {"messages": (user("one"),)}),
        (asked({"text": "1"}, {"text": "2"}), {"messages": (user("1"), user("2"))}),
        (
            asked({"fileData": {"mimeType": "image/png", "fileUri": "https://a/b.png"}}),
            {"messages": (user(images=(Image(url="https://a/b.png", media_type="image/png"),)),)},
        ),
        (
            asked({"inlineData": {"mimeType": "text/csv", "data": "YQ=="}}),
            {"messages": (user(documents=(Document.of(b"a", "text/csv", "document.txt"),)),)},
        ),
        (
            {
                "contents": [
                    {"parts": [{"text": "a"}]},
                    *({"role": "model", "parts": [{"text": piece}]} for piece in ("Hel", "lo")),
                    {"parts": [{"text": "b"}]},
                ]
            },
            {"messages": (user("a"), ChatMessage(role="assistant", content="Hello"), user("b"))},
        ),
    ],
)
def test_each_part_has_its_word(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert neutral(wire(**fields)) == ask(**{"prompt": None, "messages": (user("Hello"),)} | expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "STRING", "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (
            {"type": "STRING", "enum": ["a", "b"], "format": "enum"},
            {"type": "string", "enum": ["a", "b"], "format": "enum"},
        ),
        (
            {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "1", "max_items": 3},
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        ),
        (
            {"type": "OBJECT", "properties": {"a": {}, "max_items": {}}, "propertyOrdering": ["max_items", "a"]},
            {"type": "object", "properties": {"max_items": {}, "a": {}}},
        ),
        ({"anyOf": [{"type": "NUMBER"}, {"type": "boolean"}]}, {"anyOf": [{"type": "number"}, {"type": "boolean"}]}),
        ({"type": "TYPE_UNSPECIFIED", "example": 1, "default": {"x_y": 1}}, {"examples": [1], "default": {"x_y": 1}}),
        (
            {"type": "OBJECT", "additionalProperties": {"type": "STRING"}},
            {"type": "object", "additionalProperties": {"type": "string"}},
        ),
    ],
)
def test_googles_schemas_become_json_schemas(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = neutral(wire(**config(responseMimeType="application/json", responseSchema=given))).json_schema
    assert json.dumps(found) == json.dumps(expected)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"safetySettings": [{"category": "c"}]}, "safetySettings"),
        ({"cachedContent": "cachedContents/c"}, "cachedContent"),
        ({"service_tier": "flex"}, "serviceTier"),
        ({"store": False}, "store"),
        (config(topK=5), "generationConfig.topK"),
        (config(candidateCount=2), "generationConfig.candidateCount"),
        (config(responseMimeType="application/json"), "generationConfig.responseMimeType"),
        (config(responseMimeType="text/x.enum", responseSchema={}), "generationConfig.responseMimeType"),
        (config(responseSchema={"type": "OBJECT"}), "generationConfig.responseMimeType"),
        (
            config(responseMimeType="application/json", responseSchema={}, responseJsonSchema={}),
            "generationConfig.responseSchema",
        ),
        (
            config(thinkingConfig={"thinkingBudget": 0, "thinkingLevel": "LOW"}),
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {}, "parametersJsonSchema": {}}]}]},
            "tools.functionDeclarations.parameters",
        ),
        (config(responseModalities=["IMAGE"]), "generationConfig.responseModalities"),
        (config(thinkingConfig={"thinkingBudget": 512}), "generationConfig.thinkingConfig.thinkingBudget"),
        (config(thinkingConfig={"include_thoughts": True}), "generationConfig.thinkingConfig.includeThoughts"),
        (config(thinkingConfig={"thinkingLevel": "VAST"}), "generationConfig.thinkingConfig.thinkingLevel"),
        (
            config(responseMimeType="application/json", responseSchema={"ref": "#/defs/A"}),
            "generationConfig.responseSchema.ref",
        ),
        (
            config(responseMimeType="application/json", responseSchema={"type": "INTEGER", "enum": ["1"]}),
            "generationConfig.responseSchema.enum",
        ),
        ({"tools": [{"googleSearch": {}}]}, "tools.googleSearch"),
        (
            {"tools": {"functionDeclarations": {"name": "f", "behavior": "NON_BLOCKING"}}},
            "tools.functionDeclarations.behavior",
        ),
        (tools("f", "f"), "tools.functionDeclarations.name"),
        (
            tools("f", "g", "h", mode="ANY", allowedFunctionNames=["f", "g"]),
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        (tools(mode="ANY"), "toolConfig.functionCallingConfig.mode"),
        ({"toolConfig": {"retrievalConfig": {"languageCode": "no"}}}, "toolConfig.retrievalConfig"),
        ({"systemInstruction": {"parts": [PNG]}}, "systemInstruction.inlineData"),
        ({"systemInstruction": {"parts": [], "cached": True}}, "systemInstruction.cached"),
        (asked({"executableCode": {"code": "x"}}), "contents.executableCode"),
        (asked({"text": "x", "videoMetadata": {"fps": 9}}), "contents.videoMetadata"),
        (asked({"text": "x", **PNG}), "contents.inlineData"),
        (asked({"functionCall": {"name": "f"}}), "contents.functionCall"),
        (asked({"functionResponse": {"name": "f", "response": {}}}), "contents.functionResponse.name"),
        (asked({"functionResponse": {"id": "i", "name": "f", "response": {}}}), "contents.functionResponse.id"),
        (asked({"functionResponse": {"name": "f", "parts": [PNG]}}), "contents.functionResponse.parts"),
        (asked({"inlineData": {"mimeType": "audio/wav", "data": "A"}}), "contents.audio"),
        (asked({"fileData": {"mimeType": "image/png", "fileUri": "gs://a/b"}}), "contents.fileData.fileUri"),
        (
            asked({"fileData": {"mimeType": "image/png", "fileUri": "https://generativelanguage.googleapis.com/a"}}),
            "contents.fileData.fileUri",
        ),
        (asked({"fileData": {"fileUri": "https://a/b"}}), "contents.fileData.mimeType"),
        ({"contents": [{"role": "model", "parts": [{"text": "x"}]}]}, "contents.prefill"),
        ({"contents": [{"role": "nobody", "parts": [{"text": "x"}]}]}, "contents.role"),
    ],
)
def test_what_has_no_neutral_word_is_named(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(Untranslatable) as raised:
        neutral(wire(**fields))
    assert raised.value.key == key


@pytest.mark.parametrize("method", ["embedContent", "batchEmbedContents"])
def test_embeddings_have_no_neutral_word(method: str) -> None:
    with pytest.raises(Untranslatable, match=method):
        neutral(wire(path=f"models/writer:{method}"))


@settings(max_examples=examples(200))
@given(
    messages=conversations(),
    fields=st.fixed_dictionaries(
        {
            "temperature": st.none() | st.floats(0, 2),
            "top_p": st.none() | st.floats(0, 1),
            "seed": st.none() | st.integers(-9, 9),
            "stop": st.sampled_from([(), ("END", "\n\n")]),
            "reasoning_effort": st.sampled_from([None, "minimal", "low", "high"]),
            "tool_choice": st.sampled_from([None, "auto", "none", "required", "weather"]),
            "json_schema": st.sampled_from([None, SCHEMA]),
        }
    ),
)
def test_our_own_body_is_read_as_what_it_was_made_of(messages: tuple[ChatMessage, ...], fields: dict[str, Any]) -> None:
    sayable = tuple(map(without_what_google_has_no_word_for, messages))
    tools = (WEATHER, Tool(name="tides"))
    request = ask(prompt=None, messages=sayable, tools=tools, **fields)
    body = json.dumps(build(request, "gemini").body).encode()
    schema = request.json_schema and in_words(request.json_schema, GEMINI)
    expected = request.model_copy(update={"max_output_tokens": 77, "json_schema": schema})
    assert neutral(wire(body)) == expected


def without_what_google_has_no_word_for(message: ChatMessage) -> ChatMessage:
    """Names of documents are not sent, and an image by URL needs its type."""
    images = tuple(image.model_copy(update={"media_type": "image/png"}) for image in message.images)
    documents = tuple(
        each.model_copy(update={"name": "document.pdf" if each.media_type == "application/pdf" else "document.txt"})
        for each in message.documents
    )
    return message.model_copy(update={"images": images, "documents": documents})


@settings(max_examples=examples(500))
@given(body=changed(RICH))
def test_whatever_is_measured_is_a_request_or_untranslatable(body: bytes) -> None:
    try:
        measured(wire(body))
        found = neutral(wire(body))
    except (BadBody, Untranslatable):
        return
    assert LLMRequest.model_validate_json(found.model_dump_json()) == found
    for api in ("openai", "openai-responses", "gemini", "bedrock", "anthropic"):
        with suppress(UnsupportedParameter):
            json.dumps(build(found, api).body, ensure_ascii=False, allow_nan=False).encode()


# ---------------------------------------------------------------- what is answered


class Sdk:
    """Google's own client, to which these answers come, and what it asked for."""

    def __init__(self, *given: WireAnswer) -> None:
        self.asked: list[Wire] = []
        answers = iter(given)

        def respond(request: httpx2.Request) -> httpx2.Response:
            path = request.url.path.partition("/models/")[2]
            self.asked.append(Wire(dialect="gemini", path=f"models/{path}", body=request.content))
            answer = next(answers)
            return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)

        http = httpx2.Client(transport=httpx2.MockTransport(respond))
        self.models = Client(api_key="unused", http_options=types.HttpOptions(httpx_client=http)).models


def whole_and_streamed(
    given: NeutralAnswer,
) -> tuple[types.GenerateContentResponse, list[types.GenerateContentResponse]]:
    sdk = Sdk(told(wire(), given), told(wire(path=f"{STREAM}?alt=sse"), given))
    whole = sdk.models.generate_content(model="writer", contents="Hello")
    return whole, list(sdk.models.generate_content_stream(model="writer", contents="Hello"))


@settings(max_examples=examples(100))
@given(given=answers())
def test_the_sdk_reads_the_answer_whole_and_streamed(given: NeutralAnswer) -> None:
    whole, chunks = whole_and_streamed(given)
    for read in ([whole], chunks):
        assert "".join(chunk.text or "" for chunk in read) == given.text
        assert [(call.id, call.name, call.args) for chunk in read for call in chunk.function_calls or ()] == [
            (call.id, call.name, call.arguments) for call in given.tool_calls
        ]
        last = read[-1]
        assert last.candidates
        reasons = [chunk.candidates[0].finish_reason for chunk in read if chunk.candidates]
        assert reasons == [None] * (len(read) - 1) + [FINISH_REASONS[given.ending]]
        assert {(chunk.model_version, chunk.response_id) for chunk in read} == {("mini", given.id)}
        check_usage(last.usage_metadata, given.usage)


def check_usage(found: types.GenerateContentResponseUsageMetadata | None, expected: TokenUsage | None) -> None:
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    thoughts = found.thoughts_token_count or 0
    assert found.total_token_count or expected.input_tokens + expected.output_tokens == 0
    assert (
        TokenUsage(
            input_tokens=found.prompt_token_count or 0,
            cached_input_tokens=found.cached_content_token_count or 0,
            cache_write_tokens=expected.cache_write_tokens,  # of which Google has no count
            output_tokens=(found.candidates_token_count or 0) + thoughts,
            reasoning_tokens=thoughts,
        )
        == expected
    )


@settings(max_examples=examples(100))
@given(given=answers())
def test_our_own_provider_reads_it_alike(given: NeutralAnswer) -> None:
    whole = parse_response(told(wire(), given).body, SERVICE)
    assert whole == parse_stream(told(wire(path=f"{STREAM}?alt=sse"), given).body, SERVICE)
    assert whole == parse_wire(told(wire(path=STREAM), given).body, SERVICE)


@settings(max_examples=examples(50))
@given(given=answers())
def test_an_answer_goes_on_as_the_message_that_it_was(given: NeutralAnswer) -> None:
    sdk = Sdk(told(wire(), given), told(wire(), answer(text="Bye.")))
    first = sdk.models.generate_content(model="writer", contents="Hello")
    assert first.candidates
    assert first.candidates[0].content
    sdk.models.generate_content(model="writer", contents=["Hello", first.candidates[0].content, "And now?"])
    said = [each for each in neutral(sdk.asked[1]).messages if each.role == "assistant"]
    if given.text or given.tool_calls:
        assert said == [ChatMessage(role="assistant", content=given.text, tool_calls=given.tool_calls)]
    else:
        assert said == []


def test_what_googles_sdk_sends_is_understood() -> None:
    sdk = Sdk(told(wire(), answer(text="ok")))
    weather = types.FunctionDeclaration(
        name="weather",
        description="The weather somewhere",
        parameters=types.Schema(
            type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)}, required=["city"]
        ),
    )
    sdk.models.generate_content(
        model="writer",
        contents=[types.Part.from_bytes(data=b"\xfb\xff\xbf", mime_type="image/png"), "What is it?"],
        config=types.GenerateContentConfig(
            system_instruction="Be brief.",
            max_output_tokens=50,
            tools=[types.Tool(function_declarations=[weather])],
            tool_config=types.ToolConfig(
                function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
            ),
            response_mime_type="application/json",
            response_schema=types.Schema(
                type=types.Type.OBJECT, properties={"answer": types.Schema(type=types.Type.STRING)}
            ),
            thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        ),
    )
    image = Image(data="+/+/", media_type="image/png")
    assert neutral(sdk.asked[0]) == ask(
        prompt=None,
        messages=(ChatMessage(role="system", content="Be brief."), user("What is it?", images=(image,))),
        max_output_tokens=50,
        tools=(WEATHER,),
        tool_choice="required",
        json_schema=SCHEMA,
        reasoning_effort="low",
    )


def test_the_first_call_is_signed_for_googles_own_models() -> None:
    calls = tuple(ToolCall(id=call_id, name="weather") for call_id in ("call-1", "call_abc"))
    whole, _ = whole_and_streamed(answer(tool_calls=calls, ending="tools"))
    assert whole.candidates
    assert whole.candidates[0].content
    written = whole.candidates[0].content.model_dump(mode="json", exclude_none=True)
    assert written["parts"] == [
        {
            "function_call": {"name": "weather", "args": {}},
            "thought_signature": "skip_thought_signature_validator",
        },
        {"function_call": {"id": "call_abc", "name": "weather", "args": {}}},
    ]


@pytest.mark.parametrize(("ending", "reason"), [("tools", "MALFORMED_FUNCTION_CALL"), ("length", "MAX_TOKENS")])
def test_arguments_that_are_no_object_are_told_and_not_called(ending: Any, reason: str) -> None:
    calls = (
        ToolCall(id="a", name="weather", arguments={"city": "Rom"}),
        ToolCall(id="b", name="weather", invalid_arguments='{"city": "Os'),
    )
    given = answer(text="I look.", tool_calls=calls, ending=ending)
    whole, chunks = whole_and_streamed(given)
    for last in (whole, chunks[-1]):
        assert last.candidates
        assert (last.text, last.function_calls) == ("I look.", None)
        assert last.candidates[0].finish_reason == reason
    [candidate] = json.loads(told(wire(), given).body)["candidates"]
    message = 'Malformed function call: weather({"city": "Rom"}), weather({"city": "Os)'
    assert candidate["finishMessage"] == message


MANY = range(6_000)
CALLED = [{"functionCall": {"id": f"c{number}", "name": "f"}} for number in MANY]
RESULTS = [{"functionResponse": {"id": f"c{number}", "name": "f"}} for number in reversed(MANY)]


@pytest.mark.usefixtures("heap_of_a_worker")
@pytest.mark.parametrize(
    "fields",
    [
        {
            "contents": [
                *[{"role": "model", "parts": {"functionCall": {"name": "f"}}}] * 9_000,
                {"parts": {"text": "?"}},
            ]
        },
        {"contents": [{"role": "model", "parts": CALLED}, {"parts": RESULTS}]},
        config(
            responseMimeType="application/json",
            responseSchema={"properties": {f"p{n}": {} for n in range(16_000)}, "propertyOrdering": ["q"] * 16_000},
        ),
    ],
    ids=["turn in pieces", "results in another order", "ordering"],
)
def test_many_parts_take_no_long_time(fields: dict[str, Any]) -> None:
    """All of them are read where a workflow's task must end within two seconds."""
    asked = wire(**fields)
    begun = time.process_time()
    assert neutral(asked).messages
    assert time.process_time() - begun < 0.8
