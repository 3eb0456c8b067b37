"""A worker that is killed (SIGKILL) again and again, and starts again: `worker_that_dies.py HOW [--config FILE]`.

HOW is `at-each-point` of the POINTS below, one after the other, `at-all-points`, eight workers at
a time, or `N-times`, at moments that only chance knows. Afterwards it lives on. Production code knows nothing of the
points: they are put around its functions here, in the process that dies. Each life is a fork of this one, which has
imported everything already: so it begins within a moment.
"""

import functools
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import worker
from activities.call_service import CallServiceActivities
from activities.record_usage import RecordUsageActivities
from activities.reserve import ReserveActivities
from paymaster.admission.desk import Desk
from paymaster.client import Ledger
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import Answer, AnswerBatch, Command, Granted, Settle
from paymaster.providers.exchange import Exchange, Sending


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(
    owner: type,
    name: str,
    *,
    before: Callable[..., bool] = lambda *arguments: False,
    after: Callable[[Any], bool] = lambda answer: False,
) -> None:
    """Dies before the method runs when `before` of its arguments says so, or after it when `after` of its answer."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(original)
    async def method(*arguments: Any, **named: Any) -> Any:
        if before(*arguments):
            die()
        answer = await original(*arguments, **named)
        if after(answer):
            die()
        return answer

    setattr(owner, name, method)


def _after_reserve() -> None:
    _around(ReserveActivities, "reserve", after=lambda reservation: isinstance(reservation.answer, Granted))


def _before_sending() -> None:
    _around(Exchange, "attempt", before=lambda *arguments: True)


def _while_waiting() -> None:
    """The request is out, nothing of the answer is here."""
    _around(Sending, "trace", before=lambda *arguments: arguments[1].endswith("receive_response_headers.started"))


def _after_the_answer() -> None:
    """The activity has the answer, and Temporal does not."""
    _around(CallServiceActivities, "call_service", after=lambda answer: True)


def _between_row_and_settle() -> None:
    _around(GroupCommit, "submit", before=lambda *arguments: isinstance(arguments[1], Settle))


def _after_settle() -> None:
    """Row and settlement are there, and the workflow does not know."""
    _around(RecordUsageActivities, "record_usage", after=lambda answer: True)


def _batch_answered() -> None:
    """The ledger took a batch of several commands, and those who wait for its answers never get them."""

    def several(batch: AnswerBatch) -> bool:
        return len(batch.answers) > 1

    _around(Ledger, "apply", after=several)


def _batch_half_applied() -> None:
    """In the ledger's own workflow task, when it has applied a part of a batch. (The sandbox takes the desk as is.)"""
    handle, handled = Desk.handle, 0

    def handle_some(self: Desk, command: Command, now_ms: int, size: int | None = None) -> Answer:
        nonlocal handled
        handled += 1
        if handled == 4:
            die()
        return handle(self, command, now_ms, size)

    Desk.handle = handle_some


def _continue_as_new() -> None:
    """When the budget workflow has written its state for the next run, which does not exist yet."""

    def dump(self: Desk) -> str:
        die()
        return ""

    Desk.dump = dump


POINTS: Mapping[str, Callable[[], None]] = {
    "after reserve": _after_reserve,
    "before sending": _before_sending,
    "while waiting": _while_waiting,
    "after the answer": _after_the_answer,
    "between row and settle": _between_row_and_settle,
    "after settle": _after_settle,
    "batch answered": _batch_answered,
    "batch half applied": _batch_half_applied,
    "continue as new": _continue_as_new,
}


def _live(arguments: Sequence[str], arm: Callable[[], None] = lambda: None) -> int:
    """The process id of a worker that may die."""
    pid = os.fork()
    if pid == 0:
        arm()
        os._exit(worker.main(arguments))
    return pid


def _die_at_points(arguments: Sequence[str], at_once: int) -> None:
    began = time.monotonic()
    waiting, alive = list(POINTS), dict[int, str]()
    while waiting or alive:
        while waiting and len(alive) < at_once:
            point = waiting.pop(0)
            alive[_live(arguments, POINTS[point])] = point
        pid, status = os.wait()
        point = alive.pop(pid)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"{point}: ended with {status}"
        print(f"killed {point}, after {time.monotonic() - began:.1f} s", flush=True)


def _die_at_random(arguments: Sequence[str], times: int) -> None:
    for number in range(times):
        pid = _live(arguments)
        time.sleep(random.uniform(0.2, 2.0))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(f"killed {number + 1} times", flush=True)


def main(how: str, *arguments: str) -> int:
    match how:
        case "at-each-point":
            _die_at_points(arguments, at_once=1)
        case "at-all-points":
            _die_at_points(arguments, at_once=8)
        case times:
            _die_at_random(arguments, int(times.removesuffix("-times")))
    print("lives on", flush=True)
    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
