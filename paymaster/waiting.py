"""What a program's log says while its call waits: that no worker is there, or why the call is parked and until when.

Temporal alone is asked, because a program has no database, and seldom: most calls just take their time.
"""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from paymaster.asked_ledger import ledger_of_client
from paymaster.ledger.pollers import POLLS_WITHIN_S, described_queue, polled_s_ago
from paymaster.messages.temporal_names import PARKED_SUMMARY, PARKED_TIMER_LONGER, calls_task_queue

FIRST_AFTER_S = 5.0
_LONGER_BY = 3.0
"""So much longer is each pause before the next look."""
_PAUSE_MAX_S = 600.0
logger = logging.getLogger(__name__)


async def log_why_it_waits(client: Client, handle: WorkflowHandle[object, object]) -> None:
    """Until it is cancelled: each reason once. What cannot be asked is not said: the call itself says what matters."""
    pause_s, said = FIRST_AFTER_S, ""
    while True:
        await asyncio.sleep(pause_s)
        with suppress(RPCError):
            why = await why_it_waits(client, handle)
            if why and why != said:
                logger.warning("%s waits: %s", handle.id, why)
                said = why
        pause_s = min(pause_s * _LONGER_BY, _PAUSE_MAX_S)


async def why_it_waits(client: Client, handle: WorkflowHandle[object, object]) -> str:
    """Empty: nothing is known to be in its way. Raises RPCError."""
    ledger = ledger_of_client(client)
    if not await has_worker(client, calls_task_queue(ledger)):
        return no_worker(ledger)
    timer = await _open_timer(handle)
    if timer is None or not timer.HasField("user_metadata"):
        return ""
    try:
        [summary] = await client.data_converter.decode([timer.user_metadata.summary], [str])
    except Exception:  # with another key than this program's: whatever a codec raises, it is not what the call is about
        return "parked; why is encrypted with a key that is not at hand here"
    if not summary.startswith(PARKED_SUMMARY):
        return ""
    until = _denied_at(timer).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{summary}; denied at {until}. Why it waits now: `paymaster calls show {handle.id}`"


def no_worker(ledger: str) -> str:
    return (
        f"no worker of ledger {ledger} runs (none polls {calls_task_queue(ledger)}): "
        "`paymaster worker`, with that ledger's configuration, starts one"
    )


async def has_worker(client: Client, task_queue: str) -> bool:
    """Whether workflows of this task queue are asked for. Raises RPCError."""
    described = await described_queue(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
    return any(polled_s_ago(each) < POLLS_WITHIN_S for each in described.pollers)


async def _open_timer(handle: WorkflowHandle[object, object]) -> HistoryEvent | None:
    """The event with which the latest timer began that runs still: a parked call waits by one."""
    timers: dict[int, HistoryEvent] = {}
    async for event in handle.fetch_history_events():
        if event.HasField("timer_started_event_attributes"):
            timers[event.event_id] = event
        timers.pop(event.timer_fired_event_attributes.started_event_id, None)
        timers.pop(event.timer_canceled_event_attributes.started_event_id, None)
    return timers[max(timers)] if timers else None


def _denied_at(timer: HistoryEvent) -> datetime:
    lasts = timer.timer_started_event_attributes.start_to_fire_timeout
    return timer.event_time.ToDatetime(UTC) + lasts.ToTimedelta() - PARKED_TIMER_LONGER
