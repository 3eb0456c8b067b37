"""Bodies of Google's generateContent and embedContent: what they may cost at most, and how little is changed."""

import json
from typing import Any

import pytest

from paymaster.messages.wire import Wire
from paymaster.wire.gemini import measured, sent, sent_headers
from paymaster.wire.measured import BadBody, Measured

PNG = {"inlineData": {"mimeType": "image/png", "data": "A" * 100_000}}
PDF = {"inline_data": {"mime_type": "application/pdf", "data": "A" * 100_000}}
GENERATE = "models/writer:generateContent"


def wire(path: str = GENERATE, **fields: Any) -> Wire:
    usual: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    return Wire(dialect="gemini", path=path, body=json.dumps(usual | fields).encode())


def measure(**fields: Any) -> Measured:
    return measured(wire(**fields))


def asked(*parts: Any) -> dict[str, Any]:
    return {"contents": [{"parts": list(parts)}]}


@pytest.mark.parametrize("snake", [True, False])
def test_a_plain_body_needs_nothing(snake: bool) -> None:
    names = ("system_instruction", "generation_config", "safety_settings", "tool_config")
    system, config, safety, tool = (
        names if snake else ("systemInstruction", "generationConfig", "safetySettings", "toolConfig")
    )
    limit, choices = ("max_output_tokens", "candidate_count") if snake else ("maxOutputTokens", "candidateCount")
    found = measure(
        path="models/writer:streamGenerateContent?alt=sse",
        **{
            system: {"parts": {"text": "x"}},
            config: {limit: 50, choices: 2, "temperature": 0, "thinkingConfig": {"thinkingBudget": 5}},
            safety: [],
            tool: {"functionCallingConfig": {"mode": "ANY"}},
            "tools": [{"functionDeclarations": [{"name": "f"}]}],
        },
    )
    assert found[:1] + found[2:] == ("writer", 50, 2, 0, 0, True, (), (), 0)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"cachedContent": "cachedContents/c"}, ("cachedContent",)),
        ({"cached_content": "cachedContents/c"}, ("cachedContent",)),
        ({"modelArmorConfig": {}}, ("modelArmorConfig",)),
        ({"aKeyOfTomorrow": 1}, ("aKeyOfTomorrow",)),
        ({"generationConfig": {"responseModalities": ["TEXT"]}}, ()),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, ("generationConfig.responseModalities",)),
        ({"generationConfig": {"responseModalities": "AUDIO"}}, ("generationConfig.responseModalities",)),
        ({"generationConfig": {"speechConfig": {}}}, ("generationConfig.speechConfig",)),
        ({"generationConfig": {"imageConfig": {}}}, ("generationConfig.imageConfig",)),
        ({"generationConfig": {"routingConfig": {}}}, ("generationConfig.routingConfig",)),
        ({"tools": [{"googleSearch": {}}]}, ("tools.googleSearch",)),
        ({"tools": [{"google_search": {}}]}, ("tools.googleSearch",)),
        ({"tools": {"codeExecution": {}}}, ("tools.codeExecution",)),
        ({"tools": [{"functionDeclarations": []}, {"urlContext": {}}]}, ("tools.urlContext",)),
        ({"tools": [{"googleMaps": {}}, {"computerUse": {}}]}, ("tools.googleMaps", "tools.computerUse")),
        ({"tools": [{"fileSearch": {}}, {"mcpServers": [1]}]}, ("tools.fileSearch", "tools.mcpServers")),
        ({"toolConfig": {"more": True}}, ("toolConfig.more",)),
        (asked({"inlineData": {"mimeType": "audio/wav", "data": "A"}}), ("contents.audio",)),
        (asked({"fileData": {"mimeType": "video/mp4", "fileUri": "u"}}), ("contents.video",)),
        (asked({"fileData": {"fileUri": "u"}}), ("contents.untyped",)),
        (asked({"text": "x", "videoMetadata": {"fps": 9}}), ("contents.videoMetadata",)),
        (
            asked({"functionResponse": {"name": "f", "parts": [{"inlineData": {"mimeType": "audio/wav"}}]}}),
            ("contents.audio",),
        ),
        ({"systemInstruction": {"parts": [{"odd": 1}]}}, ("contents.odd",)),
        ({"generationConfig": {"responseFormat": [{"text": {"mimeType": "APPLICATION_JSON"}}]}}, ()),
        (
            {"generationConfig": {"response_format": [{"text": {}}, {"video": {}}]}},
            ("generationConfig.responseFormat.video",),
        ),
        ({"generationConfig": {"responseFormat": {"image": {}}}}, ("generationConfig.responseFormat.image",)),
        (asked({"fileData": {"mimeType": "image/png", "fileUri": "u"}}), ()),
        (asked({"executableCode": {"code": "x"}}, {"codeExecutionResult": {"output": "x"}}), ()),
    ],
)
def test_what_has_no_bound_is_named(fields: dict[str, Any], needs: tuple[str, ...]) -> None:
    assert measure(**fields).needs == needs


@pytest.mark.parametrize(
    ("tier", "chooses"),
    [
        ("SERVICE_TIER_PRIORITY", ("service_tier=priority",)),
        ("flex", ("service_tier=flex",)),
        ("standard", ()),
        (None, ()),
        (3, ("service_tier=3",)),
        ({"priority": 1}, ("service_tier={'priority': 1}",)),
    ],
)
def test_a_tier_chooses_a_price(tier: Any, chooses: tuple[str, ...]) -> None:
    assert (measure(serviceTier=tier).chooses, measure(serviceTier=tier).needs) == (chooses, ())


def test_media_are_counted_one_by_one_wherever_they_stand() -> None:
    result = {"functionResponse": {"name": "f", "response": {}, "parts": [PNG]}}
    found = measure(**asked(PNG, PDF, result, {"text": "x" * 500}), systemInstruction={"parts": [PNG]})
    assert (found.images, found.documents, found.needs) == (3, 1, ())
    assert 500 < found.input_bytes < 1_500


@pytest.mark.parametrize(
    "hidden",
    [
        {"functionCall": {"name": "f", "args": {"inlineData": {"mimeType": "image/png", "data": "x" * 10_000}}}},
        {"functionResponse": {"name": "f", "response": {"inlineData": {"data": "x" * 10_000}}}},
        {"text": "x", "thoughtSignature": "x" * 10_000},
    ],
)
def test_what_only_looks_like_media_is_counted(hidden: dict[str, Any]) -> None:
    assert measure(**asked(hidden)).input_bytes > 10_000


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("embedContent", {"content": {"parts": [{"text": "x" * 100}]}, "taskType": "SEMANTIC_SIMILARITY"}),
        ("batchEmbedContents", {"requests": [{"model": "models/writer", "content": {"parts": [{"text": "x" * 100}]}}]}),
    ],
)
def test_embeddings_put_nothing_out(method: str, fields: dict[str, Any]) -> None:
    asked_for = Wire(dialect="gemini", path=f"models/writer:{method}", body=json.dumps(fields).encode())
    found = measured(asked_for)
    assert found[:1] + found[2:] == ("writer", None, 0, 0, 0, False, (), (), 0)
    assert 100 < found.input_bytes < 300
    odd = json.dumps(fields | {"odd": 1}).encode()
    assert measured(asked_for.model_copy(update={"body": odd})).needs == ("odd",)


def test_the_media_of_many_requests_are_counted() -> None:
    requests = [{"content": {"parts": [PNG]}}, {"content": {"parts": [{"text": "x"}, PDF]}, "odd": 1}]
    found = measured(
        Wire(dialect="gemini", path="models/w:batchEmbedContents", body=json.dumps({"requests": requests}).encode())
    )
    assert (found.images, found.documents, found.needs) == (1, 1, ("requests.odd",))
    assert found.input_bytes < 1_000


@pytest.mark.parametrize(
    "wrong",
    [
        wire(path="models/writer:countTokens"),
        wire(path="models/:generateContent"),
        wire(path="writer:generateContent"),
        wire().model_copy(update={"path": None}),
        wire().model_copy(update={"body": b"[]"}),
        wire(generationConfig={"maxOutputTokens": 0}),
        wire(generationConfig={"candidateCount": True}),
        wire(generationConfig={"maxOutputTokens": 5, "max_output_tokens": 6}),
        wire(generationConfig={}, generation_config={}),
        wire(generationConfig={"max_output_tokens": 5, "max__output_tokens": 6}),
        wire(tools=[[{"googleSearch": {}}]]),
        wire(tools="googleSearch"),
        wire(contents=[{"parts": [[{"fileData": {"mimeType": "video/mp4", "fileUri": "u"}}]]}]),
        wire(path="models/writer:batchEmbedContents", requests={"content": {}}),
        wire(path="models/writer:batchEmbedContents", requests=["x"]),
    ],
)
def test_a_request_that_is_none_is_refused(wrong: Wire) -> None:
    with pytest.raises(BadBody):
        measured(wrong)


WRITTEN = b'{ "contents":[{"parts":[{"text":"\\u00e9t\\u00e9"}]}]%s }'


@pytest.mark.parametrize(
    ("asked_for", "changed"),
    [
        (b"", b',"generationConfig":{"maxOutputTokens":40}'),
        (b', "generationConfig": null', b', "generationConfig": {"maxOutputTokens":40}'),
        (b', "generationConfig" : { "topP":1.0}', b', "generationConfig" : { "topP":1.0,"maxOutputTokens":40}'),
        (b', "generationConfig": {"maxOutputTokens" : 41}', b', "generationConfig": {"maxOutputTokens" : 40}'),
        (b', "generationConfig": {"maxOutputTokens":39 }', b', "generationConfig": {"maxOutputTokens":39 }'),
        (b', "generation_config": {"max_output_tokens":41}', b', "generation_config": {"max_output_tokens":40}'),
    ],
)
def test_the_cap_is_lowered_and_never_raised(asked_for: bytes, changed: bytes) -> None:
    found = sent(Wire(dialect="gemini", path=GENERATE, body=WRITTEN % asked_for), model="m-1", cap=40)
    assert found == ("/models/m-1:generateContent", WRITTEN % changed)


def test_the_model_of_each_request_of_a_batch_is_the_candidates() -> None:
    text = b'{ "requests" : [ {"model":"models/w" ,"content":{"parts":[{"text":"\\u00e9"}]}}, {"content":{} } ] }'
    path, found = sent(Wire(dialect="gemini", path="models/w:batchEmbedContents", body=text), model="m-1", cap=1)
    assert path == "/models/m-1:batchEmbedContents"
    assert found == text.replace(b"models/w", b"models/m-1").replace(b"{} }", b'{},"model":"models/m-1" }')
    one = b'{"model": "models/w", "content":{}}'
    found = sent(Wire(dialect="gemini", path="models/w:embedContent", body=one), model="m-1", cap=1)
    assert found == ("/models/m-1:embedContent", one.replace(b"/w", b"/m-1"))


def test_a_stream_is_asked_for_as_the_caller_has_it() -> None:
    for query in ("", "?alt=sse"):
        path, _ = sent(wire(path=f"models/a/b:streamGenerateContent{query}"), model="m/1", cap=9)
        assert path == f"/models/m%2F1:streamGenerateContent{query}"


def test_no_key_of_the_caller_is_passed_on() -> None:
    assert sent_headers({"x-goog-api-key": "k", "Authorization": "Bearer k", "X-Goog-Api-Client": "c"}) == {
        "x-goog-api-client": "c"
    }
