"""What a worker asks the ledger for on behalf of a request."""

import asyncio
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.reserve import ReserveActivities
from paymaster.messages import CallRef, Denied, LLMRequest, Reserve, ReserveRequest
from paymaster.providers.bounds import facts_of
from paymaster.settings import Settings


class _Commits:
    """Takes the command, and grants nothing."""

    command: Reserve

    async def submit(self, command: Reserve) -> Denied:
        self.command = command
        return Denied(hold_id=command.hold_id, reason="none", detail="")


def reserve_of(settings: Settings, request: LLMRequest, *, at_ms: int = 0, excluded: tuple[str, ...] = ()) -> Reserve:
    """The command, with its candidates, their prices and why they cannot be asked."""
    commits: Any = _Commits()
    nobody: Any = None
    asked = ReserveRequest(
        hold_id="run/1",
        call=CallRef(workflow_id="call/c", run_id="run"),
        route=request.route,
        budget=request.budgets[0],
        further_budgets=request.budgets[1:],
        on_exhausted=None,
        wait_at_most_ms=None,
        started_at_ms=at_ms,
        asked_at_ms=at_ms,
        priority=0,
        excluded=excluded,
        **dict(facts_of(request)),
    )
    asyncio.run(ActivityEnvironment().run(ReserveActivities(settings, commits, nobody, nobody, nobody).reserve, asked))
    return commits.command
