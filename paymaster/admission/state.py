"""The desk's state: everything that the desk knows, and the text that continue-as-new carries it as."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import PlainSerializer, TypeAdapter
from pydantic.main import IncEx
from pydantic_core import from_json, to_json

from paymaster.admission.account_rows import account_rows, accounts_of
from paymaster.admission.accounts import Balance
from paymaster.admission.answers import CommandAnswer
from paymaster.admission.books import LedgerState
from paymaster.admission.breaker import Gate
from paymaster.admission.clock import Clock
from paymaster.admission.earlier_ends import EarlierEnds
from paymaster.admission.ended_columns import ended_columns, ended_of
from paymaster.admission.first_fit import FIRST, Place
from paymaster.admission.hold_columns import hold_columns, holds_of
from paymaster.admission.holds import EndedHold
from paymaster.admission.outbox import OutboxState
from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.parked_columns import parked_calls, parked_columns
from paymaster.messages import CapChange, DeskConfig, Window
from paymaster.values.limits import STATE_JSON_BYTES_MAX
from paymaster.values.packed import pack, unpack
from paymaster.values.windows import WINDOWS, WINDOWS_OF_RULES_1, window_start_ms

RULES = 2
"""The newest rules: the form of the state, what the desk decides, and the commands that the ledger gives to Temporal.

1: those of 0.1.0. Its workers may take over a run in the middle, or go on with its state: under these rules the state
has no form and no word that 0.1.0 cannot read (fields that it does not know are ignored), and the same commands get the
same decisions and the same numbers in the outbox as from 0.1.0's desk (tests/unit/admission/test_old_desk.py).
2: those of 0.2. Jumps of the clock are doubted, the time may go back, and what is loaded never lowers the books;
the answers to admins' commands are remembered; parked calls are served by indexes (paymaster/admission/waits.py).

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
class Loading:
    """Accounts whose earlier spending is being read. The holds that are here at its start are counted by the desk."""

    number: int
    accounts: tuple[str, ...]
    known_holds: tuple[str, ...]
    window_starts_ms: dict[Window, int]
    latest_ms: int | None = None
    """Rows that were granted later are of a clock that was ahead. None: of a question that did not ask for it."""


@dataclass(slots=True)
class Approved:
    """A raise that an approver gave."""

    by: str
    where: str
    nanos: int
    at_ms: int
    window_ends_at_ms: int


@dataclass(slots=True)
class DeskState:
    """Everything that the desk knows; what continue-as-new carries."""

    ledger: str
    epoch: str
    rules: int = RULES
    now_ms: int = 0
    config: DeskConfig = field(default_factory=lambda: DeskConfig(digest=""))
    config_by: str = ""
    """Who brought the configuration."""
    config_kept: bool = False
    """The configuration in force has budgets, services or caps that the file with its digest lacks."""
    superseded: list[str] = field(default_factory=list[str])
    books: LedgerState = field(default_factory=LedgerState)
    gates: dict[str, Gate] = field(default_factory=dict[str, Gate])
    parked: dict[str, ParkedCall] = field(default_factory=dict[str, ParkedCall])
    ended: dict[str, EndedHold] = field(default_factory=dict[str, EndedHold])
    """The latest; under rules 1 all."""
    earlier_ends: EarlierEnds = field(default_factory=EarlierEnds)
    """The others that are remembered."""
    forgotten_until_ms: int = 0
    """Ends of holds before this time are no longer remembered."""
    freed: Annotated[set[str], PlainSerializer(sorted)] = field(default_factory=set[str])
    """Accounts in which something changed since the parked calls were looked at."""
    look_from: Place | None = None
    """From this place on all parked calls are still to be looked at, whatever they wait for. None: nobody is."""
    loading: Loading | None = None
    began: bool = False
    """What earlier epochs left behind was loaded."""
    recalls: bool = False
    """Calls that were parked in a ledger which is lost have yet to be told to ask again. Under rules 1 the first run
    tells them, and no later one."""
    early: list[CapChange] = field(default_factory=list[CapChange])
    """Changes of caps from before that, to be made again after those of earlier epochs."""
    prices: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """By `service/model`, the rates of the last grant (price_changes), to notice when they change."""
    outbox: OutboxState = field(default_factory=OutboxState)
    refused_messages: list[str] = field(default_factory=list[str])
    refused_this_minute: int = 0
    ended_runs: dict[str, int] = field(default_factory=dict[str, int])
    """Runs that admins ended and that have no account, and when they were used last, in minutes since 1970."""
    used_signatures: dict[str, int] = field(default_factory=dict[str, int])
    """When they expire. Each is good for one command; after that time it is refused without this, unless the clock
    goes back: so the latest are kept for longer."""
    clock: Clock = field(default_factory=Clock)
    latest_granted_ms: int = 0
    """When the newest grant was made. A stored row that is newer shows that this state was put back. 0: not known."""
    full: bool = False
    """The state was too large when it was measured last: no further calls are taken in."""
    ended_dropped: int = 0
    """Ends of holds that were forgotten early because the state was too large."""
    settled_late: bool = False
    """A hold that is not here any more was settled: what is loaded next may be less, by what is not unconfirmed any
    more."""
    rows_of_pending: bool = False
    """The next loading counts stored rows of pending holds too: they are of attempts before the state was put back."""
    answers: dict[str, CommandAnswer] = field(default_factory=dict[str, CommandAnswer])
    """What the latest commands of admins got, by command id."""
    approved: dict[str, Approved] = field(default_factory=dict[str, Approved])
    """Raises that approvers gave, by what each was given with (Approval.nonce), until their window and day are over."""
    version: int = 0
    """Of the last copy of the status. 0: there was none of these books."""

    def __post_init__(self) -> None:
        if self.rules == 1:
            starts = self.books.window_starts_ms
            self.books.window_starts_ms = {window: starts[window] for window in WINDOWS_OF_RULES_1 if window in starts}

    def end_of(self, hold_id: str) -> EndedHold | None:
        """What is remembered of the end of this hold."""
        return self.ended.get(hold_id) or self.earlier_ends.get(hold_id)


_STATE = TypeAdapter(DeskState)
_OUTBOX = TypeAdapter(OutboxState)
_NOT_IN_RULES_1: IncEx = {"version": True, "earlier_ends": True, "books": {"changed", "all_changed"}}
_IN_PARTS: IncEx = {"outbox": True, "parked": True, "ended": True, "earlier_ends": True, "books": {"accounts", "holds"}}
"""What is written in a form of its own."""


def read(dumped: str) -> tuple[DeskState, int]:
    """The state, and how many bytes it had before it was compressed.

    Raises NewerState before anything else is read, NotPacked for text that is no dump.
    """
    rules, dumped = _rules_of(dumped)
    check_rules(rules)
    packed, *earlier_ends = dumped.split("\n")
    plain = unpack(packed, STATE_JSON_BYTES_MAX)
    state = _read(plain, rules)
    state.rules, state.earlier_ends = rules, EarlierEnds.of(earlier_ends)
    return upgrade(state), len(plain)


def written(state: DeskState) -> tuple[str, int]:
    """Compressed, and how many bytes it had before.

    Under rules 1 as 0.1.0 reads it; newer rules are told in front of a form that takes half as much, and a third of the
    time to read.
    """
    if state.rules == 1:
        plain = _STATE.dump_json(state, exclude=_NOT_IN_RULES_1)
        return pack(plain), len(plain)
    # Defaults are left out, so none may ever change; the outbox's messages are told apart by theirs.
    outbox = _OUTBOX.dump_json(state.outbox)
    rest = _STATE.dump_json(state, exclude_defaults=True, exclude=_IN_PARTS)
    parts = {
        b"rest": rest,
        b"outbox": outbox,
        b"windows": to_json(WINDOWS),
        b"accounts": to_json(account_rows(state.books.accounts, state.config)),
        b"parked": to_json(parked_columns(state.parked)),
        b"holds": to_json(hold_columns(state.books.holds)),
        b"ended": to_json(ended_columns(state.ended)),
    }
    plain = b"{%b}" % b",".join(b'"%b":%b' % part for part in parts.items())
    lines = (f"{_RULES_ARE}{state.rules}", pack(plain, _LEVEL), *state.earlier_ends.lines())
    return "\n".join(lines), len(plain)


def _read(data: bytes, rules: int) -> DeskState:
    if rules == 1:
        return _STATE.validate_json(data)
    document = from_json(data)
    state = _STATE.validate_python(document["rest"])
    state.outbox = _OUTBOX.validate_python(document["outbox"])
    windows: Sequence[Window] = document.get("windows") or _WINDOWS_BEFORE_THEY_WERE_NAMED
    state.books.accounts = accounts_of(document["accounts"], state.config, windows)
    state.parked = parked_calls(document["parked"])
    if "holds" in document:  # before they were columns they were in the rest
        state.books.holds = holds_of(document["holds"])
        state.ended = ended_of(document["ended"])
    return state


_WINDOWS_BEFORE_THEY_WERE_NAMED: tuple[Window, ...] = ("minute", "hour", "day", "month", "total")
_LEVEL = 5
"""Of zlib: for 10,000 budgets and as many parked calls 6 takes half as long again (117 ms for 77) and saves 0.7 %, 4
takes 64 ms and 2.3 % more."""
_RULES_ARE = "rules "
"""Read as base64 it does not begin like compressed data: 0.1.0 fails on it instead of reading half of a state."""


def _rules_of(dumped: str) -> tuple[int, str]:
    if not dumped.startswith(_RULES_ARE):
        return 1, dumped
    rules, _, rest = dumped.removeprefix(_RULES_ARE).partition("\n")
    return int(rules), rest


def upgrade(state: DeskState) -> DeskState:
    """Fills in what an older version's state does not say and no default can."""
    if state.rules >= 2:
        if any(not call.waits for call in state.parked.values()):
            state.look_from = FIRST
        begin_new_windows(state)
    return state


def begin_new_windows(state: DeskState) -> None:
    """What was spent in a window that the state does not know is read from the database, and until then nothing is
    granted: a balance of zero would be a promise that nobody can keep.

    A run that began without the window must replay as it was, and asked the database nothing: a window begins with the
    run that follows the rules which brought it.
    """
    starts = state.books.window_starts_ms
    if starts.keys() >= set(WINDOWS):
        return
    known = starts.copy()
    starts.clear()
    for window in WINDOWS:
        starts[window] = known[window] if window in known else window_start_ms(window, state.now_ms)
    for key, account in state.books.accounts.items():
        balances = account.balances
        rolling = account.rolling()
        account.balances = {
            window: balances[window] if window in balances else Balance(key, window) for window in WINDOWS
        }
        account.balances |= {each.window: each for each in rolling}
        account.loading = True
    state.loading = None  # its question lacks the new windows
