"""The desk's state as operators see it."""

from collections.abc import Iterable

from paymaster.admission.accounts import Account, Balance
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import Gate
from paymaster.admission.calendars import Ended
from paymaster.admission.folding import folded
from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.queue import ParkedQueue
from paymaster.admission.state import DeskState
from paymaster.messages import (
    AccountStatus,
    DeskStatus,
    RunState,
    ServiceStatus,
    StatusRequest,
    UnconfirmedHold,
    UnconfirmedHolds,
    WaitingCall,
    WindowStatus,
)
from paymaster.values.limits import PAGE_BYTES_MAX, STATE_BYTES_MAX, UNCONFIRMED_SHOWN
from paymaster.values.time_zones import Zone
from paymaster.values.windows import window_end_ms, window_start_ms

WAITING_SHOWN = 20
"""Parked calls in a status; the whole queue can be too large for an answer."""


def desk_status(
    state: DeskState, ledger: Ledger, queue: ParkedQueue, page: StatusRequest | None, now_ms: int, state_bytes: int
) -> DeskStatus:
    """How everything stands at `now_ms`. `state_bytes`: what the state takes as a dump, about. Without a page it has no
    accounts."""
    accounts, more = ((), False) if page is None else account_statuses(ledger, queue, now_ms, page)
    return DeskStatus(
        ledger=state.ledger,
        epoch=state.epoch,
        config_digest=state.config.digest,
        accounts=accounts,
        more_accounts=more,
        holds=len(ledger.pending),
        parked=len(queue),
        outbox=len(state.outbox.messages) + len(state.outbox.notices),
        unconfirmed=ledger.unconfirmed + folded(ledger),
        services=service_statuses(state.gates, now_ms),
        waiting=waiting_calls(queue),
        refused_messages=tuple(state.refused_messages),
        alerts_dropped=state.outbox.alerts_dropped,
        ended_dropped=state.ended_dropped,
        state_bytes=state_bytes,
        state_bytes_max=STATE_BYTES_MAX,
        now_ms=state.now_ms,
        doubted_until_ms=state.clock.doubted_until_ms if state.clock.doubted_until_ms > now_ms else 0,
        rules=state.rules,
    )


def unconfirmed_page(ledger: Ledger, after: str) -> UnconfirmedHolds:
    """The unconfirmed holds after this hold id, as many as one answer has."""
    keys = sorted(key for key, hold in ledger.holds.items() if hold.state == "unconfirmed" and key > after)
    shown = [ledger.holds[key] for key in keys[:UNCONFIRMED_SHOWN]]
    return UnconfirmedHolds(
        holds=tuple(
            UnconfirmedHold(call=hold.call, grant=hold.grant, posted_nanos=hold.posted_nanos, expired=hold.expired)
            for hold in shown
        ),
        more=len(keys) > len(shown),
    )


def account_statuses(
    ledger: Ledger, queue: ParkedQueue, now_ms: int, page: StatusRequest
) -> tuple[tuple[AccountStatus, ...], bool]:
    """One page of accounts, and whether there are more."""
    after = sorted(key for key in ledger.accounts if key > page.after)
    keys = after[: page.limit]
    ended = ledger.calendars.ended(now_ms)
    accounts = _within_bytes(tuple(account_status(ledger, queue, ledger.accounts[key], now_ms, ended) for key in keys))
    return accounts, len(after) > len(accounts)


def account_status(ledger: Ledger, queue: ParkedQueue, account: Account, now_ms: int, ended: Ended) -> AccountStatus:
    """`ended`: the windows that are over and were not begun anew yet."""
    windows = _windows(ledger, account, now_ms, ended)
    return AccountStatus(
        account=account.key,
        parked=queue.waiting_in(account.key),
        loading=account.loading,
        folded=account.folded,
        folded_nanos=account.folded_nanos,
        windows=windows,
        time_zone=account.time_zone,
        enforced=account.enforced,
        limits=account.limiter.in_use(now_ms),
        run=None if account.run is None else renewed(run_state(account, now_ms), windows, now_ms),
    )


def run_state(account: Account, now_ms: int) -> RunState:
    """Of the account of a run; of its money as the books have it."""
    run = account.run
    assert run is not None
    state = RunState(
        run=account.key.removeprefix("run:"),
        cap_nanos=account.balances["total"].cap_nanos,
        calls=run.calls,
        calls_max=None if run.calls_max is None else run.calls_max + run.more_calls,
        began_at_ms=run.began_ms,
        ends_at_ms=run.ends_ms,
        ended_by=run.ended_by,
        held=run.held,
    )
    if not run.periods:
        return state
    period = run.periods[0]
    calls, more = (0, 0) if period.is_over(now_ms) else (period.calls, period.more_calls)
    changed: dict[str, object] = {
        "cap_nanos": account.balances[period.window].cap_nanos,
        "calls": calls,
        "calls_max": None if period.calls_max is None else period.calls_max + more,
        "renews": period.window,
        "renews_at_ms": period.ends_ms(now_ms),
        "lapsing_calls": more,
    }
    return state.model_copy(update=changed)


def renewed(run: RunState, windows: Iterable[WindowStatus], now_ms: int) -> RunState:
    """The run at this time, if nothing happened since; `windows` are those of its account at this time."""
    window, ends_ms = run.renews, run.renews_at_ms
    if window is None or ends_ms is None:
        return run
    changed: dict[str, object] = {"cap_nanos": next((w.cap_nanos for w in windows if w.window == window), None)}
    if now_ms >= ends_ms:
        most = None if run.calls_max is None else run.calls_max - run.lapsing_calls
        changed |= {"calls": 0, "calls_max": most, "lapsing_calls": 0, "renews_at_ms": window_end_ms(window, now_ms)}
    return run.model_copy(update=changed)


def _within_bytes(accounts: tuple[AccountStatus, ...]) -> tuple[AccountStatus, ...]:
    """The first ones that fit into one answer, at least one."""
    size = 0
    for number, account in enumerate(accounts):
        size += len(account.model_dump_json())
        if size > PAGE_BYTES_MAX:
            return accounts[: max(number, 1)]
    return accounts


def service_statuses(gates: dict[str, Gate], now_ms: int) -> tuple[ServiceStatus, ...]:
    return tuple(
        ServiceStatus(
            service=name,
            breaker=gate.breaker.state(now_ms),
            failures=gate.breaker.failures,
            open_until_ms=gate.breaker.open_until_ms,
            paused_until_ms=gate.paused_until_ms if gate.paused_until_ms > now_ms else None,
            paused_by=gate.paused_by,
            paused_models=tuple(model for model, at_ms in gate.models_paused_until_ms.items() if at_ms > now_ms),
        )
        for name, gate in sorted(gates.items())
    )


def waiting_calls(queue: ParkedQueue) -> tuple[WaitingCall, ...]:
    return tuple(map(waiting_call, queue.first(WAITING_SHOWN)))


def _windows(ledger: Ledger, account: Account, now_ms: int, ended: Ended) -> tuple[WindowStatus, ...]:
    zone, over = ledger.calendars.zone(account.time_zone), ended.get(account.time_zone, ())
    return tuple(
        _window(balance, now_ms, zone, ended=window in over)
        for window, balance in account.balances.items()
        if window == "total" or balance.cap_nanos is not None
    )


def _window(balance: Balance, now_ms: int, zone: Zone, *, ended: bool) -> WindowStatus:
    """`ended`: nothing happened here since the window ended, and the next one has begun with nothing in it."""
    lapsed = balance.lapsing_nanos if ended and balance.steps is None else 0
    start_ms = window_start_ms(balance.window, now_ms, zone)
    return WindowStatus(
        window=balance.window,
        cap_nanos=None if balance.cap_nanos is None else balance.cap_nanos - lapsed,
        cap_from="admin" if balance.by_admin else "file",
        posted_nanos=balance.counted_nanos(start_ms) if ended else balance.posted_nanos,
        pending_nanos=0 if ended else balance.pending_nanos,
        began_at_ms=start_ms,
        ends_at_ms=window_end_ms(balance.window, now_ms, zone),
        missing_nanos=0 if ended else balance.missing_nanos,
        let_through=0 if ended else balance.let_through,
        lapsing_nanos=0 if ended or balance.steps is not None else balance.lapsing_nanos,
    )


def waiting_call(call: ParkedCall) -> WaitingCall:
    return WaitingCall(
        workflow_id=call.reserve.call.workflow_id,
        budget=call.reserve.budget,
        further_budgets=call.reserve.further_budgets,
        parked_at_ms=call.parked_at_ms,
        deadline_at_ms=call.reserve.deadline_at_ms,
        detail=call.detail,
        run=call.reserve.run,
    )
