"""The bound of the input covers what any byte-level tokenizer can make of a request, in whatever format it is sent."""

import json
import unicodedata
from typing import Any

import pytest
from any_request import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples
from wire import BASE_URLS, build

from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.messages import ChatMessage, Document, Image, LLMRequest
from paymaster.messages.call_steps import RequestFacts
from paymaster.messages.wire import Wire
from paymaster.providers.bounds import facts_of, input_bytes
from paymaster.providers.provider import UnsupportedParameter
from paymaster.settings import Api
from paymaster.values.money import Price, TokenUsage

PRICE = Price(input_nanos=1_000, output_nanos=4_000, cache_write_nanos=1_250, source="test")
MEDIA = ("image_url", "input_image", "image", "file", "input_file", "document")
PLACES = ("messages", "input", "contents", "system", "systemInstruction", "tools", "response_format", "text")


def seen(value: Any) -> list[str]:
    """Every text below a value that a tokenizer may be given: all strings and names, but no images and documents."""
    if isinstance(value, dict):
        if value.get("type") in MEDIA or "inlineData" in value or "fileData" in value:
            return []
        return [text for name, below in value.items() for text in (name, *seen(below))]
    if isinstance(value, list):
        return [text for below in value for text in seen(below)]
    return [value] if isinstance(value, str) else [json.dumps(value)]


def most_tokens(text: str) -> int:
    """One token for each byte, of the text as it is or as a tokenizer may normalise it."""
    return max(len(form.encode("utf-8", "surrogatepass")) for form in (text, unicodedata.normalize("NFKC", text)))


@pytest.mark.parametrize("api", BASE_URLS)
@settings(max_examples=examples(40))
@given(request=requests, prompt=st.text(max_size=50))
def test_no_tokenizer_makes_more_of_a_request_than_its_bound(api: Api, request: LLMRequest, prompt: str) -> None:
    """The worst one makes a token of every byte of everything in the body; its bill is within the bound."""
    request = request.model_copy(update={"prompt": prompt})
    try:
        body = build(request, api).body
    except UnsupportedParameter:
        return
    tokens = sum(most_tokens(text) for place in PLACES for text in seen(body.get(place, {})))
    bound = PRICE.bound_nanos(input_bytes(request) + INPUT_OVERHEAD_TOKENS, 77)
    usage = TokenUsage(input_tokens=tokens, cache_write_tokens=tokens, output_tokens=77)
    assert PRICE.cost_nanos(usage) <= bound


def test_images_and_documents_do_not_count_as_text() -> None:
    """Their tokens have nothing to do with their bytes; a configured maximum covers them. A document's name counts."""
    text = ChatMessage(role="user", content="What is it?")
    sizes: list[int] = []
    for bytes_ in (10, 1_000_000):
        images, documents = (Image.of(b"x" * bytes_, "image/png"),), (Document.of(b"x" * bytes_, name="a" * 500),)
        media = text.model_copy(update={"images": images, "documents": documents})
        sizes.append(input_bytes(LLMRequest(route="r", budget="acme", messages=(media,))))
    assert sizes[0] == sizes[1]
    assert 500 < sizes[0] - input_bytes(LLMRequest(route="r", budget="acme", messages=(text,))) < 600


def test_a_text_that_becomes_a_document_stays_in_the_bound() -> None:
    """Beside all that is in the neutral request, and not instead of it."""

    def facts(size: int) -> RequestFacts:
        source = {"type": "text", "media_type": "text/plain", "data": "x" * size}
        call = {"type": "tool_use", "id": "c", "name": "f", "input": {"number": 1e20}}
        content = [{"type": "document", "source": source}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": [call] * 100}]
        body = {"model": "m", "max_tokens": 5, "messages": [*messages, {"role": "user", "content": "?"}]}
        wire = Wire(dialect="anthropic", body=json.dumps(body).encode())
        return facts_of(LLMRequest(route="r", budget="acme", wire=wire))

    assert (facts(10).translated_bytes or 0) + 50_000 <= (facts(50_010).translated_bytes or 0)


@pytest.mark.parametrize("fields", [r'"\ud800": 1', r'"service_tier": "\ud800"'])
def test_facts_of_half_a_surrogate_pair_can_be_sent(fields: str) -> None:
    """A workflow that could not send them would be stuck for ever."""
    wire = Wire(dialect="openai", body=f'{{"model": "m", "messages": [], {fields}}}'.encode())
    facts = facts_of(LLMRequest(route="r", budget="acme", wire=wire))
    assert any("\ufffd" in name for name in (*facts.needs, *facts.chooses))
    facts.model_dump_json().encode()
