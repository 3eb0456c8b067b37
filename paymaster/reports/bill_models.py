"""Which of the models on a bill are which of ours: providers write names with dates, kinds of tokens and regions."""

import re
from collections.abc import Iterable, Mapping
from itertools import takewhile

_WORDS = re.compile("[a-z]+|[0-9]+")
_DATE_DIGITS = 3
"""A number that follows a name directly and has fewer digits is a part of the name, as in gpt-4.1."""
_ADDITIONS = frozenset(
    (
        *("latest", "batch", "flex", "priority", "pp", "token", "tokens", "m", "k"),
        *("input", "inp", "in", "output", "outp", "outpt", "out", "opt"),
        *("cached", "cache", "cchd", "cd", "read", "write"),
        *("global", "glbl", "gl", "regional", "regnl", "rgnl", "reg", "data", "zone", "dz", "dzn", "dzone"),
    )
)
"""Words after a model's name that do not make it another model: kinds of tokens, and where and how fast they are made.
Azure's meters have most of them."""


def is_search(item: str) -> bool:
    """Searches by the provider itself, which bills have apart from the models."""
    return _words(item)[:2] == ["web", "search"]


def same_model(one: str, other: str) -> bool:
    """Whether two names can mean the same model. "" can be any: the bill does not say."""
    (name, dated), (other_name, other_dated) = _taken_apart(one), _taken_apart(other)
    if not name or not other_name:
        return True
    # Some write 2024-08-06 and some 0806.
    return name == other_name and (dated.endswith(other_dated) or other_dated.endswith(dated))


def together(pairs: Iterable[tuple[str, str]], billed: Iterable[str], same: Mapping[str, str]) -> dict[str, str]:
    """For each name one of its group: names that cannot be told apart on the bill are compared together.

    `pairs`: our models, each with the name that the service answered with, or itself. `same`: names on the bill that
    are one of ours, whatever they look like.
    """
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first.setdefault(name, name) != name:
            name = first[name]
        return name

    def join(one: str, other: str) -> None:
        first[root(other)] = root(one)

    ours: set[str] = set()
    for model, answered in pairs:
        ours |= {model, answered}
        join(model, answered)
    for item in billed:
        root(item)
        for name in sorted(ours):
            if same[item] == name if item in same else same_model(item, name):
                join(name, item)
    return {name: root(name) for name in first}


def _taken_apart(name: str) -> tuple[list[str], str]:
    """The words of the model's name, and the digits of its date; "" without one."""
    words = _words(name)
    end = next((end for end in range(1, len(words)) if _is_addition(words[end:])), len(words))
    return words[:end], "".join(takewhile(str.isdigit, words[end:]))


def _is_addition(words: list[str]) -> bool:
    begins = words[0] in _ADDITIONS or (words[0].isdigit() and len(words[0]) >= _DATE_DIGITS)
    return begins and all(word.isdigit() or word in _ADDITIONS for word in words)


def _words(name: str) -> list[str]:
    return _WORDS.findall(name.lower())
