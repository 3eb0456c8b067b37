"""The commands of all calls of one process, on their way to the ledger: in groups, each in its turn."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from temporalio.client import Client
from temporalio.service import RetryConfig, ServiceClient

from paymaster.ledger.batching import LedgerTraffic
from paymaster.ledger.group_commit import Busy, GroupCommit
from paymaster.ledger.handle import Ledger, NewRun
from paymaster.ledger.pacing import Pace
from paymaster.ledger.updates import UPDATE_ERRORS
from paymaster.messages import Answer, Command, DeskConfig, json_bytes

ALONE_FOR_S = 1.0
"""How long a process counts as alone after an update whose answer says so."""


async def client_of_commits(client: Client) -> Client:
    """The client with a connection of its own, whose requests the SDK sends once.

    The SDK would send an update again that was refused after a second, and then after two and four, also where a place
    was free in a moment; group commit sends it again sooner.
    """
    config = client.config()
    once = replace(client.service_client.config, retry_config=RetryConfig(max_retries=1))
    config["service_client"] = await ServiceClient.connect(once)
    return Client(**config)


def ledger_commits(
    ledger: Ledger,
    config: DeskConfig,
    *,
    traffic: LedgerTraffic | None = None,
    who: str = "",
    on_sent: Callable[[int], None] = lambda commands: None,
    on_turn: Callable[[float], None] = lambda wait_s: None,
) -> GroupCommit[Command, Answer]:
    """What sends commands to the ledger, which `config` and `who` start where it is missing.

    `traffic` is what it notes of them, for who wants to know; `on_sent` gets the number of commands of each update,
    `on_turn` the seconds that the process waits for its next one.
    """
    traffic, pace, alone_until_s = traffic or LedgerTraffic(), Pace(), 0.0

    def is_alone() -> bool:
        return time.monotonic() < alone_until_s

    async def commit(commands: Sequence[Command]) -> Sequence[Answer]:
        nonlocal alone_until_s
        on_sent(len(commands))
        began_s = time.monotonic()
        try:
            batch = await ledger.apply(commands, config, who=who, sender=pace.sender, was_refused=pace.was_refused)
        except NewRun:
            on_turn(0.0 if is_alone() else pace.missed())
            raise
        except (Busy, *UPDATE_ERRORS) as error:
            alone_until_s = 0.0
            on_turn(pace.failed(refused=isinstance(error, Busy)))
            raise
        on_turn(pace.answered(batch.next_after_ms, time.monotonic() - began_s))
        alone_until_s = began_s + ALONE_FOR_S if batch.alone else 0.0
        traffic.sent(commands, batch.answers)
        return batch.answers

    return GroupCommit[Command, Answer](
        commit,
        size_of=json_bytes,
        worth_waiting_for=traffic.worth_waiting_for,
        rest_s=pace.rest_s,
        has_room_beside=is_alone,
    )
