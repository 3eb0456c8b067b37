"""Between the budget workflow, its next run and the activity that reads what was spent."""

from typing import Annotated

from pydantic import (
    TypeAdapter,
)

from paymaster.messages.base import Message, added
from paymaster.messages.config import CarriedConfig
from paymaster.messages.notices import CapChange
from paymaster.messages.packing import packs
from paymaster.messages.status import AccountStatus, CopiedCall, DeskStatus
from paymaster.values.limits import CARRIED_BYTES_MAX, CONFIG_PLAIN_BYTES_MAX, COPY_PLAIN_BYTES_MAX
from paymaster.values.windows import Window


class LedgerStart(Message):
    """Input of the budget workflow."""

    ledger: str
    config: CarriedConfig
    """Of a new ledger. With a state only its digest: the state has the configuration in it."""
    state: str | None = None
    """A dump of the desk, carried by continue-as-new. None: an empty desk."""
    who: str = added("")
    """Who brings the configuration."""
    rules: int = added(1, ge=1)
    """By which an empty desk decides; a dump has its own."""
    senders: int = added(0, ge=0)
    """How many processes sent updates lately to the run before."""
    next_turn_at_ms: int = added(0)
    """The time of the last of them that has one. 0: nobody has."""
    spacing_ms: float = added(0.0, ge=0)
    """How far apart they came. 0: not known."""


_PACKS_HOLDS = packs(TypeAdapter(tuple[str, ...]), plain_bytes_max=CONFIG_PLAIN_BYTES_MAX, bytes_max=CARRIED_BYTES_MAX)
_PACKS_CHANGES = packs(
    TypeAdapter(tuple[CapChange, ...]), plain_bytes_max=CONFIG_PLAIN_BYTES_MAX, bytes_max=CARRIED_BYTES_MAX
)


_PACKS_ACCOUNTS = packs(
    TypeAdapter(tuple[AccountStatus, ...]), plain_bytes_max=COPY_PLAIN_BYTES_MAX, bytes_max=CARRIED_BYTES_MAX
)


_PACKS_CALLS = packs(
    TypeAdapter(tuple[CopiedCall, ...]), plain_bytes_max=COPY_PLAIN_BYTES_MAX, bytes_max=CARRIED_BYTES_MAX
)


class StatusCopy(Message):
    """Input of the activity `store_status`: how the ledger stands, and those accounts and parked calls that changed."""

    version: int
    """They count from 1."""
    anew: bool
    """It is the first of these books: whatever was copied before is theirs no more."""
    status: DeskStatus
    """Without accounts."""
    accounts: Annotated[tuple[AccountStatus, ...], *_PACKS_ACCOUNTS]
    """Those that changed since the copy before it, or as many of them as fit."""
    gone: tuple[str, ...]
    """Accounts that are not in the books any more."""
    calls: Annotated[tuple[CopiedCall, ...], *_PACKS_CALLS] = added(())
    """Parked calls that changed since the copy before it, or as many of them as fit."""
    calls_gone: tuple[str, ...] = added(())
    """The hold ids of calls that wait no more."""
    calls_from: int = added(0)
    """All calls that wait were copied in this version or later; those of earlier copies wait no more. 0: nothing is
    said of them."""


PURCHASES = "purchases"
"""Stands where the account of a service does, of what is bought."""


class LoadSpend(Message):
    """Input of the activity `load_spend`."""

    number: int
    ledger: str
    accounts: tuple[str, ...]
    known_holds: Annotated[tuple[str, ...], *_PACKS_HOLDS]
    """Holds that the desk counts itself: their entries are left out."""
    with_cap_changes: bool
    """The ledger began without a state: it needs to know too what admins changed before."""
    window_starts_ms: dict[Window, int]
    latest_ms: int | None = added(None)
    """Rows granted after this time are of a clock that was ahead. None: they count as they say."""
    returned_at_ms: int | None = added(None)
    """When that clock was put back; those rows count as granted then. None: now."""
    rolling_starts_ms: dict[Window, int] = added({})
    """When the rolling windows began that any of the accounts has."""
    by_account: bool = added(False)
    """The accounts are few of many, and each is looked up by itself."""
    epoch: str = added("")
    """The books that ask: cap changes and configurations of their own are left out."""
    calls_in: tuple[Window, ...] = added(())
    """The windows in which calls of runs are counted, besides those of all time."""


class LoadedSpend(Message):
    number: int
    """Of the LoadSpend that this answers."""
    posted_nanos: dict[str, dict[Window, int]]
    """By account and window; what is missing is zero."""
    steps_nanos: dict[str, dict[Window, dict[int, int]]] = added({})
    """By account and rolling window, what was spent in each step; what is missing is zero."""
    runs: dict[str, tuple[int, int]] = added({})
    """By account of a run, how many calls of it have stored entries, and when the first of them was granted."""
    run_calls: dict[str, dict[Window, int]] = added({})
    """By account of a run and window, how many calls of it have entries there; what is missing is zero."""
    unconfirmed: dict[str, tuple[int, int]] = added({})
    """By account, how many unconfirmed entries are in the total, and their sum in nano-dollars. As `PURCHASES`, where
    accounts of services were asked for, those of purchases, which have no such account."""
    cap_changes: Annotated[tuple[CapChange, ...], *_PACKS_CHANGES] = ()
    """In the order in which they were made."""
    config: CarriedConfig | None = added(None)
    """The configuration that was last in force. None: none is stored."""
    superseded: tuple[str, ...] = added(())
    """The digests of earlier files that do not come back by themselves."""
    other_ledgers: tuple[str, ...] = added(())
    """Where nothing at all is stored of this ledger: of which ledgers something is."""
