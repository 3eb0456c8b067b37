"""What the administration takes, as JSON. Money is US dollars as exact text."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from paymaster.gateway.admin.documents import Document
from paymaster.messages import Signature, Window
from paymaster.settings.kinds import BudgetPath
from paymaster.values.money import usd_to_nanos


def _check_amount(text: str) -> str:
    usd_to_nanos(text)
    return text


Amount = Annotated[str, Field(max_length=100, examples=["12.50"]), AfterValidator(_check_amount)]


Route = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
_YEAR_9999 = datetime(9999, 1, 1, tzinfo=UTC)
"""PostgreSQL has no later times, in whatever zone they are written."""


class Wanted(Document):
    reason: Annotated[str, Field(max_length=1_000)] = ""
    """Kept with the change."""
    who: Annotated[str, Field(max_length=200)] = ""
    """Of a signed command: what its signer wrote there. Without a signature it is the admin's name."""
    signature: Signature | None = None
    """Needed where `[admin] require_signature` is set; docs/security.md."""


class CapWanted(Wanted):
    usd: Amount | None
    """Null: what admins made of it is taken back, and the configuration's value is in force."""


class RaiseWanted(Wanted):
    budget: BudgetPath | None = None
    service: Annotated[str, Field(max_length=200)] | None = None
    window: Window | None = None
    """Of a budget or a service."""
    run: Annotated[str, Field(max_length=1_000)] | None = None
    by_usd: Amount | None = None
    until_window_end: bool = False
    calls: Annotated[int, Field(ge=0)] = 0
    """Of a run: so many calls more."""
    lasts_s: Annotated[int, Field(ge=0)] = 0
    """Of a run: so many seconds longer."""


class ServiceWanted(Wanted):
    paused: bool


class RunWanted(Wanted):
    ended: Literal[True] | None = None
    """It is ended: no further call of it begins."""
    held: Literal[False] | None = None
    """It goes on, which is held as a runaway."""


class ResolveWanted(Document):
    cost_usd: Amount
    """What the provider billed."""
    force: bool = False
    """Also more than the attempt can have cost."""
    reason: Annotated[str, Field(max_length=1_000)] = ""
    """Kept with a correction of what was resolved before."""


class PricesWanted(Document):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the list as `/prices/newer` had it: another one is not brought."""
    accept_falls: bool = False
    """Also where a price falls to zero or by a large part."""
    reason: Annotated[str, Field(max_length=1_000)] = ""


class ClientWanted(Document):
    budget: BudgetPath
    routes: Annotated[tuple[Route, ...], Field(max_length=1_000)] | None = None
    requests_at_once: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    expires_at: Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=_YEAR_9999)] | None = None
