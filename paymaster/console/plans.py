"""An action of the console with all that it needs, before anybody has confirmed it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from paymaster.console.pages import BASE
from paymaster.gateway.admin.asked import Said
from paymaster.gateway.admin.problems import Problem
from paymaster.values.money import usd_to_nanos

Fields = Mapping[str, str]
"""Of a form; one that was left out is empty."""


@dataclass(frozen=True)
class Confirmed:
    """What somebody confirmed an action with."""

    said: Said
    once: str
    """Of the form, however often it is sent: a raise by it is one raise."""
    by_approval: bool = False
    """In the name of an approver of [approvals], within the limits that the ledger counts."""


@dataclass(frozen=True)
class Plan:
    says: str
    """What will be so."""
    done: str
    """What is so afterwards, also where the form was sent before: the plan is made anew of what is so by then."""
    command: tuple[str, ...]
    """What does it on the command line, without the reason."""
    send: Callable[[Confirmed], Awaitable[object]]
    back: str
    """The page that shows what became of it."""
    tag: str | None = None
    """Of what it is about, as it stands now."""
    undo: str | None = None
    """The address at which it is taken back."""
    warns: str = ""
    lapses: bool | None = None
    """Whether a raise of a cap ends with its window. None: it is no such raise."""
    is_hard: bool = False
    """It cannot be taken back."""


def action_address(name: str, **fields: str) -> str:
    return f"{BASE}/do/{name}?{urlencode(fields)}"


def amount(text: str) -> int:
    """Raises Problem."""
    try:
        nanos = usd_to_nanos(text.strip().removeprefix("$"))
    except ValueError as error:
        raise Problem(400, "bad_request", str(error)) from None
    if nanos < 0:
        raise Problem(400, "bad_request", f"{text} is less than nothing")
    return nanos


def number(text: str, what: str) -> int:
    """0 for an empty text. Raises Problem."""
    if not text.strip():
        return 0
    if not (text.strip().isascii() and text.strip().isdigit() and len(text.strip()) < 10):
        raise Problem(400, "bad_request", f"{text!r} is no number of {what}")
    return int(text)
