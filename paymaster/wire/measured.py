"""What a request in a provider's own format asks for, as far as its bound and its way depend on it."""

import json
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.values.normalised import normalised_bytes, utf8_length


class BadBody(ValueError):
    """A body that is none of its dialect: nobody could answer it."""


class Measured(NamedTuple):
    model: str
    """What the caller named."""
    input_bytes: int
    """Of all that a tokenizer will see; without images and documents."""
    max_output_tokens: int | None
    """Of each of its outputs. None: the caller set no cap."""
    outputs: int
    """How many answers are asked for at once."""
    images: int
    documents: int
    streams: bool
    needs: tuple[str, ...]
    """What makes its cost unknown beforehand, by name: it is sent where the service's `allow` has it."""


def seen_bytes(seen: JsonValue) -> int:
    """The size of what a tokenizer sees, as text and as text that it has normalised, whichever is larger."""
    text = json.dumps(seen, ensure_ascii=False)
    return max(utf8_length(text), normalised_bytes(text))
