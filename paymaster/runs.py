"""Runs of agents: what one may cost, said once for all calls within, and by whom a call is asked for."""

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from datetime import timedelta
from decimal import Decimal
from types import TracebackType
from typing import TypeVar
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from paymaster.errors import PaymasterError
from paymaster.messages import Asker, CallRef, LLMRequest, RunLimits, RunPart, RunScope
from paymaster.messages.purchases import PurchaseRequest
from paymaster.security.payloads import as_raw, read_raw
from paymaster.values.run_path import check_run_segment, run_id_of_root

__all__ = ["run_budget"]

HEADER = "paymaster-run"
"""Of activities and child workflows: the scope in which they were started."""

_RequestT = TypeVar("_RequestT", bound=LLMRequest | PurchaseRequest)

_scope: ContextVar[RunScope | None] = ContextVar("paymaster_run_scope", default=None)
"""Of the task, or thread, of a workflow, an activity or a program."""


class _RunBudget:
    """One `with run_budget(…)`."""

    def __init__(self, run: str | None, name: str | None, limits: RunLimits | None) -> None:
        self._run, self._name, self._limits = run, name, limits
        self._entered: list[Token[RunScope | None]] = []

    def __enter__(self) -> None:
        self._entered.append(_scope.set(self._within(current_scope())))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ValueError):  # a task that is collected as garbage ends in another one's context
            _scope.reset(self._entered.pop())

    def _within(self, outer: RunScope | None) -> RunScope:
        if outer is None or (self._run is not None and self._run != outer.run):
            outer = RunScope(run=self._run or _run_of_program())
        if self._name is not None and self._limits is not None:
            return outer.model_copy(update={"parts": (*outer.parts, RunPart(name=self._name, limits=self._limits))})
        if self._limits is None or self._limits == outer.limits:
            return outer
        if outer.limits is not None or outer.parts:
            raise PaymasterError(
                "this is within a run that has limits already, or a part of one; give it limits of its own as a part, "
                'as in run_budget("0.50", name="researcher")'
            )
        return outer.model_copy(update={"limits": self._limits})


def run_budget(
    usd: str | int | Decimal | None = None,
    *,
    calls: int | None = None,
    lasts: timedelta | str | None = None,
    name: str | None = None,
    run: str | None = None,
) -> _RunBudget:
    """`with run_budget("0.50"):` is the most that the run may cost, for all calls within.

    The run is that of the workflow, with all its sub-agents, or of the workflow of the activity; of a program it is the
    `with` itself. `calls`, `lasts`: further limits, as in RunLimits. `name`: they are those of a part of the run, which
    counts for the run too. `run`: the id of another run, which needs no limits.

    Tasks, threads of `asyncio.to_thread` and calls that are started within have it too. Raises ValidationError for
    limits that make no sense; entering it raises PaymasterError where the run has other limits already.
    """
    if run is not None:
        check_run_segment(run)
    if name is not None:
        check_run_segment(name)
    if run is not None and name is None and usd is None and calls is None and lasts is None:
        return _RunBudget(run, None, None)
    return _RunBudget(run, name, RunLimits(usd=usd, calls=calls, lasts=lasts))


def _run_of_program() -> str | None:
    """None: where there is a workflow, the run follows from it."""
    return None if workflow.in_workflow() or activity.in_activity() else str(uuid4())


# ------------------------------------------------------------ what calls and headers are made with


def current_scope() -> RunScope | None:
    """What `run_budget` says here, or said where this workflow was started."""
    scope = _scope.get()
    return inherited_scope() if scope is None and workflow.in_workflow() else scope


def inherited_scope() -> RunScope | None:
    """Of a workflow: what was said where it was started."""
    return scope_in(workflow.info().headers)


def scope_in(headers: Mapping[str, Payload]) -> RunScope | None:
    """Raises ValueError for a header that is none of ours, or is encoded by a codec that is not at hand."""
    return read_raw(RawValue(headers[HEADER]), RunScope) if HEADER in headers else None


def with_scope(headers: Mapping[str, Payload], scope: RunScope | None) -> Mapping[str, Payload]:
    """The headers with that of the scope. None: as they are."""
    return headers if scope is None else {**headers, HEADER: as_raw(scope).payload}


def take_scope(scope: RunScope) -> None:
    """For the rest of the task, which begins with this."""
    _scope.set(scope)


def in_current_run(request: _RequestT) -> _RequestT:
    """The request as one of the run here. What it says of its run itself stands, and parts that it names are within."""
    scope = current_scope()
    if scope is None or (request.run is not None and request.run != scope.run):
        return request
    return request.model_copy(
        update={
            "run": scope.run,
            "run_limits": request.run_limits or scope.limits,
            "run_parts": (*scope.parts, *request.run_parts),
        }
    )


# ------------------------------------------------------------ by whom a call is asked for


def asking_workflow() -> Asker:
    """Of a workflow that is no child, the run's id. A child's root may have continued as new: the call looks it up."""
    info = workflow.info()
    if info.root is not None:
        return Asker()
    return Asker(run=run_id_of_root(info.workflow_id, info.first_execution_run_id))


def asking_from_elsewhere() -> Asker:
    """Of a workflow in another namespace, where nobody can look up how its run began: its root, or itself."""
    root = workflow.info().root
    return asking_workflow() if root is None else Asker(run=run_id_of_root(root.workflow_id, root.run_id))


def asking_client(namespace: str) -> Asker:
    """Of an activity, its workflow; nobody outside. `namespace`: the client's."""
    if not activity.in_activity():
        return Asker()
    info = activity.info()
    if info.workflow_id is None or info.workflow_run_id is None:
        return Asker(run=run_id_of_root(info.activity_id, info.activity_run_id or ""))
    if info.namespace != namespace:
        return Asker(run=run_id_of_root(info.workflow_id, info.workflow_run_id))
    return Asker(workflow=CallRef(workflow_id=info.workflow_id, run_id=info.workflow_run_id))
