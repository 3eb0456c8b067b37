"""The size of the state, estimated from what is in it, and what is dropped when it becomes too large.

The order, from what is missed least: ends of holds beyond those that outlast the minute, which accounts changed since
they were copied (all are copied anew), alerts that wait for the webhook (the database has them), alerts that wait for
the database, what runs have asked for once, remembered ends of holds; the oldest first. When that is not enough, new
calls are denied. Money is never dropped: balances, holds, parked calls and their answers, cap changes, expired holds.
"""

from collections.abc import Iterable
from typing import NamedTuple

from paymaster.admission.outbox import alert_bytes
from paymaster.admission.runs import Run
from paymaster.admission.state import DeskState
from paymaster.messages import Alert, DeskConfig, Notice
from paymaster.values.limits import REMEMBER_ENDED_MAX

# Bytes in the dump, compressed, measured in tests/unit/admission/test_pressure.py and rounded up.
_ACCOUNT, _BALANCE, _CAP = 12, 3, 5
_HOLD, _PARKED, _ENDED, _MESSAGE, _NOTICE, _KNOWN_HOLD, _SIGNATURE = 80, 100, 30, 250, 400, 35, 60
_APPROVED = 120
_DIGEST = 12
_CHANGED = 16
_ID_CHARACTERS = 40
"""A usual hold id has no more: a UUID and a number."""
_DETAIL_PART = 10
"""One of so many bytes of a sentence is left after compression, because sentences resemble each other."""


class Parts(NamedTuple):
    """What the state takes as a dump beside what is held and parked, about."""

    groups: int
    """Ends of holds that are in groups, exact."""
    ends: int
    """The other ends."""
    rest: int

    def growth_from(self, before: "Parts") -> int:
        """What can have come since. A part that became smaller hides nothing: it was estimated as more than it took."""
        return sum(max(0, now - then) for now, then in zip(self, before, strict=True))


def estimated_bytes(state: DeskState) -> int:
    """What the state takes as a dump, about; more rather than less."""
    return sum(parts_without_calls(state)) + _HOLD * len(state.books.holds) + _PARKED * len(state.parked)


def parts_without_calls(state: DeskState) -> Parts:
    """A few milliseconds for 10,000 accounts."""
    outbox, loading = state.outbox, state.loading
    waiting = [notice for notice in outbox.notices if isinstance(notice, Alert)]
    posted = sum(
        1 for account in state.books.accounts.values() for each in account.balances.values() if each.posted_nanos
    )
    rest = (
        _config_bytes(state.config)
        + _ACCOUNT * len(state.books.accounts)
        + _BALANCE * posted
        + _CHANGED * len(state.books.changed)
        + _DIGEST * sum(len(run.asked_for) for run in _runs(state))
        + _MESSAGE * len(outbox.messages)
        + _NOTICE * (len(outbox.notices) - len(waiting))
        + sum(map(alert_bytes, waiting))
        + sum(map(alert_bytes, outbox.sending))
        + (0 if loading is None else _KNOWN_HOLD * (len(loading.known_holds) + len(loading.accounts)))
        + _SIGNATURE * len(state.used_signatures)
        + _APPROVED * len(state.approved)
        + sum(map(len, state.ended_runs))
        + sum(len(text.encode()) for text in state.refused_messages)
        + sum(answer.size() for answer in state.answers.values())
    )
    return Parts(state.earlier_ends.bytes(), _ends_bytes(state), rest)


def relieve(state: DeskState, over_bytes: int) -> int:
    """Drops what is missed least until the dump is smaller by so much. Returns what is still too much; 0: nothing.

    What was dropped is counted. The desk's outbox counts its alerts anew afterwards.
    """
    outbox, books = state.outbox, state.books
    if over_bytes > 0 and state.rules >= 2:
        earlier = state.earlier_ends
        while earlier.groups and earlier.without_oldest() + len(state.ended) >= REMEMBER_ENDED_MAX:
            over_bytes -= forget_group(state)
        for hold_id in list(state.ended)[: max(0, len(state.ended) - REMEMBER_ENDED_MAX)]:
            over_bytes -= _forget(state, hold_id)
    if over_bytes > 0 and books.changed:
        over_bytes -= _CHANGED * len(books.changed)
        books.mark_all()
    while over_bytes > 0 and outbox.sending:
        over_bytes -= alert_bytes(outbox.sending.pop(0))
        outbox.alerts_dropped += 1
    kept: list[Notice] = []
    for notice in outbox.notices:
        if over_bytes > 0 and isinstance(notice, Alert):
            over_bytes -= alert_bytes(notice)
            outbox.alerts_dropped += 1
        else:
            kept.append(notice)
    outbox.notices = kept
    for run in _runs(state):
        if over_bytes <= 0:
            return 0
        over_bytes -= _DIGEST * run.forget_what_was_asked_once()
    while over_bytes > 0 and state.earlier_ends.groups:
        state.ended_dropped += len(state.earlier_ends.groups[0].positions)
        over_bytes -= forget_group(state)
    for hold_id in list(state.ended):
        if over_bytes <= 0:
            return 0
        over_bytes -= _forget(state, hold_id)
        state.ended_dropped += 1
    return max(0, over_bytes)


def forget_group(state: DeskState) -> int:
    """Forgets the oldest group of ends. Returns what it took of the dump."""
    group = state.earlier_ends.groups.pop(0)
    state.forgotten_until_ms = max(state.forgotten_until_ms, group.until_ms + 1)
    return group.bytes()


def _runs(state: DeskState) -> list[Run]:
    return [account.run for account in state.books.accounts.values() if account.run is not None]


def _ends_bytes(state: DeskState) -> int:
    details = [ended.denied.detail for ended in state.ended.values() if ended.denied is not None]
    beyond_usual_ids = sum(map(len, state.ended)) - _ID_CHARACTERS * len(state.ended)
    return (
        _ENDED * len(state.ended)
        + sum(len(detail.encode()) // _DETAIL_PART for detail in details)
        + max(0, beyond_usual_ids)
    )


def _forget(state: DeskState, hold_id: str) -> int:
    """Returns what it took of the dump."""
    ended = state.ended.pop(hold_id)
    state.forgotten_until_ms = max(state.forgotten_until_ms, ended.at_ms + 1)
    return _ENDED if ended.denied is None else _ENDED + len(ended.denied.detail.encode()) // _DETAIL_PART


def _config_bytes(config: DeskConfig) -> int:
    accounts: Iterable[int] = (
        len(each.caps_nanos) for group in (config.budgets, config.services) for each in group.values()
    )
    return sum(_ACCOUNT + _CAP * caps for caps in accounts)
