"""Finding what there is of some calls, in Temporal and in the database: nothing is changed."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from paymaster.erasure.histories import described, first_event, for_each, mentioned_in, started_with
from paymaster.erasure.wanted import Wanted
from paymaster.generations import latest_generation
from paymaster.messages import CallRef, LLMRequest, backlog_workflow_id, call_id_of
from paymaster.messages.call_steps import BodyPiece
from paymaster.messages.purchases import PurchaseRequest
from paymaster.messages.temporal_names import (
    ANSWER_PIECE_WORKFLOW,
    CALL_WORKFLOW,
    INPUT_COUNT_WORKFLOW,
    PURCHASE_WORKFLOW,
    PURCHASE_WORKFLOW_PREFIX,
    call_workflow_id,
    calls_task_queue,
    generation_id,
    purchase_workflow_id,
)
from paymaster.security.payloads import asker_of, read_raw
from paymaster.storage.erasure import StoredCall, calls_of_ids, calls_with_metadata, with_metadata

LOOKED_AT_ONCE = 1_000
"""Workflows that are looked at before Temporal lists the next ones."""
_HAVE_METADATA = {
    CALL_WORKFLOW.name: LLMRequest,
    PURCHASE_WORKFLOW.name: PurchaseRequest,
    INPUT_COUNT_WORKFLOW.name: LLMRequest,
}
_OF_CALLS = (CALL_WORKFLOW.name, PURCHASE_WORKFLOW.name)
ItemT = TypeVar("ItemT")


class FoundCall(NamedTuple):
    """A call, or a purchase, of which something is stored."""

    call: StoredCall
    is_running: bool | None
    """None: Temporal does not have its history any more."""
    agents: tuple[str, ...] = ()
    """The ids of the workflows that have asked for it."""


@dataclass
class Found:
    """All that there is of the calls that are to be erased."""

    calls: list[FoundCall] = field(default_factory=list[FoundCall])
    others: list[CallRef] = field(default_factory=list[CallRef])
    """Histories beside theirs: counts of their tokens, pieces of their answers, what waited to be stored."""
    unreadable: list[str] = field(default_factory=list[str])
    """Ids of workflows of which nobody can say whether they are meant, since what they have cannot be decoded here."""

    @property
    def stored(self) -> list[StoredCall]:
        return [each.call for each in self.calls]

    @property
    def running(self) -> list[FoundCall]:
        return [each for each in self.calls if each.is_running]

    @property
    def agents(self) -> list[str]:
        return sorted({agent for each in self.calls for agent in each.agents})


class Finder:
    def __init__(self, client: Client, engine: AsyncEngine, ledger: str, wanted: Wanted) -> None:
        self._client, self._engine = client, engine
        self._ledger = ledger
        self._wanted = wanted
        self._others = set[str]()
        """The run ids of workflows that are not meant."""

    async def find(self) -> Found:
        """Asked again, it looks only at what has come since, and at what was found.

        Raises RPCError and the driver's errors.
        """
        found = Found()
        calls = await (self._by_metadata(found) if self._wanted.metadata else self._by_ids())
        found.calls = await for_each(calls.values(), self._look)
        if calls:
            await self._pieces(found, calls.keys())
            await self._backlog(found, calls.keys())
        return found

    async def _look(self, call: StoredCall) -> FoundCall:
        execution = await described(self._client, call.workflow_id, call.run_id)
        event = None if execution is None else await first_event(self._client, _ref(execution))
        if execution is None or event is None:
            return FoundCall(call, is_running=None)
        agents = {execution.parent_id} - {None}
        try:
            asker = asker_of(await started_with(self._client, event)).workflow
        except Exception:  # codecs and storages raise whatever they like: what cannot be read names nobody
            asker = None
        if asker is not None:
            agents.add(asker.workflow_id)
        is_running = execution.status is WorkflowExecutionStatus.RUNNING
        return FoundCall(call, is_running, tuple(sorted(each for each in agents if each)))

    # ------------------------------------------------------------ by ids

    async def _by_ids(self) -> dict[str, StoredCall]:
        calls = {each.run_id: each for each in await calls_of_ids(self._engine, self._ledger, self._wanted.call_ids)}
        ids = {each.workflow_id for each in calls.values()}
        for asked in self._wanted.call_ids:
            ids |= await self._workflow_ids(asked)
        for workflow_id in ids:
            newest = await described(self._client, workflow_id)
            runs = [] if newest is None else [newest]
            runs += [each async for each in self._listed(f"WorkflowId = {_quoted(workflow_id)}")]
            calls |= {each.run_id: _call(each) for each in runs if each.run_id not in calls}
        return calls

    async def _workflow_ids(self, call_id: str) -> set[str]:
        if call_id.startswith(PURCHASE_WORKFLOW_PREFIX):
            return {purchase_workflow_id(call_id.removeprefix(PURCHASE_WORKFLOW_PREFIX), self._ledger)}
        newest = await latest_generation(self._client, call_id)
        numbers = range(1, newest + 1)
        return {call_workflow_id(generation_id(call_id, number), self._ledger) for number in numbers}

    # ------------------------------------------------------------ by metadata

    async def _by_metadata(self, found: Found) -> dict[str, StoredCall]:
        """By the rows, and by the histories of calls that have none, or none that says their metadata."""
        rows = await calls_with_metadata(self._engine, self._ledger, self._wanted.metadata)
        calls = {each.run_id: each for each in rows}
        types = " OR ".join(f"WorkflowType = '{name}'" for name in _HAVE_METADATA)
        queue = calls_task_queue(self._ledger)
        listed = self._listed(f"TaskQueue = '{queue}' AND ({types})")
        async for page in _in_pages(listed):
            new = [each for each in page if each.run_id not in calls and each.run_id not in self._others]
            told = await with_metadata(self._engine, self._ledger, [each.id for each in new])
            self._others |= told
            asked = [each for each in new if each.run_id not in told]
            for execution, is_meant in zip(asked, await for_each(asked, self._is_meant), strict=True):
                if is_meant is None:
                    found.unreadable.append(execution.id)
                elif not is_meant:
                    self._others.add(execution.run_id)
                elif execution.workflow_type in _OF_CALLS:
                    calls[execution.run_id] = _call(execution)
                else:
                    found.others.append(_ref(execution))
        return calls

    async def _is_meant(self, execution: WorkflowExecution) -> bool | None:
        """None: nobody can say."""
        event = await first_event(self._client, _ref(execution))
        if event is None:
            return False
        try:
            request = read_raw(await started_with(self._client, event), _HAVE_METADATA[execution.workflow_type])
        except Exception:  # codecs and storages raise whatever they like
            return None
        return self._wanted.is_meant(request.metadata)

    # ------------------------------------------------------------ beside the calls

    async def _pieces(self, found: Found, run_ids: Iterable[str]) -> None:
        """Of stored answers, as programs have read them."""
        ours = set(run_ids)
        queue = calls_task_queue(self._ledger)
        query = f"TaskQueue = '{queue}' AND WorkflowType = '{ANSWER_PIECE_WORKFLOW.name}'"
        async for page in _in_pages(self._listed(query)):
            for execution, run_id in zip(page, await for_each(page, self._answer_of), strict=True):
                if run_id is None:
                    found.unreadable.append(execution.id)
                elif run_id in ours:
                    found.others.append(_ref(execution))

    async def _answer_of(self, execution: WorkflowExecution) -> str | None:
        """The run id of the call whose answer it has read; empty where it is gone. None: nobody can say."""
        event = await first_event(self._client, _ref(execution))
        if event is None:
            return ""
        try:
            piece = read_raw(await started_with(self._client, event), BodyPiece)
        except Exception:  # codecs and storages raise whatever they like
            return None
        return piece.body.reference.partition("/")[0]

    async def _backlog(self, found: Found, run_ids: Iterable[str]) -> None:
        """What waited to be stored: records have the metadata of their calls."""
        ours, backlog = set(run_ids), backlog_workflow_id(self._ledger)
        newest = await described(self._client, backlog)
        runs = {} if newest is None else {newest.run_id: newest}
        query = f"WorkflowId = {_quoted(backlog)} OR WorkflowId STARTS_WITH {_quoted(backlog + '/')}"
        runs |= {each.run_id: each async for each in self._listed(query)}
        for execution in runs.values():
            try:
                mentioned = await mentioned_in(self._client, _ref(execution))
            except Exception:  # codecs and storages raise whatever they like
                found.unreadable.append(execution.id)
            else:
                if mentioned & ours:
                    found.others.append(_ref(execution))

    def _listed(self, query: str) -> AsyncIterator[WorkflowExecution]:
        return self._client.list_workflows(query)


async def _in_pages(listed: AsyncIterator[WorkflowExecution]) -> AsyncIterator[Sequence[WorkflowExecution]]:
    page: list[WorkflowExecution] = []
    async for each in listed:
        page.append(each)
        if len(page) == LOOKED_AT_ONCE:
            yield page
            page = []
    yield page


def _ref(execution: WorkflowExecution) -> CallRef:
    return CallRef(workflow_id=execution.id, run_id=execution.run_id)


def _call(execution: WorkflowExecution) -> StoredCall:
    return StoredCall(call_id_of(execution.id), execution.id, execution.run_id)


def _quoted(text: str) -> str:
    """In the words of Temporal's visibility."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
