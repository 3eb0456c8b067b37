"""The dialect `openai-embeddings`: bodies of embeddings, as OpenAI's SDK and those of compatible servers write them."""

import json
import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from paymaster.values.json_reading import list_of
from paymaster.values.limits import TOKEN_LISTS_MAX
from paymaster.wire.grammar import Grammar, deployment_path, of_body_or_path, passed_on
from paymaster.wire.measured import BadBody, Measured, body_object, kind_of, model_of, once, seen_bytes, unknown
from paymaster.wire.members import with_values

_FREE = frozenset(
    {
        "model",
        "input",
        "encoding_format",
        "dimensions",
        "user",
        # of compatible servers
        "input_type",
        "truncate",
        "truncation",
        "output_dimension",
        "output_dtype",
        "task",
        "normalized",
        "embedding_type",
    }
)
"""Keys that cannot change what an answer may cost at most."""
_TOKENS = re.compile(r"\[[0-9, \t\r\n]+\]")
"""A list of tokens, of which only the length is read."""
_HEADERS = frozenset({"openai-beta"})


def measured(body: bytes, path: str | None = None) -> Measured:
    """A token in a list is a number with a comma, so that there are more bytes than tokens. Raises BadBody."""
    try:
        shortened = _TOKENS.sub("[0]", body.decode()).encode()
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is {error}") from None
    data = body_object(shortened)
    return Measured(
        model=model_of(data, path),
        input_bytes=seen_bytes(data.get("input")) + max(0, len(body) - len(shortened)),
        max_output_tokens=None,
        outputs=0,
        images=0,
        documents=0,
        streams=False,
        needs=once([*unknown(data, _FREE), *_objects(data.get("input"))]),
    )


def _objects(given: JsonValue) -> Iterator[str]:
    """By their kinds, those that are neither texts nor tokens: an image, say, of some compatible server."""
    if isinstance(given, dict):
        yield f"input.{kind_of(given)}"
    for each in list_of(given):
        yield from _objects(each)


def sent(body: bytes, *, model: str) -> bytes:
    """The body with its model; every other byte as it was."""
    return with_values(body.decode(), {"model": json.dumps(model)}, TOKEN_LISTS_MAX).encode()


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the caller that a provider gets."""
    return passed_on(headers, _HEADERS)


GRAMMAR = Grammar(
    measured=of_body_or_path(measured), path_ends=("/embeddings",), wire_path=deployment_path, sent_headers=sent_headers
)
