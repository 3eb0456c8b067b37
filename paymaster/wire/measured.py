"""What a request in a provider's own format asks for, as far as its bound and its way depend on it."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from pydantic import JsonValue

from paymaster.values.json_reading import object_of, read_json, text_of
from paymaster.values.normalised import normalised_bytes, utf8_length
from paymaster.wire.members import NotAnObject, members

_NAME_CHARACTERS = 100
"""The longest name that `allow` may have."""
_NAMES_MAX = 50


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
    """How many answers are asked for at once. 0: none that is made of tokens, as of embeddings."""
    images: int
    documents: int
    streams: bool
    needs: tuple[str, ...]
    """What makes its cost unknown beforehand, by name: it is sent where the service's `allow` has it."""
    chooses: tuple[str, ...] = ()
    """What chooses its price, as `service_tier=priority`: it is sent where that price is known, or allowed."""
    kept_thoughts: int = 0
    """How many thoughts of earlier answers are not in the body: the provider has them, and reads them again."""


def body_object(body: bytes) -> dict[str, JsonValue]:
    """Raises BadBody, also for a name that stands twice in one object, at any depth.

    Readers take such a name in different ways, and what is a text to one may to another be a tool that is billed.
    """
    try:
        text = body.decode()
        members(text)
        json.loads(text, object_pairs_hook=_check_names, parse_int=str, parse_float=str)
        return object_of(read_json(body))
    except (NotAnObject, ValueError) as error:
        raise BadBody(f"the body is {error}") from None


def _check_names(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise NotAnObject(f"no object that all readers agree on: the name {name[:50]!r} stands there twice")


def model_of(data: Mapping[str, JsonValue], path: str | None = None) -> str:
    """That of the body, else of a path `deployments/NAME`. Raises BadBody."""
    named = unquote(path.removeprefix("deployments/")) if path and path.startswith("deployments/") else None
    model = named if data.get("model") is None else data["model"]
    if not isinstance(model, str) or not model:
        raise BadBody("the body has no model, which names a route, or a candidate as service/model")
    return model


def number_of(data: Mapping[str, JsonValue], name: str, least: int = 1, most: int | None = None) -> int | None:
    """The whole number of that name. None: there is none. Raises BadBody for anything else."""
    number = data.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number < least or (most and number > most):
        span = f"from {least} to {most}" if most else f"of at least {least}"
        raise BadBody(f"{name} is no number {span}")
    return number


def objects_of(data: Mapping[str, JsonValue], name: str) -> list[dict[str, JsonValue]]:
    """The objects of the list of that name; empty without one.

    Raises BadBody for anything else, which some server might read as if it were such a list.
    """
    listed = data.get(name)
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise BadBody(f"{name} is no list")
    objects = [each for each in listed if isinstance(each, dict)]
    if len(objects) < len(listed):
        raise BadBody(f"{name} has something in it that is no object")
    return objects


def unknown(data: Mapping[str, JsonValue], known: Collection[str], prefix: str = "") -> Iterator[str]:
    """The names of the members that are not known, but for those that are null or an empty list."""
    return (f"{prefix}{name}" for name, value in data.items() if name not in known and value not in (None, []))


def kind_of(data: Mapping[str, JsonValue]) -> str:
    """Its `type`; "untyped" for one that has none."""
    return text_of(data.get("type")) or "untyped"


def without(data: dict[str, JsonValue], *names: str) -> dict[str, JsonValue]:
    """The object without its members of these names."""
    return {name: value for name, value in data.items() if name not in names}


def once(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in their order; long ones are cut, and of very many the last says "…", which nobody can allow.

    Half a surrogate pair, which JSON can name and no message can carry, becomes U+FFFD.
    """
    found = list(dict.fromkeys(text_of(name[: _NAME_CHARACTERS + 1]) or "" for name in names))
    return (*found[:_NAMES_MAX], "…") if len(found) > _NAMES_MAX else tuple(found)


def seen_bytes(seen: JsonValue) -> int:
    """The size of what a tokenizer sees, as text and as text that it has normalised, whichever is larger."""
    text = json.dumps(seen, ensure_ascii=False)
    return max(utf8_length(text), normalised_bytes(text))
