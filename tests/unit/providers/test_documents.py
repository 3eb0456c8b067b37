"""Documents in the form of each provider that takes them; the others are passed over."""

from base64 import b64encode
from typing import Any

import pytest
from pydantic import ValidationError
from wire import ask, build

from paymaster.messages import ChatMessage, Document, LLMRequest
from paymaster.providers.provider import UnsupportedParameter
from paymaster.settings import Api

PDF = Document.of(b"%PDF", name="report.pdf")
LINKED = Document(url="https://example.com/a.pdf")
TEXT = Document.of(b"Hello", "text/plain", "a.txt")
DATA = b64encode(b"%PDF").decode()


def asked(document: Document) -> LLMRequest:
    return ask(prompt=None, messages=(ChatMessage(role="user", content="What is it?", documents=(document,)),))


@pytest.mark.parametrize(
    ("document", "source"),
    [
        (PDF, {"type": "base64", "media_type": "application/pdf", "data": DATA}),
        (LINKED, {"type": "url", "url": "https://example.com/a.pdf"}),
        (TEXT, {"type": "text", "media_type": "text/plain", "data": "Hello"}),
    ],
)
def test_a_document_for_claude(document: Document, source: dict[str, Any]) -> None:
    assert build(asked(document), "anthropic").body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "document", "source": source, "title": document.name},
                {"type": "text", "text": "What is it?"},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("document", "part"),
    [
        (PDF, {"inlineData": {"mimeType": "application/pdf", "data": DATA}}),
        (LINKED, {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/a.pdf"}}),
    ],
)
def test_a_document_for_gemini(document: Document, part: dict[str, Any]) -> None:
    parts = [part, {"text": "What is it?"}]
    assert build(asked(document), "gemini").body["contents"] == [{"role": "user", "parts": parts}]


@pytest.mark.parametrize(
    ("document", "part"),
    [
        (PDF, {"filename": "report.pdf", "file_data": f"data:application/pdf;base64,{DATA}"}),
        (LINKED, {"file_url": "https://example.com/a.pdf"}),
    ],
)
def test_a_document_for_responses(document: Document, part: dict[str, Any]) -> None:
    content = [{"type": "input_file", **part}, {"type": "input_text", "text": "What is it?"}]
    assert build(asked(document), "openai-responses").body["input"] == [{"role": "user", "content": content}]


def test_documents_for_bedrock_have_names_that_it_takes_once() -> None:
    documents = (Document.of(b"%PDF", name="Q3: a_b.pdf"), PDF, PDF, TEXT)
    said = ChatMessage(role="user", content="What are they?", documents=documents)
    sent: Any = build(ask(prompt=None, messages=(said,)), "bedrock").body
    blocks = [block["document"] for block in sent["messages"][0]["content"] if "document" in block]
    assert [block["name"] for block in blocks] == ["Q3- a-b-pdf", "report-pdf", "report-pdf 2", "a-txt"]
    assert [block["format"] for block in blocks] == ["pdf", "pdf", "pdf", "txt"]
    assert blocks[0]["source"] == {"bytes": DATA}


def test_a_document_for_openais_chat_completions() -> None:
    file = {"filename": "report.pdf", "file_data": f"data:application/pdf;base64,{DATA}"}
    content = [{"type": "file", "file": file}, {"type": "text", "text": "What is it?"}]
    assert build(asked(PDF), "openai").body["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("api", "base_url", "document"),
    [
        ("bedrock", None, LINKED),
        ("vertex-claude", None, LINKED),
        ("bedrock", None, Document.of(b"x", "application/zip")),
        ("openai", None, LINKED),
        ("openai", None, TEXT),
        ("openai", "https://api.deepseek.com", PDF),
        ("openai", "https://gateway.example/v1", PDF),
        ("openai", "https://openrouter.ai/api/v1", PDF),
        ("azure-openai", None, PDF),
        ("anthropic", None, Document.of(b"x", "text/csv")),
        ("anthropic", None, Document(url="https://example.com/a.txt", media_type="text/plain")),
        ("anthropic", None, Document(data="?", media_type="text/plain")),
        ("anthropic", None, Document.of(b"\xff", "text/plain")),
    ],
)
def test_who_does_not_take_it_is_passed_over(api: Api, base_url: str | None, document: Document) -> None:
    with pytest.raises(UnsupportedParameter, match="documents") as refused:
        build(asked(document), api, base_url)
    assert refused.value.parameter == "documents"


@pytest.mark.parametrize("api", ["openai", "openai-responses"])
def test_no_empty_text_stands_beside_it(api: Api) -> None:
    request = ask(prompt=None, messages=(ChatMessage(role="user", content="", documents=(PDF,)),))
    body: dict[str, Any] = build(request, api).body
    [message] = body["messages" if api == "openai" else "input"]
    assert [part["type"] for part in message["content"]] == ["file" if api == "openai" else "input_file"]


@pytest.mark.parametrize("fields", [{}, {"url": "https://x", "data": "eA=="}])
def test_a_document_is_one_of_both(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="url or data"):
        Document.model_validate(fields)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_a_user_has_documents(role: str) -> None:
    with pytest.raises(ValidationError, match="only a user message has documents"):
        ChatMessage.model_validate({"role": role, "content": "x", "documents": (PDF,)})
