"""Budget paths: `acme/content/writer` charges `acme/content/writer`, `acme/content` and `acme`.

A template, `acme/users/*`, stands for every path that has one more segment than what is before its `*`.
"""

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

from paymaster.values.run_path import run_ancestors

PATH_LENGTH_MAX = 200
LEVELS_MAX = 16
"""Segments of a path: each may have an account, which every call below it looks at and is charged to."""
_SEGMENT = "[A-Za-z0-9._-]+"
_NO_NAMES = (".", "..")
"""In an address they mean something else."""
BUDGET_PATH = f"{_SEGMENT}(/{_SEGMENT})*"
"""What a budget path looks like, as a regular expression; its length is limited besides."""
_ANY = "*"
BUDGET_TABLE = rf"({BUDGET_PATH}/)?({_SEGMENT}|\*)"
"""What a configuration may name: a budget path or a template."""


@lru_cache(maxsize=10_000)
def check_budget_path(path: str) -> str:
    """The path itself. Raises ValueError with the reason when it is not one that operators can read and type."""
    if len(path) > PATH_LENGTH_MAX:
        raise ValueError(f"a budget path has at most {PATH_LENGTH_MAX} characters, this one has {len(path)}")
    if (levels := path.count("/") + 1) > LEVELS_MAX:
        raise ValueError(f"a budget path has at most {LEVELS_MAX} levels, this one has {levels}")
    for segment in path.split("/"):
        if not re.fullmatch(_SEGMENT, segment) or segment in _NO_NAMES:
            raise ValueError(
                f"budget path {path!r}: {segment!r} is not a segment; "
                "write segments of letters, digits, '.', '_' and '-', joined by '/', like acme/content"
            )
    return path


def is_template(path: str) -> bool:
    return path.rpartition("/")[2] == _ANY


def template_of(path: str) -> str:
    """The template that would stand for this budget path."""
    above, slash, _ = path.rpartition("/")
    return f"{above}{slash}{_ANY}"


def check_budget_table(path: str) -> str:
    """The path or template itself. Raises ValueError with the reason when a configuration cannot name it."""
    if is_template(path):
        return template_of(check_budget_path(f"{path[:-1]}any"))
    return check_budget_path(path)


def budget_ancestors(path: str) -> tuple[str, ...]:
    """The path and its ancestors, nearest first."""
    parts = path.split("/")
    return tuple("/".join(parts[:n]) for n in range(len(parts), 0, -1))


def is_within(path: str, budget: str) -> bool:
    """Whether the path is that budget or one below it, so that what it is charged is charged to that budget too."""
    return budget in budget_ancestors(path)


def budgets_charged(budgets: Iterable[str]) -> tuple[str, ...]:
    """The budgets that a call counts for: those that it names, each with its ancestors after it, and each once."""
    return tuple(dict.fromkeys(path for budget in budgets for path in budget_ancestors(budget)))


def budgets_named(charged: Collection[str]) -> tuple[str, ...]:
    """The shortest list of budgets by which these are charged, in their order: those that have no other one below."""
    ancestors = {path for budget in charged for path in budget_ancestors(budget)[1:]}
    return tuple(budget for budget in charged if budget not in ancestors)


def accounts_charged(budgets: Iterable[str], service: str, run: str | None = None) -> tuple[str, ...]:
    """The accounts that a call to the service counts for, those that do not exist included: the service's, then those
    of its run and what that is a part of, then those of its budgets and their ancestors, each nearest first.
    `storage/charging` is this rule in SQL."""
    runs = () if run is None else run_ancestors(run)
    return (
        f"service:{service}",
        *(f"run:{path}" for path in runs),
        *(f"budget:{path}" for path in budgets_charged(budgets)),
    )
