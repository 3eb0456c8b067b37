"""Which dialect a URL path means, and what all dialects have in common."""

import json

import pytest

from paymaster.messages.wire import Dialect, Wire
from paymaster.wire.dialects import GRAMMARS, dialect_of, measured, model_named
from paymaster.wire.measured import BadBody


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/chat/completions", ("openai", None)),
        ("/openai/deployments/d/chat/completions?api-version=2024-10-21", ("openai", "deployments/d")),
        ("/openai/deployments/d%20e/embeddings", ("openai-embeddings", "deployments/d%20e")),
        ("/v1/responses", ("openai-responses", None)),
        ("/v1/responses/resp_1", None),
        ("/v1/embeddings", ("openai-embeddings", None)),
        ("/v1/messages", ("anthropic", None)),
        ("/v1/messages?beta=true", ("anthropic", None)),
        ("/v1/messages/count_tokens?beta=true", None),
        ("/v1/messages/batches", None),
        ("/anthropic/v1/messages", ("anthropic", None)),
        ("/v1/threads/thread_1/messages", None),
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
        (
            "/v1beta/models/two/accounts/x/models/m:generateContent",
            ("gemini", "models/two/accounts/x/models/m:generateContent"),
        ),
        ("/v1beta/models/m:batchEmbedContents", ("gemini", "models/m:batchEmbedContents")),
        ("/v1beta/models/m:countTokens", None),
        ("/v1/models", None),
        ("", None),
    ],
)
def test_a_path_means_its_dialect(path: str, found: tuple[Dialect, str | None] | None) -> None:
    assert dialect_of(path) == found


@pytest.mark.parametrize("dialect", GRAMMARS)
def test_very_many_unknown_keys_cannot_be_allowed_one_by_one(dialect: Dialect) -> None:
    body = {"model": "m", **{f"odd{number}": 1 for number in range(60)}, "x" * 1_000: 1}
    path = "models/m:generateContent" if dialect == "gemini" else None
    needs = measured(Wire(dialect=dialect, path=path, body=json.dumps(body).encode())).needs
    assert len(needs) == 51
    assert needs[-1] == "…"
    one = measured(Wire(dialect=dialect, path=path, body=json.dumps({"model": "m", "x" * 1_000: 1}).encode())).needs
    assert [len(name) for name in one if name.startswith("x")] == [101]


@pytest.mark.parametrize("dialect", GRAMMARS)
@pytest.mark.parametrize(
    "member",
    [
        '"tools":[{"type":"web_search","type":"function"}]',
        '"generationConfig":{"maxOutputTokens":9,"maxOutputTok\\u0065ns":1}',
        '"messages":[{"role":"user","content":[{"type":"text","text":{"a":{"b":1,"b":2}}}]}]',
    ],
)
def test_a_name_that_stands_twice_at_any_depth_is_refused(dialect: Dialect, member: str) -> None:
    path = "models/m:generateContent" if dialect == "gemini" else None
    with pytest.raises(BadBody, match="stands there twice"):
        measured(Wire(dialect=dialect, path=path, body=f'{{"model":"m",{member}}}'.encode()))


def test_endless_nesting_is_no_surprise_to_a_look_for_the_model() -> None:
    with pytest.raises(ValueError, match="JSON may have 50,000 values"):
        model_named(Wire(dialect="openai", body=b'{"model":"m","x":' + b"[" * 200_000))


@pytest.mark.parametrize("dialect", ["openai", "openai-embeddings"])
def test_a_body_below_a_deployment_need_not_name_its_model(dialect: Dialect) -> None:
    below = Wire(dialect=dialect, path="deployments/d%20e", body=b"{}")
    assert measured(below).model == model_named(below) == "d e"
    assert measured(below.model_copy(update={"body": b'{"model":"m"}'})).model == "m"
    for path in (None, "deployments/", "d"):
        with pytest.raises(BadBody, match="the body has no model"):
            measured(below.model_copy(update={"path": path}))
