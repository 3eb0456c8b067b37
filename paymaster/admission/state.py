"""The desk's state: everything that the desk knows, and the text that continue-as-new carries it as."""

import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import PlainSerializer, TypeAdapter

from paymaster.admission.answers import CommandAnswer
from paymaster.admission.breaker import Gate
from paymaster.admission.clock import Clock
from paymaster.admission.ledger import LedgerState
from paymaster.admission.outbox import OutboxState
from paymaster.admission.queue import ParkedCall
from paymaster.messages import Denied, DeskConfig, Window

RULES = 2
"""The newest rules: the form of the state, what the desk decides, and the commands that the ledger gives to Temporal.

1: those of 0.1.0. Its workers may take over a run in the middle, or go on with its state: under these rules the state
has no form and no word that 0.1.0 cannot read (fields that it does not know are ignored), and the same commands get the
same decisions and the same numbers in the outbox as from 0.1.0's desk (tests/admission/test_old_desk.py).
2: those of 0.2. Jumps of the clock are doubted, the time may go back, and what is loaded never lowers the books.

`paymaster upgrade` moves a ledger to newer rules when no older worker runs any more; a new ledger begins with them.

A run keeps the rules that it began with. What differs asks `state.rules`; rules that no running ledger uses any more
are removed from the code.
"""


class NewerState(Exception):
    """A ledger that goes by rules which this version does not know. Nothing of it was read or changed."""

    def __init__(self, rules: int) -> None:
        super().__init__(
            f"this ledger goes by rules {rules}, which a newer version of Paymaster brought; this version knows rules "
            f"up to {RULES} and leaves it alone: update this worker"
        )


def check_rules(rules: int) -> None:
    """Raises NewerState for rules that this version does not know."""
    if rules > RULES:
        raise NewerState(rules)


@dataclass(slots=True)
class EndedHold:
    at_ms: int
    posted: bool = False
    denied: Denied | None = None


@dataclass(slots=True)
class Loading:
    """Accounts whose earlier spending is being read. The holds that are here at its start are counted by the desk."""

    number: int
    accounts: tuple[str, ...]
    known_holds: tuple[str, ...]
    window_starts_ms: dict[Window, int]
    latest_ms: int | None = None
    """Rows that were granted later are of a clock that was ahead. None: of a question that did not ask for it."""


@dataclass(slots=True)
class DeskState:
    """Everything that the desk knows; what continue-as-new carries."""

    ledger: str
    epoch: str
    rules: int = RULES
    now_ms: int = 0
    config: DeskConfig = field(default_factory=lambda: DeskConfig(digest=""))
    superseded: list[str] = field(default_factory=list[str])
    books: LedgerState = field(default_factory=LedgerState)
    gates: dict[str, Gate] = field(default_factory=dict[str, Gate])
    parked: dict[str, ParkedCall] = field(default_factory=dict[str, ParkedCall])
    ended: dict[str, EndedHold] = field(default_factory=dict[str, EndedHold])
    forgotten_until_ms: int = 0
    """Ends of holds before this time are no longer remembered."""
    freed: Annotated[set[str], PlainSerializer(sorted)] = field(default_factory=set[str])
    """Accounts in which something was freed since the parked calls were looked at."""
    loading: Loading | None = None
    began: bool = False
    """What earlier epochs left behind was loaded."""
    outbox: OutboxState = field(default_factory=OutboxState)
    refused_messages: list[str] = field(default_factory=list[str])
    refused_this_minute: int = 0
    used_signatures: dict[str, int] = field(default_factory=dict[str, int])
    """When they expire. Each is good for one command; after that time it is refused without this, unless the clock
    goes back: so the latest are kept for longer."""
    clock: Clock = field(default_factory=Clock)
    latest_granted_ms: int = 0
    """When the newest grant was made. A stored row that is newer shows that this state was put back. 0: not known."""
    rows_of_pending: bool = False
    """The next loading counts stored rows of pending holds too: they are of attempts before the state was put back."""
    answers: dict[str, CommandAnswer] = field(default_factory=dict[str, CommandAnswer])
    """What the latest commands of admins got, by command id."""


_STATE = TypeAdapter(DeskState)


def load(dumped: str) -> DeskState:
    """Raises NewerState before anything else is read."""
    rules, dumped = _rules_of(dumped)
    check_rules(rules)
    state = upgrade(_STATE.validate_json(zlib.decompress(b64decode(dumped))))
    state.rules = rules
    return state


def dump(state: DeskState) -> str:
    """Compressed: 10,000 budgets fit into a Temporal payload (2 MiB) only so. Newer rules than 1 are told in front."""
    dumped = b64encode(zlib.compress(_STATE.dump_json(state))).decode()
    return dumped if state.rules == 1 else f"{_RULES_ARE}{state.rules}\n{dumped}"


_RULES_ARE = "rules "
"""Read as base64 it does not begin like compressed data: 0.1.0 fails on it instead of reading half of a state."""


def _rules_of(dumped: str) -> tuple[int, str]:
    if not dumped.startswith(_RULES_ARE):
        return 1, dumped
    rules, _, rest = dumped.removeprefix(_RULES_ARE).partition("\n")
    return int(rules), rest


def upgrade(state: DeskState) -> DeskState:
    """Fills in what an older version's state does not say and no default can."""
    return state
