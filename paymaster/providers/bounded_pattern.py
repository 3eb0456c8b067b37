"""Regular expressions of whoever writes a schema, searched for by an engine that does not backtrack: pydantic's.

It is written in Rust and compiles a pattern into states; one search takes a time that grows with the states and with
the text, during which nothing else runs in this process. So both together have a bound.
"""

from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

COST_MAX = 300
"""Of a pattern, as `cost_of` counts: compiled within 30 ms."""
WORK_MAX = 500_000
"""Cost times characters: searched within 30 ms."""
_CLASS, _SMALL_CLASS = 10, 2
"""A class of characters, of which Unicode makes hundreds of ranges, and one of ASCII, against one character."""
_NOT_CHECKED = COST_MAX + 1


def found_in(pattern: str, text: str) -> bool | None:
    """Whether the pattern is found in the text. None: it is no pattern for this engine, or it would take too long."""
    cost = cost_of(pattern)
    if cost > COST_MAX or cost * len(text) > WORK_MAX:
        return None
    engine = _engine(pattern)
    if engine is None:
        return None
    try:
        engine.validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=256)
def _engine(pattern: str) -> SchemaValidator | None:
    text: core_schema.StringSchema = {"type": "str", "pattern": pattern}
    try:
        return SchemaValidator(text)
    except SchemaError:
        return None


@lru_cache(maxsize=256)
def cost_of(pattern: str) -> int:
    """How many states a pattern has, roughly: repetitions in braces repeat what they stand behind."""
    if len(pattern) > COST_MAX:
        return _NOT_CHECKED
    sums, last, at = [0], 0, 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "\\":
            escaped = pattern[at : at + 1]
            at += 1
            if escaped in ("p", "P", "x", "u") and pattern[at : at + 1] == "{":
                at = _behind(pattern, at, "}")
            last = 1 if not escaped.isalpha() or escaped in "bBnrtfvxuAz" else _CLASS
        elif character == "[":
            begin, at = at, _behind_class(pattern, at)
            inside = pattern[begin:at]
            is_small = inside.isascii() and "\\" not in inside and not inside.startswith(("^", "["))
            last = _SMALL_CLASS if is_small else _CLASS
        elif character == "(":
            sums.append(0)
            continue
        elif character == ")":
            last = sums.pop() if len(sums) > 1 else 0
        elif character == "{" and (most := _most(pattern[at : (end := _behind(pattern, at, "}")) - 1])) is not None:
            sums[-1] += last * max(most - 1, 0)
            last, at = last * max(most, 1), end
            continue
        elif character in "*+?|":
            continue
        else:
            last = _CLASS if character == "." else 1
        sums[-1] += last
    return min(sum(sums), _NOT_CHECKED)


def _behind(pattern: str, at: int, end: str) -> int:
    found = pattern.find(end, at)
    return len(pattern) if found < 0 else found + 1


def _behind_class(pattern: str, at: int) -> int:
    """Behind the bracket that ends a class; classes may hold classes."""
    depth, begin = 1, at
    while at < len(pattern) and depth:
        character = pattern[at]
        at += 2 if character == "\\" else 1
        if character == "[":
            depth += 1
        elif character == "]" and at - 1 > begin + (pattern[begin : begin + 1] == "^"):
            depth -= 1
    return at


def _most(written: str) -> int | None:
    """The most times of "3", "3," or "3,5". None: it is none of them."""
    least, comma, most = written.partition(",")
    if not least.isdecimal() or (most and not most.isdecimal()) or len(written) > 12:
        return None if not least.isdecimal() else _NOT_CHECKED
    return int(most or least) + (1 if comma and not most else 0)
