"""The copy of the ledger's status in the database: what goes into the next one, and how a copied account is read later.

Whoever shows standing reads the copy, so that no page queries the ledger. Only the accounts that changed are copied.
"""

from itertools import islice
from typing import TypeVar

from pydantic import BaseModel

from paymaster.admission.accounts import Balance
from paymaster.admission.books import Ledger
from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.parking import Parking
from paymaster.admission.state import DeskState
from paymaster.admission.state_size import StateSize
from paymaster.admission.status import account_status, desk_status, renewed, waiting_call
from paymaster.admission.tags import account_tag, service_tag
from paymaster.messages import (
    AccountStatus,
    CapState,
    DeskStatus,
    LimitStatus,
    RunState,
    ServiceState,
    StatusCopy,
    WindowStatus,
)
from paymaster.messages.status import CopiedCall, ShortOf
from paymaster.values.time_zones import Zone
from paymaster.values.windows import STEPS_MS, window_end_ms, window_start_ms

ACCOUNTS_AT_ONCE = 500
"""In one copy: they take about 100 KB, a tenth of it compressed, and some 10 ms of the ledger's time."""

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class StatusCopies:
    def __init__(self, state: DeskState, ledger: Ledger, parking: Parking, size: StateSize) -> None:
        self._state, self._ledger, self._parking, self._size = state, ledger, parking, size

    @property
    def is_due(self) -> bool:
        """Whether anything changed since the last copy was taken."""
        return bool(self._state.books.changed) or self._is_anew or bool(self._parking.queue.changed)

    @property
    def _is_anew(self) -> bool:
        """Whether the next copy takes the place of all that was copied before."""
        return self._state.version == 0 or self._state.books.all_changed

    def take(self, now_ms: int) -> StatusCopy:
        """The next copy. What it has counts as copied, until `again` says that it did not arrive."""
        state, ledger, changed = self._state, self._ledger, self._state.books.changed
        if anew := self._is_anew:
            changed.clear()
            changed.update(dict.fromkeys(ledger.accounts))
            state.books.all_changed = False
        keys = list(islice(changed, ACCOUNTS_AT_ONCE))
        for key in keys:
            del changed[key]
        state.version += 1
        now_ms = max(state.now_ms, now_ms)
        ended, queue = ledger.calendars.ended(now_ms), self._parking.queue
        statuses = [
            account_status(ledger, queue, account, now_ms, ended)
            for key in keys
            if (account := ledger.accounts.get(key)) is not None
        ]
        calls, calls_from = queue.changed.take((call.reserve.hold_id for call in queue), state.version)
        waiting = [(key, queue.get(key)) for key in calls]
        return StatusCopy(
            version=state.version,
            anew=anew,
            status=self._whole(now_ms),
            accounts=tuple(map(self._for_later, statuses)),
            gone=tuple(key for key in keys if key not in ledger.accounts),
            calls=tuple(self._copied_call(call) for _, call in waiting if call is not None),
            calls_gone=tuple(key for key, call in waiting if call is None),
            calls_from=calls_from,
        )

    def again(self, copy: StatusCopy) -> None:
        """A copy did not arrive, or nobody knows: what it had comes first in the next one."""
        self._parking.queue.changed.again()
        books = self._state.books
        if copy.anew:
            books.mark_all()
        later = list(books.changed)
        books.changed.clear()
        books.mark([*(each.account for each in copy.accounts), *copy.gone, *later])

    def told(self, answer: AnswerT) -> AnswerT:
        """The answer to an admin, with the version of the copy that has all that changed so far."""
        if self._state.rules < 2 or not isinstance(answer, CapState | RunState | ServiceState):
            return answer
        changed = self._ledger.accounts if self._is_anew else self._state.books.changed
        copies = max(1, -(-len(changed) // ACCOUNTS_AT_ONCE))
        return answer.model_copy(update={"version": self._state.version + copies})

    def _copied_call(self, call: ParkedCall) -> CopiedCall:
        bound_nanos, short_of = self._parking.short_of(call)
        return CopiedCall(
            hold_id=call.reserve.hold_id,
            priority=call.reserve.priority,
            sequence=call.sequence,
            call=waiting_call(call),
            bound_nanos=bound_nanos,
            short_of=tuple(ShortOf(account=account, window=window) for account, window in short_of),
        )

    def _for_later(self, status: AccountStatus) -> AccountStatus:
        """With its tag, and with what changes by itself: the steps of rolling windows."""
        balances = self._ledger.accounts[status.account].balances
        windows = tuple(_window_for_later(each, balances[each.window]) for each in status.windows)
        tag = account_tag(self._ledger, status.account)
        return status.model_copy(update={"windows": windows, "tag": tag})

    def _whole(self, now_ms: int) -> DeskStatus:
        """Without accounts."""
        state = self._state
        status = desk_status(state, self._ledger, self._parking.queue, None, now_ms, self._size.about())
        services = [each.model_copy(update={"tag": service_tag(state, each.service)}) for each in status.services]
        return status.model_copy(update={"services": tuple(services)})


def _window_for_later(status: WindowStatus, balance: Balance) -> WindowStatus:
    if balance.steps is not None:
        return status.model_copy(update={"steps_nanos": balance.steps.copy()})
    return status


def as_of(copied: AccountStatus, copied_at_ms: int, now_ms: int, zone: Zone) -> AccountStatus:
    """How a copied account stands at this time, if nothing happened there since.

    Windows end by themselves, raises lapse with them, and rate limits drain. `zone` is the account's.
    """
    windows = tuple(_window_as_of(each, now_ms, zone) for each in copied.windows)
    limits = tuple(_limit_as_of(each, now_ms - copied_at_ms) for each in copied.limits)
    run = None if copied.run is None else renewed(copied.run, windows, now_ms)
    return copied.model_copy(update={"windows": windows, "limits": limits, "run": run})


def _window_as_of(copied: WindowStatus, now_ms: int, zone: Zone) -> WindowStatus:
    if copied.ends_at_ms is None or now_ms < copied.ends_at_ms:
        return copied
    start_ms = window_start_ms(copied.window, now_ms, zone)
    changed: dict[str, object] = {"began_at_ms": start_ms, "ends_at_ms": window_end_ms(copied.window, now_ms, zone)}
    if copied.window in STEPS_MS:
        posted = sum(nanos for step, nanos in copied.steps_nanos.items() if step >= start_ms)
        return copied.model_copy(update=changed | {"posted_nanos": posted})
    cap_nanos = None if copied.cap_nanos is None else copied.cap_nanos - copied.lapsing_nanos
    nothing = dict.fromkeys(("posted_nanos", "pending_nanos", "missing_nanos", "let_through", "lapsing_nanos"), 0)
    return copied.model_copy(update=changed | nothing | {"cap_nanos": cap_nanos})


def _limit_as_of(copied: LimitStatus, later_ms: int) -> LimitStatus:
    """Nine tenths of the limit drain in a minute, in paymaster/admission/limiter.py."""
    if copied.what == "max_concurrent":
        return copied
    drained = max(0, later_ms) * 9 * copied.limit // 600_000
    return copied.model_copy(update={"used": max(0, copied.used - drained)})
