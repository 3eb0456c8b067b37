"""Ids of tool calls to which their service gave none, so that the results can say to which call they belong."""

import re

MADE = "call-"
"""What an id begins with that we gave; a number follows."""
NOT_MADE = re.compile(r"(?!call-[0-9]+$).+")
"""An id that a service gave."""


def made_id(number: int) -> str:
    """For the call of this number in an answer without ids."""
    return f"{MADE}{number}"


def is_made(call_id: str) -> bool:
    """Whether no service gave the id."""
    return NOT_MADE.fullmatch(call_id) is None
