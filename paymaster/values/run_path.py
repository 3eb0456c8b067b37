"""Paths of runs: `nightly@5f0c/researcher` is the part `researcher` of the run `nightly@5f0c`."""

import re
from functools import lru_cache

RUN_LENGTH_MAX = 200
LEVELS_MAX = 16
"""Segments of a path: each may have an account, which every call below it counts for."""
RUN_SEGMENT = "[A-Za-z0-9._:@-]+"
"""What a run's id is made of, and the name of a part, as a regular expression."""
_WORKFLOW_ID_LENGTH_MAX = 120
"""Of the id of a run that nobody named; with the id behind it there is room for the names of parts."""


@lru_cache(maxsize=10_000)
def check_run_path(path: str) -> str:
    """The path itself. Raises ValueError with the reason when it is not one that operators can read and type."""
    if len(path) > RUN_LENGTH_MAX:
        raise ValueError(f"a run's path has at most {RUN_LENGTH_MAX} characters, this one has {len(path)}")
    if (levels := path.count("/") + 1) > LEVELS_MAX:
        raise ValueError(f"a run's path has at most {LEVELS_MAX} levels, this one has {levels}")
    for segment in path.split("/"):
        check_run_segment(segment)
    return path


def check_run_segment(segment: str) -> str:
    """The id of a run, or the name of a part, itself. Raises ValueError with the reason when it is none."""
    if not re.fullmatch(RUN_SEGMENT, segment):
        raise ValueError(
            f"{segment!r} is neither a run's id nor the name of a part; write letters, digits, '.', '_', ':', '@' and "
            "'-', like pr-17"
        )
    return segment


def run_ancestors(path: str) -> tuple[str, ...]:
    """The path and what it is a part of, nearest first."""
    segments = path.split("/")
    return tuple("/".join(segments[:n]) for n in range(len(segments), 0, -1))


def run_id_of_root(workflow_id: str, first_run_id: str) -> str:
    """The id of a run that nobody named, by the workflow with which it began and the first run of that one's chain."""
    readable = re.sub("[^A-Za-z0-9._:@-]", "_", workflow_id[:_WORKFLOW_ID_LENGTH_MAX])
    return f"{readable}@{first_run_id}"
