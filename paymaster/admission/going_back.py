"""What a desk's time that goes back means for everything that has a time of its own.

Nothing of what was spent, held, waited for or used up is forgotten. What would happen in a future that does not come
yet happens as soon as it would have without the jump.
"""

from paymaster.admission.accounts import Account
from paymaster.admission.breaker import Gate
from paymaster.admission.counting import COUNTED_WITHIN_MS
from paymaster.admission.holds import Hold
from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.state import DeskState

PAUSE_MAX_MS = 60_000
"""A pause that a service asked for lasts at most so long after the return: when it was asked for is not known."""


def put_back(state: DeskState, to_ms: int) -> None:
    """Makes every time in the state sound for `to_ms`, but for the windows: those the books put back."""
    for hold in state.books.holds.values():
        _put_hold_back(hold, to_ms, state.config.hold_expires_after_ms)
    for account in state.books.accounts.values():
        _put_limits_back(account, to_ms)
        account.used_minute = min(account.used_minute, to_ms // 60_000)
        if account.run is not None:
            account.run.began_ms = min(account.run.began_ms, to_ms)
            account.run.minute = min(account.run.minute, to_ms // 60_000)
            for period in account.run.periods:
                period.put_back(state.now_ms, to_ms)
    for path, minute in state.ended_runs.items():
        state.ended_runs[path] = min(minute, to_ms // 60_000)
    for gate in state.gates.values():
        _put_gate_back(gate, to_ms)
    for call in state.parked.values():
        _put_call_back(call, to_ms)
    for ended in state.ended.values():
        ended.at_ms = min(ended.at_ms, to_ms)
    state.earlier_ends.put_back(to_ms)
    state.early = [change.model_copy(update={"at_ms": min(change.at_ms, to_ms)}) for change in state.early]
    for approved in state.approved.values():
        approved.at_ms = min(approved.at_ms, to_ms)
    state.forgotten_until_ms = min(state.forgotten_until_ms, to_ms)
    state.books.looked_for_room_ms = min(state.books.looked_for_room_ms, to_ms)
    state.now_ms = to_ms


def _put_hold_back(hold: Hold, to_ms: int, expires_after_ms: int) -> None:
    times = {
        "granted_at_ms": min(hold.grant.granted_at_ms, to_ms),
        "expires_at_ms": min(hold.grant.expires_at_ms, to_ms + expires_after_ms),
    }
    hold.grant = hold.grant.model_copy(update=times)


def _put_limits_back(account: Account, to_ms: int) -> None:
    for bucket in account.limiter.buckets:
        bucket.drained_at_ms = min(bucket.drained_at_ms, to_ms)


def _put_gate_back(gate: Gate, to_ms: int) -> None:
    gate.paused_until_ms = min(gate.paused_until_ms, to_ms + PAUSE_MAX_MS)
    for model, until_ms in gate.models_paused_until_ms.items():
        gate.models_paused_until_ms[model] = min(until_ms, to_ms + PAUSE_MAX_MS)
    if gate.breaker.open_until_ms is not None:
        gate.breaker.open_until_ms = min(gate.breaker.open_until_ms, to_ms + gate.breaker.cooldown_ms)


def _put_call_back(call: ParkedCall, to_ms: int) -> None:
    """One that was started while the clock was ahead waits as long as it wanted to, from now on."""
    request = call.reserve
    if request.asked_at_ms > to_ms:
        deadline_at_ms = to_ms + request.deadline_at_ms - request.asked_at_ms
        call.reserve = request.model_copy(update={"deadline_at_ms": deadline_at_ms, "asked_at_ms": to_ms})
    call.parked_at_ms = min(call.parked_at_ms, to_ms)
    call.retry_at_ms = None if call.retry_at_ms is None else min(call.retry_at_ms, to_ms)
    until_ms = call.counts_until_ms
    call.counts_until_ms = None if until_ms is None else min(until_ms, to_ms + COUNTED_WITHIN_MS)
    call.busy_since_ms = None if call.busy_since_ms is None else min(call.busy_since_ms, to_ms)
    call.open_since_ms = None if call.open_since_ms is None else min(call.open_since_ms, to_ms)
