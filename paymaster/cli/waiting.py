"""What the person at a terminal is told while a call waits: why, until when, and that no worker is there."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_note, utc

if TYPE_CHECKING:
    from temporalio.client import Client

    from paymaster.messages import WaitingCall
    from paymaster.settings import Settings

_FIRST_AFTER_S = 2.0
_NO_WORKER_AFTER_S = 5.0


async def tell_while_waiting(client: "Client", settings: "Settings", call_id: str) -> None:
    """Until it is cancelled. Nothing that fails here is said: the call itself says what matters."""
    from sqlalchemy.exc import SQLAlchemyError
    from temporalio.service import RPCError

    from paymaster.cli.calls import newest_generation
    from paymaster.messages import call_workflow_id

    await asyncio.sleep(_FIRST_AFTER_S)
    print_note(f"waiting for {call_workflow_id(call_id, settings.ledger.name)} … (Ctrl-C leaves it running)")
    await asyncio.sleep(_NO_WORKER_AFTER_S - _FIRST_AFTER_S)
    said = ""
    while True:
        with suppress(RPCError, CommandError, SQLAlchemyError, OSError):
            newest = await newest_generation(client, settings, call_id)
            now = await _why(client, settings, call_workflow_id(newest, settings.ledger.name))
            if now and now != said:
                print_note(now)
                said = now
        await asyncio.sleep(_NO_WORKER_AFTER_S)


async def _why(client: "Client", settings: "Settings", workflow_id: str) -> str:
    """Empty: nothing is known to be in its way."""
    from paymaster.messages.temporal_names import calls_task_queue
    from paymaster.waiting import has_worker, no_worker

    ledger = settings.ledger.name
    if not await has_worker(client, calls_task_queue(ledger)):
        return no_worker(ledger)
    waiting = await _waiting(settings, workflow_id)
    if waiting is None:
        return ""
    until = utc(waiting.deadline_at_ms)
    return (
        f"parked: {waiting.detail}; it goes on by itself when it can, and else is denied at {until}. "
        "To help it: `paymaster budget raise -h`, `paymaster services -h`"
    )


async def _waiting(settings: "Settings", workflow_id: str) -> "WaitingCall | None":
    from paymaster.cli.calls import parked_calls

    return (await parked_calls(settings, [workflow_id])).get(workflow_id)
