"""How long searches look: as long as their tests say, or a part of that where tests marked `full` are left out."""

from hypothesis import settings

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
