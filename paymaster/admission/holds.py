"""A hold: money that is set aside for one call until it is known what it did cost; and what is remembered of an end."""

from dataclasses import dataclass
from typing import Literal

from paymaster.messages import CallRef, Denied, Grant


@dataclass(slots=True)
class Hold:
    call: CallRef
    grant: Grant
    accounts: tuple[str, ...]
    """What it was charged to, even if the configuration names other accounts later."""
    tokens: int = 0
    """The estimate that its rate limits were charged with."""
    state: Literal["pending", "unconfirmed"] = "pending"
    posted_nanos: int = 0
    """When unconfirmed: at what it is posted until somebody knows better."""
    expired: bool = False
    running: bool = True
    """It has a place among the calls at once, as no purchase has; an expired hold keeps it until it is settled."""
    is_first: bool = True
    """Its call had no grant before."""
    failures_told: int = 0
    """Failed attempts that the breaker knows of."""

    @property
    def is_of_service(self) -> bool:
        """What is bought is of none."""
        return any(key.startswith("service:") for key in self.accounts)


@dataclass(slots=True)
class EndedHold:
    at_ms: int
    posted: bool = False
    denied: Denied | None = None
    presumed: bool = False
    """Its call was gone when its grant came. If that came for the second time, the call may have used it."""
