"""What a client of the gateway may do, and how somebody who is none is told. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from paymaster.values.budget_path import check_budget_path, is_within


@dataclass(frozen=True)
class ClientTerms:
    """What a client may do."""

    name: str
    budget: str
    """What it is charged to, or a budget below it."""
    routes: frozenset[str] | None = None
    """The routes, and `service/model`, that it may ask for. None: all."""
    expires_at: datetime | None = None
    requests_at_once: int | None = None
    """None: the gateway's."""
    run: str | None = None
    """The run that all its requests count for. None: they may name one."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Stored with every attempt."""


class NotAClient(Exception):
    """Whoever asks is not let in, or nobody can tell: the status is 401, 403 or 503. No message has the key."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail


def budget_below(own: str, named: str) -> str:
    """The budget that a request names, which is the client's own or one below it.

    Raises ValueError for what is no budget path, and NotAClient for another budget.
    """
    if not is_within(check_budget_path(named), own):
        raise NotAClient(403, "not_allowed", f"name the budget {own} or one below it, and not {named}")
    return named
