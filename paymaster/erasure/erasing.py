"""Erasing what was found: noted first, histories before rows, so that it may be broken off anywhere and repeated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from paymaster.erasure.finding import Finder, Found, FoundCall
from paymaster.erasure.histories import delete, end, for_each, still_there
from paymaster.messages import CallRef
from paymaster.messages.temporal_names import is_call
from paymaster.storage.erasure import erase_stored, note_erased, stored_of

BATCH = 100
"""Calls that are erased before the next ones: their rows change in one transaction."""


@dataclass
class Erased:
    """What went, by kind."""

    histories: int = 0
    payloads: int = 0
    """In external storage."""
    bodies: int = 0
    rows: int = 0
    """Whose metadata went."""
    left_requests: int = 0
    alerts: int = 0
    stays: dict[str, str] = field(default_factory=dict[str, str])
    """Why something of a workflow is still there, by its id."""

    def counts(self) -> dict[str, int]:
        """By the names that people read."""
        return {
            "histories": self.histories,
            "payloads in external storage": self.payloads,
            "stored bodies": self.bodies,
            "rows' metadata": self.rows,
            "requests left at the gateway": self.left_requests,
            "alerts' texts": self.alerts,
        }


class Eraser:
    def __init__(self, client: Client, engine: AsyncEngine, ledger: str, tell: Callable[[str], None]) -> None:
        """`tell` is told how far it is, for whoever waits."""
        self._client, self._engine = client, engine
        self._ledger = ledger
        self._tell = tell
        self.erased = Erased()

    async def erase(self, found: Found) -> None:
        """Adds up in `erased`. Raises RPCError and the driver's errors; what went until then is gone."""
        ended = [each for each in found.calls if not each.is_running]
        for each in found.running:
            self.erased.stays[each.call.workflow_id] = "it is running"
        if ended:
            await note_erased(self._engine, [each.call.run_id for each in ended])
        for first in range(0, len(ended), BATCH):
            await self._erase(ended[first : first + BATCH])
            if len(ended) > BATCH:
                self._tell(f"{min(first + BATCH, len(ended)):,} of {len(ended):,} calls")
        await self._delete(found.others)

    async def cancel(self, calls: Sequence[FoundCall], who: str) -> None:
        """Has these calls end, each soon or later; a purchase goes on, since its buyer may pay. Raises RPCError."""

        async def one(found: FoundCall) -> None:
            await end(self._client, _ref(found), f"{who}: erased")

        await for_each([each for each in calls if is_call(each.call.workflow_id)], one)

    async def look_again(self, finder: Finder) -> None:
        """Adds to what stays what has come meanwhile, or was not found before."""
        found = await finder.find()
        for each in found.calls:
            if each.is_running is not None:
                self.erased.stays.setdefault(each.call.workflow_id, "it has come meanwhile")
        for run in found.others:
            self.erased.stays.setdefault(run.workflow_id, "it has come meanwhile")
        for workflow_id in found.unreadable:
            self.erased.stays.setdefault(workflow_id, "what it has cannot be decoded here")
        ended = [each.call for each in found.calls if each.is_running is None]
        left = await stored_of(self._engine, self._ledger, self._client.namespace, ended)
        if left.rows or left.bodies:
            self.erased.stays["rows and bodies"] = "they have come meanwhile"

    async def _erase(self, calls: Sequence[FoundCall]) -> None:
        kept = await self._delete([_ref(each) for each in calls if each.is_running is not None])
        gone = [each.call for each in calls if each.call.run_id not in kept]
        stored = await erase_stored(self._engine, self._ledger, self._client.namespace, gone)
        self.erased.rows += stored.rows
        self.erased.bodies += stored.bodies
        self.erased.left_requests += stored.left_requests
        self.erased.alerts += stored.alerts

    async def _delete(self, runs: Sequence[CallRef]) -> set[str]:
        """The run ids of those whose histories are not gone."""
        deletions = list(zip(runs, await for_each(runs, partial(delete, self._client)), strict=True))
        late = await still_there(self._client, [run for run, deletion in deletions if not deletion.why_not])
        kept: set[str] = set()
        for run, deletion in deletions:
            why_not = deletion.why_not or ("Temporal has not deleted it yet" if run.run_id in late else "")
            self.erased.payloads += deletion.payloads
            if why_not:
                kept.add(run.run_id)
                self.erased.stays[run.workflow_id] = why_not
            else:
                self.erased.histories += deletion.was_there
        return kept


def _ref(found: FoundCall) -> CallRef:
    return CallRef(workflow_id=found.call.workflow_id, run_id=found.call.run_id)
