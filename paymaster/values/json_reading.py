"""Reading JSON that somebody else wrote: whatever it is, the result is a value of the asked kind, or its absence."""

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import accumulate

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from paymaster.values.limits import JSON_VALUES_MAX, LIKELIHOODS_MAX, NESTING_MAX

TOKENS_MAX = 10**10
"""A count above this is a mistake and not a bill."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""One level in or, as a signed byte, out."""
_SLICE = 16 * 1024
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


class NestedTooDeeply(ValueError):
    """JSON of more than `NESTING_MAX` levels."""

    def __init__(self) -> None:
        super().__init__(f"nested too deeply: JSON may have {NESTING_MAX} levels of arrays and objects")


class TooManyValues(ValueError):
    """JSON of more than `JSON_VALUES_MAX` values: to make so many objects would hold up everything else."""

    def __init__(self, values_max: int) -> None:
        super().__init__(f"JSON may have {values_max:,} values")


def read_json(text: bytes | str) -> JsonValue:
    """The data. Raises ValueError for everything that is not JSON, endless nesting and endless numbers included.

    Takes some milliseconds at most for each megabyte, during which no other thread runs.
    """
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    check_values(encoded)
    try:
        return from_json(encoded)
    except ValueError:  # half a surrogate pair, a byte order mark, UTF-16; or what is no JSON at all
        try:
            return json.loads(text)
        except RecursionError:
            raise NestedTooDeeply from None


def read_without_likelihoods(text: bytes) -> JsonValue:
    """The data of an answer without its log probabilities, of which one token can have hundreds of values.

    Raises TooManyValues where the rest has too many still, and ValueError for what is not JSON. Objects are made one by
    one, so that other threads have their turns.
    """
    check_values(text, LIKELIHOODS_MAX)
    kept = 0

    def without_likelihoods(pairs: list[tuple[str, JsonValue]]) -> JsonValue:
        nonlocal kept
        data = dict(pairs)
        if "logprob" in data:
            return None
        kept += len(pairs)
        if kept > JSON_VALUES_MAX:
            raise TooManyValues(JSON_VALUES_MAX)
        return data

    try:
        return json.loads(text, object_pairs_hook=without_likelihoods)
    except RecursionError:
        raise NestedTooDeeply from None


def exact_json(text: str) -> object:
    """The data, whose decimal numbers keep each digit, as `Decimal`.

    Raises ValueError for what is not JSON, and for a number beyond 10^100, which is no amount and no count: to make an
    integer of 1e999999 takes Python seconds.
    """
    try:
        return json.loads(text, parse_float=_exact)
    except RecursionError:
        raise NestedTooDeeply from None


def _exact(text: str) -> Decimal:
    number = Decimal(text)
    if number.adjusted() > 100:
        raise ValueError(f"a number beyond 10^100: {text[:50]}")
    return number


def message_data(text: bytes | str) -> JsonValue:
    """The data, if a message can carry it, in and out.

    Raises NestedTooDeeply, and ValueError for what is not JSON, for half a surrogate pair and for endless numbers.
    """
    encoded = text.encode() if isinstance(text, str) else text  # raises for half a surrogate pair
    check_values(encoded)
    check_levels(encoded)
    data = from_json(encoded, allow_inf_nan=False)
    if b"Infinity" in to_json(data, inf_nan_mode="constants"):  # as the reader takes 1e400
        json.dumps(data, allow_nan=False)  # raises for it, and not for a text with that word
    return data


def check_nesting(data: JsonValue) -> None:
    """Raises NestedTooDeeply, and ValueError for what cannot be written as JSON."""
    try:
        text = to_json(data)
    except ValueError as error:
        if "depth exceeded" in str(error):  # the writer's own limit, 254
            raise NestedTooDeeply from None
        raise
    check_levels(text)


def check_levels(text: bytes) -> None:
    """Raises NestedTooDeeply for JSON of more levels than pass through anywhere."""
    if text.count(b"[") + text.count(b"{") <= NESTING_MAX:
        return
    # In C, and without making objects; brackets by the million are refused by `check_values` before.
    steps = memoryview(_outside_strings(text).translate(_STEPS, _NO_BRACKETS)).cast("b")
    if max(accumulate(steps), default=0) > NESTING_MAX:
        raise NestedTooDeeply


def check_values(text: bytes, values_max: int = JSON_VALUES_MAX) -> None:
    """Raises TooManyValues. Counts in C and makes few objects."""
    if _values(text) <= values_max:  # commas in strings counted too
        return
    if text.count(b'"') - text.count(rb"\"") > 4 * values_max or _values(_outside_strings(text)) > values_max:
        raise TooManyValues(values_max)


def _values(text: bytes) -> int:
    """How many values JSON of this text can have at most."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _outside_strings(text: bytes) -> bytes:
    return b"".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])


def object_of(value: JsonValue) -> dict[str, JsonValue]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: JsonValue) -> list[JsonValue]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def text_of(value: JsonValue) -> str | None:
    """A string that can be encoded: half a surrogate pair, which JSON can name and UTF-8 cannot, becomes U+FFFD."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return "".join(map(_without_halves, _slices(value)))
    return value


def _without_halves(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _slices(text: str) -> Iterator[str]:
    """The text in pieces that no pair of surrogates is cut by: each half costs Python a call."""
    at = 0
    while at < len(text):
        end = at + _SLICE
        if "\ud800" <= text[end - 1 : end] <= "\udbff":
            end += 1
        yield text[at:end]
        at = end


def count_of(value: JsonValue, name: str) -> int | None:
    """The count of that name in an object. None: absent or senseless."""
    count = object_of(value).get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= TOKENS_MAX else None
