"""Which dialect a URL path means."""

import pytest

from paymaster.messages.wire import Dialect
from paymaster.wire.dialects import dialect_of


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/chat/completions", ("openai", None)),
        ("/openai/deployments/d/chat/completions?api-version=2024-10-21", ("openai", None)),
        ("/v1/responses", ("openai-responses", None)),
        ("/v1/responses/resp_1", None),
        ("/v1/embeddings", ("openai-embeddings", None)),
        ("/v1/messages", ("anthropic", None)),
        ("/v1/messages?beta=true", ("anthropic", None)),
        ("/v1/messages/count_tokens?beta=true", None),
        ("/v1/messages/batches", None),
        ("/v1beta/models/m-1:generateContent", ("gemini", "models/m-1:generateContent")),
        (
            "/v1beta/models/m-1:streamGenerateContent?key=secret&alt=sse",
            ("gemini", "models/m-1:streamGenerateContent?alt=sse"),
        ),
        ("/v1beta/models/m-1:streamGenerateContent", ("gemini", "models/m-1:streamGenerateContent")),
        (
            "/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
            ("gemini", "models/m:generateContent"),
        ),
        ("/v1beta/models/two/m-1:embedContent", ("gemini", "models/two/m-1:embedContent")),
        ("/v1beta/models/m:batchEmbedContents", ("gemini", "models/m:batchEmbedContents")),
        ("/v1beta/models/m:countTokens", None),
        ("/v1/models", None),
        ("", None),
    ],
)
def test_a_path_means_its_dialect(path: str, found: tuple[Dialect, str | None] | None) -> None:
    assert dialect_of(path) == found
