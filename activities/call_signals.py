"""Signals to many call workflows, some at a time."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages import CallMessage, CallRef

SIGNALS_AT_ONCE = 20


class CallSignal(NamedTuple):
    call: CallRef
    name: str
    message: CallMessage | None = None
    """None: the name says it all."""


async def signal_calls(client: Client, signals: Sequence[CallSignal]) -> list[RPCError | None]:
    """For each signal why it did not arrive, or None when it did."""
    places = asyncio.Semaphore(SIGNALS_AT_ONCE)

    async def send(signal: CallSignal) -> RPCError | None:
        call = client.get_workflow_handle(signal.call.workflow_id, run_id=signal.call.run_id)
        async with places:
            try:
                await call.signal(signal.name, args=[] if signal.message is None else [signal.message])
            except RPCError as error:
                return error
        return None

    return await asyncio.gather(*map(send, signals))


def has_ended(error: RPCError) -> bool:
    """Whether the call is over, or never was."""
    return error.status is RPCStatusCode.NOT_FOUND
