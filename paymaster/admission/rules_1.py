"""How a ledger of rules 1 (version 0.1.0) serves its parked calls: a scan of the whole queue for each command.

A run that began under them goes on with them until it continues as new under newer ones.
"""

from collections.abc import Callable

from paymaster.admission.books import Ledger
from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.queue import ParkedQueue
from paymaster.admission.timers import NEVER_MS
from paymaster.messages import Reserve


def as_rules_1_take_it(request: Reserve) -> Reserve:
    """Without its run, and without what may be counted: they know neither."""
    if request.run is None and not any(each.countable for each in request.candidates):
        return request
    candidates = tuple([each.model_copy(update={"countable": False}) for each in request.candidates])
    return request.model_copy(update={"run": None, "candidates": candidates})


def serve_by_scan(
    queue: ParkedQueue, ledger: Ledger, freed: set[str], now_ms: int, serve: Callable[[ParkedCall], bool]
) -> None:
    """Looks at each call that waits for what was freed; `serve` says whether it has left the queue."""
    if not len(queue):
        return
    queue.renew_claims(now_ms)
    for call in queue:
        due = call.retry_at_ms is not None and call.retry_at_ms <= now_ms
        if not due and freed.isdisjoint(call.waits_for) and not _may_be_gone(call, ledger, freed):
            continue
        claimed = queue.claims.end(call)
        kept = frozenset[str]() if serve(call) else queue.claims.claim(call, now_ms)
        freed |= claimed - kept  # it keeps those accounts from nobody behind it any more


def _may_be_gone(call: ParkedCall, ledger: Ledger, freed: set[str]) -> bool:
    """Whether a call that does not wait for money, but for a paused service, say, may have lost its money."""
    request = call.reserve
    return request.on_exhausted == "fail" and any(
        not freed.isdisjoint(ledger.charged_accounts(request, candidate.service)) for candidate in request.candidates
    )


def due_by_scan(queue: ParkedQueue, now_ms: int) -> int:
    """When something may change for a parked call; NEVER_MS if never."""
    due_ms = NEVER_MS
    for call in queue:
        for at_ms in (call.retry_at_ms, call.claims_at_ms()):
            if at_ms is not None and at_ms > now_ms:
                due_ms = min(due_ms, at_ms)
    return due_ms
