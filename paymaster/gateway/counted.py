"""Requests that ask how many tokens another one would have, as Anthropic, Google and OpenAI write them. Pure."""

import json
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.gateway.asked import Refused
from paymaster.messages.wire import Dialect
from paymaster.values.json_reading import object_of, read_json

_GOOGLES = ":countTokens"


class Counted(NamedTuple):
    """The request that is meant."""

    target: str
    """Its path."""
    body: bytes


def counted_request(target: str, body: bytes, dialect: Dialect) -> Counted:
    """`target` is the path of the request for a count, with its query. Raises Refused."""
    path = target.partition("?")[0]
    match dialect:
        case "gemini":
            return Counted(f"{path.removesuffix(_GOOGLES)}:generateContent", _googles_contents(body))
        case "anthropic":
            return Counted(path.removesuffix("/count_tokens"), body)
        case "openai" | "openai-responses" | "openai-embeddings":
            return Counted(path.removesuffix("/input_tokens"), body)


def is_googles_count(path: str) -> bool:
    return path.endswith(_GOOGLES)


def count_document(tokens: int, dialect: Dialect) -> JsonValue:
    """The answer."""
    match dialect:
        case "gemini":
            return {"totalTokens": tokens}
        case "anthropic":
            return {"input_tokens": tokens}
        case "openai" | "openai-responses" | "openai-embeddings":
            return {"object": "response.input_tokens", "input_tokens": tokens}


def _googles_contents(body: bytes) -> bytes:
    """The body of the request whose tokens are counted, which may be within the one that asks."""
    try:
        asked = object_of(read_json(body))
    except ValueError as error:
        raise Refused("bad_request", f"the body: {error}") from None
    within = object_of(asked.get("generateContentRequest", asked.get("generate_content_request")))
    if not within:
        return body
    return json.dumps({name: value for name, value in within.items() if name != "model"}).encode()
