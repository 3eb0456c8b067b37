"""How long searches look: as long as their tests say, or a part of that where tests marked `full` are left out."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

_PART, _LEAST = 5, 20
_shortened = False
# A machine that is busy makes any example slow; what must be quick has a test of its own (project/test_linear_time.py).
settings.register_profile("whole", deadline=None)
settings.load_profile("whole")


def shorten() -> None:
    """For the whole session, before any module of tests is imported.

    With the same examples each time: to search for new ones is the longer form's.
    """
    global _shortened
    _shortened = True
    settings.register_profile("short", max_examples=_LEAST, deadline=None, derandomize=True, database=None)
    settings.load_profile("short")


def examples(whole: int) -> int:
    """How many of these examples a search looks at. Of an ordinary one, hypothesis's profile says it."""
    return min(whole, max(whole // _PART, _LEAST)) if _shortened else whole


@contextmanager
def alike_whatever_is_imported() -> Generator[None]:
    """Searches draw the same whichever modules the process has imported.

    Hypothesis tries constants that it reads in those of the project: with its neighbours a file is searched otherwise
    than alone.
    """
    providers.CONSTANTS_CACHE.cache.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, "_get_local_constants", Constants)
        yield
    providers.CONSTANTS_CACHE.cache.clear()
