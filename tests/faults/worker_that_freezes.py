"""A worker that freezes (SIGSTOP) with three calls in hand, all of which wait for the ledger: `[--config FILE]`.

It only runs the workflows of calls, three at a time, so that no task of the ledger or of another call is frozen too.
When it goes on (SIGCONT) the ledger has not answered it in time, except about the call of the route `done-meanwhile`:
its hold has ended, because another worker went on with it.
"""

import asyncio
import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

import worker
from activities.reserve import ReserveActivities
from paymaster.messages import CALLS_TASK_QUEUE, Ended, Reservation, ReserveRequest

CALLS = 3
LATER_S = 0.1
"""After it goes on: Temporal is being told of its workflow tasks by then, and has not said yet that they are lost."""


def main(*arguments: str) -> int:
    reserve, all_workers = ReserveActivities.reserve, worker.workers_of
    everybody_is_here, awake = asyncio.Barrier(CALLS), asyncio.Event()

    @functools.wraps(reserve)
    async def reserve_after_a_freeze(self: ReserveActivities, request: ReserveRequest) -> Reservation:
        if awake.is_set():
            return await reserve(self, request)
        if await everybody_is_here.wait() == 0:
            print("freezes", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            await asyncio.sleep(LATER_S)
            awake.set()
        await awake.wait()
        if request.route == "done-meanwhile":
            return Reservation(answer=Ended(hold_id=request.hold_id), findable=False)
        raise ApplicationError("the ledger did not answer", type="LedgerUnreachable", non_retryable=True)

    def only_of_calls(*arguments: object, **options: object) -> list[Worker]:
        return [each for each in all_workers(*arguments, **options) if each.task_queue == CALLS_TASK_QUEUE]  # pyright: ignore[reportArgumentType]

    def with_few_tasks(client: Client, **options: Any) -> Worker:
        """Of the two of the calls' worker that ask for tasks one asks for those of the calls that it has already."""
        if options["task_queue"] == CALLS_TASK_QUEUE:
            options |= {"max_concurrent_workflow_tasks": CALLS + 1, "max_concurrent_workflow_task_polls": 2}
        return Worker(client, **options)

    ReserveActivities.reserve = reserve_after_a_freeze
    worker.workers_of = only_of_calls
    worker.Worker = with_few_tasks
    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
