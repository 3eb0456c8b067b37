"""The names by which workflows, activities and callers find each other, and the types that go with them.

All of Temporal's names stand here: task queues, workflow types and ids, activities, updates, signals, queries, error
types. Nothing else in the product writes one as a text.
"""

from dataclasses import dataclass
from datetime import timedelta
from types import NoneType
from typing import Generic, TypeVar

from paymaster.messages.admin import (
    AcceptLower,
    ConfigState,
    Configure,
    CorrectSpend,
    EndRun,
    PauseService,
    RaiseCap,
    RaiseRun,
    ResumeRun,
    ResumeService,
    SetCap,
    TakeClock,
    UnsetCap,
    Upgrade,
)
from paymaster.messages.backlog_steps import BacklogBatch, BacklogPiece, BacklogStart, CaughtUp, PieceEnded
from paymaster.messages.call_steps import (
    BodyPiece,
    BodySweep,
    Completion,
    CountRequest,
    InputCount,
    MeasuredRequest,
    RecordAnswer,
    Reservation,
    ReserveRequest,
    ServiceCall,
    StandingRequest,
    TokenCount,
    UsageRecord,
)
from paymaster.messages.commands import AnswerBatch, AttemptReports, CommandBatch
from paymaster.messages.ledger_steps import LedgerStart, LoadedSpend, LoadSpend, StatusCopy
from paymaster.messages.notices import Alerts, CallMessages, Delivery, Notices, ParkedAnswer, Withdrawn
from paymaster.messages.purchases import PurchaseBegin, PurchaseBegun, PurchaseEnd, PurchaseRequest, PurchaseResult
from paymaster.messages.requests import LLMRequest
from paymaster.messages.results import LLMResult, Standing
from paymaster.messages.spending import SpendingReport
from paymaster.messages.status import (
    CapState,
    ClockState,
    Configuration,
    DeskStatus,
    ReadAgain,
    RunState,
    ServiceState,
    StatusRequest,
    StoredRows,
    UnconfirmedHolds,
    Upgraded,
)

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")

DEFAULT_LEDGER = "default"
"""The ledger whose names are those of version 0.1.0, which had one in a namespace. Names of all others end with "@" and
the ledger's name, which has none itself."""

CALLS_TASK_QUEUE = "paymaster"
"""Of the default ledger: call workflows with their short local activities. Agents start their children here."""

LEDGER_TASK_QUEUE = "paymaster-ledger"
"""Of the default ledger: the budget workflow alone. On the calls' queue the waiting `reserve`s hold every slot that
could answer them."""

ACTIVITIES_TASK_QUEUE = "paymaster-activities"
"""Of the default ledger: everything that waits for somebody else, services and deliveries."""

NEXUS_TASK_QUEUE = "paymaster-nexus"
"""Of the default ledger: Nexus operations, by which callers of other namespaces ask; the target of their endpoints."""

NEXUS_SERVICE = "paymaster"
"""The Nexus service that workers serve there."""

GENERATE_OPERATION = "generate"
"""Its operation for calls: an EndpointRequest in, an LLMResult out."""

READ_PIECE_OPERATION = "read_piece"
"""Its operation for answers that are too large for Temporal: a BodyPiece in, bytes out."""

UNKNOWN_OUTCOME = "OutcomeUnknown"
"""Error type of an attempt that may have been billed. Never retried under the same hold."""

NOT_BILLED = "NotBilled"
"""Error type of an attempt that certainly was not billed."""

WORKER_LOST = "worker_lost"
"""The error class of an attempt whose worker was lost: when it began is only guessed."""

CONTEXT_TOO_LONG = "context_too_long"
"""The reason of a failure for which a candidate with a larger context is asked."""

BAD_SAMPLE = "bad_sample"
"""The reason of a failure after which the same model may do better: what it said is no answer."""

BILLED = "Billed"
"""Error type of an attempt that was billed at a known cost but without a usable answer. Never retried under the same
hold."""

NOT_WANTED = "caller_gone"
"""The reason of a call that was given up before anything was sent, because its caller had gone."""

CALL_ID_REUSED = "call_id_reused"
"""The reason of a call, or purchase, whose id was used before by one that was paid for, and that Temporal has
forgotten."""

BAD_CALL_ID = "bad_call_id"
"""The reason of a call whose rows would be taken for those of a purchase, and the other way round."""

ANSWER_NOT_STORED = "answer_not_stored"
"""The reason of a failure: the answer was too large to be carried, and its worker was stopped before the database took
it."""

ANSWER_GONE = "AnswerGone"
"""Error type of a stored answer that is not there any more, or cannot be read."""

CONTENT_OF_COMMAND = "#"
"""In the id of an update of an admin, between the command's id and a digest of what it says."""

STALE = "Stale"
"""The error type of an admin's command for what has changed since its sender saw it."""

STANDING_UNKNOWN = "StandingUnknown"
"""Error type where nobody can say what is left of a budget."""

LEDGER_FUNCTION = "paymaster_ledger"
"""What the plugin lets an agent's workflow ask: the name of the ledger that its calls are made in."""

STORAGES_FUNCTION = "paymaster_storages"
"""What the plugin lets an agent's workflow ask: the names of the external storages that it reads from."""

ENCRYPTED = b"binary/encrypted"
"""The `encoding` of an encrypted payload, as Temporal's examples call it; workflows meet it when there is no key."""

PARKED_SUMMARY = "parked: "
"""What the summary of the timer begins with by which a parked call waits; why comes after it."""

PARKED_TIMER_LONGER = timedelta(minutes=5)
"""So much longer that timer runs than the call is parked at most: the ledger's answer comes before."""

CALL_WORKFLOW_PREFIX = "call/"
"""Of the ids of the default ledger's calls."""
PURCHASE_WORKFLOW_PREFIX = "purchase/"
"""Of the ids of the default ledger's purchases."""
_GENERATION = "~g"
"""Between a call's id and the number of its generation."""
_DIGITS_MAX = 9
_BEFORE_LEDGER = "@"
"""In names of all ledgers but the default one, before the ledger's name."""


def _of_ledger(name: str, ledger: str) -> str:
    return name if ledger == DEFAULT_LEDGER else f"{name}{_BEFORE_LEDGER}{ledger}"


def calls_task_queue(ledger: str) -> str:
    """`CALLS_TASK_QUEUE` of the default ledger, "paymaster@acme" of ledger "acme"."""
    return _of_ledger(CALLS_TASK_QUEUE, ledger)


def ledger_task_queue(ledger: str) -> str:
    """`LEDGER_TASK_QUEUE` of the default ledger, "paymaster-ledger@acme" of ledger "acme"."""
    return _of_ledger(LEDGER_TASK_QUEUE, ledger)


def activities_task_queue(ledger: str) -> str:
    """`ACTIVITIES_TASK_QUEUE` of the default ledger, "paymaster-activities@acme" of ledger "acme"."""
    return _of_ledger(ACTIVITIES_TASK_QUEUE, ledger)


def nexus_task_queue(ledger: str) -> str:
    """`NEXUS_TASK_QUEUE` of the default ledger, "paymaster-nexus@acme" of ledger "acme"."""
    return _of_ledger(NEXUS_TASK_QUEUE, ledger)


def ledger_of_task_queue(task_queue: str) -> str:
    """Whose queue this is. A workflow knows its ledger by it, also in histories of version 0.1.0."""
    return task_queue.partition(_BEFORE_LEDGER)[2] or DEFAULT_LEDGER


def is_own_task_queue(task_queue: str) -> bool:
    """Whether Paymaster's workflows or activities run on it, of whichever ledger."""
    own = (CALLS_TASK_QUEUE, LEDGER_TASK_QUEUE, ACTIVITIES_TASK_QUEUE)
    return task_queue.partition(_BEFORE_LEDGER)[0] in own


def call_workflow_id(call_id: str, ledger: str = DEFAULT_LEDGER) -> str:
    """ "call/ID" in the default ledger, "call@acme/ID" in ledger "acme": one id is two calls there."""
    return f"{_of_ledger('call', ledger)}/{call_id}"


def purchase_workflow_id(purchase_id: str, ledger: str) -> str:
    """ "purchase/ID" in the default ledger, "purchase@acme/ID" in ledger "acme"."""
    return f"{_of_ledger('purchase', ledger)}/{purchase_id}"


def is_call(workflow_id: str) -> bool:
    """Whether this is the id of a call's workflow, of whichever ledger."""
    return workflow_id.startswith((CALL_WORKFLOW_PREFIX, f"call{_BEFORE_LEDGER}"))


def has_purchases_rows(workflow_id: str) -> bool:
    """Whether the rows of this workflow are told as those of a purchase: their call id begins so."""
    return call_id_of(workflow_id).startswith(PURCHASE_WORKFLOW_PREFIX)


def ledger_of_call(workflow_id: str) -> str:
    """Whose call has this workflow id, which `is_call`."""
    return workflow_id.partition("/")[0].partition(_BEFORE_LEDGER)[2] or DEFAULT_LEDGER


def call_id_of(workflow_id: str) -> str:
    """The id of a call by that of its workflow; of a purchase "purchase/ID", in every ledger."""
    kind, slash, own_id = workflow_id.partition("/")
    match kind.partition(_BEFORE_LEDGER)[0], slash:
        case "call", "/":
            return own_id
        case "purchase", "/":
            return f"{PURCHASE_WORKFLOW_PREFIX}{own_id}"
        case _:
            return workflow_id


def generation_id(call_id: str, generation: int) -> str:
    """The id under which a call runs that was asked for again after it had ended without an answer and unbilled.

    The first generation has the call's own id, the second `<call id>~g2`.
    """
    return call_id if generation == 1 else f"{call_id}{_GENERATION}{generation}"


def generation_of(generated_id: str, call_id: str) -> int:
    """The number of the generation of that call which runs under `generated_id`."""
    number = generated_id.removeprefix(f"{call_id}{_GENERATION}")
    return int(number) if number != generated_id and number.isdecimal() and len(number) <= _DIGITS_MAX else 1


def first_generation(generated_id: str) -> str:
    """The call's own id, where this is one of its generations. An id that merely looks like one is cut, too."""
    call_id = generated_id.rpartition(_GENERATION)[0]
    return call_id if call_id and generation_of(generated_id, call_id) > 1 else generated_id


_STORED_REQUEST_PREFIX = "request/"


def stored_request_name(call_id: str, store_id: str) -> str:
    """What the name of a stored request begins with; `store_id` tells apart those that ask for one call."""
    return f"{_STORED_REQUEST_PREFIX}{call_id}/{store_id}"


def is_stored_request(reference: str) -> bool:
    """Whether this is the name of a request's body; those of answers begin with the id of a run."""
    return reference.startswith(_STORED_REQUEST_PREFIX)


def purchase_granted_signal(workflow_id: str) -> str:
    """The signal by which a purchase's workflow tells the workflow that has started it that it may pay now."""
    return f"paymaster-granted-{workflow_id}"


def backlog_workflow_id(ledger: str) -> str:
    """Those of its pieces begin with it and a slash."""
    return f"usage-backlog/{ledger}"


def body_sweep_workflow_id(ledger: str) -> str:
    return f"body-sweep/{ledger}"


def budget_workflow_id(ledger: str) -> str:
    return f"budget/{ledger}"


@dataclass(frozen=True)
class _Name(Generic[ArgumentT, ResultT]):
    """A name of something that is asked for and answers; NoneType stands for no argument and for no answer."""

    name: str
    argument: type[ArgumentT]
    result: type[ResultT]

    def takes(self, argument: ArgumentT) -> ArgumentT:
        """The argument as it is, for a type checker to compare with what is taken."""
        return argument


class WorkflowName(_Name[ArgumentT, ResultT]):
    """A type of workflow, with what it starts with and what it ends with."""


class ActivityName(_Name[ArgumentT, ResultT]):
    """An activity, with its argument and its result."""


class UpdateName(_Name[ArgumentT, ResultT]):
    """An update of the ledger, with its message and its answer."""


class QueryName(_Name[ArgumentT, ResultT]):
    """A query, with its argument and its answer."""


class SignalName(_Name[ArgumentT, None]):
    """A signal, with its message."""

    def __init__(self, name: str, argument: type[ArgumentT]) -> None:
        super().__init__(name, argument, NoneType)


CALL_WORKFLOW = WorkflowName("LLMCallWorkflow", LLMRequest, LLMResult)
PURCHASE_WORKFLOW = WorkflowName("PurchaseWorkflow", PurchaseRequest, PurchaseResult)
LEDGER_WORKFLOW = WorkflowName("BudgetWorkflow", LedgerStart, NoneType)
BACKLOG_WORKFLOW = WorkflowName("UsageBacklogWorkflow", BacklogStart, NoneType)
BACKLOG_PIECE_WORKFLOW = WorkflowName("UsageBacklogPieceWorkflow", BacklogPiece, PieceEnded)
BODY_SWEEP_WORKFLOW = WorkflowName("BodySweepWorkflow", BodySweep, NoneType)
ANSWER_PIECE_WORKFLOW = WorkflowName("AnswerPieceWorkflow", BodyPiece, bytes)
INPUT_COUNT_WORKFLOW = WorkflowName("InputCountWorkflow", LLMRequest, InputCount)
STANDING_WORKFLOW = WorkflowName("StandingWorkflow", StandingRequest, Standing)
CONTENT_AGENT_WORKFLOW = "ContentAgentWorkflow"
"""The example agent; its messages are its own."""

ANSWER_CALLS = ActivityName("answer_calls", CallMessages, Delivery)
AWAIT_RESULT = ActivityName("await_result", str, LLMResult)
CALL_SERVICE = ActivityName("call_service", ServiceCall, Completion)
CATCH_UP = ActivityName("catch_up", BacklogBatch, CaughtUp)
COUNT_INPUT = ActivityName("count_input", LLMRequest, InputCount)
COUNT_TOKENS = ActivityName("count_tokens", CountRequest, TokenCount)
LOAD_SPEND = ActivityName("load_spend", LoadSpend, LoadedSpend)
MEASURE_REQUEST = ActivityName("measure_request", LLMRequest, MeasuredRequest)
READ_PIECE = ActivityName("read_piece", BodyPiece, bytes)
RECALL_PARKED = ActivityName("recall_parked", NoneType, int)
RECORD_USAGE = ActivityName[UsageRecord, RecordAnswer]("record_usage", UsageRecord, RecordAnswer)  # pyright: ignore[reportArgumentType]  # a union is not a `type`, but works
RESERVE = ActivityName("reserve", ReserveRequest, Reservation)
SEND_ALERTS = ActivityName("send_alerts", Alerts, Delivery)
STANDING = ActivityName("standing", StandingRequest, Standing)
STORE_NOTICES = ActivityName("store_notices", Notices, Delivery)
STORE_STATUS = ActivityName("store_status", StatusCopy, NoneType)
SWEEP_BODIES = ActivityName("sweep_bodies", BodySweep, bool)
VOID = ActivityName("void", str, NoneType)
SCRIPTED_PURCHASE = "scripted_purchase"
"""The activities of `paymaster.testing` that say whether a purchase is granted, and keep how it ended."""
SCRIPTED_PURCHASE_END = "scripted_purchase_end"
SCRIPTED_CALL = "scripted_call"
"""The activity of the tests of agents; its messages are `paymaster.testing`'s own."""

APPLY = UpdateName("apply", CommandBatch, AnswerBatch)
CONFIGURE = UpdateName("configure", Configure, ConfigState)
UPGRADE = UpdateName("upgrade", Upgrade, Upgraded)
RELOAD = UpdateName("reload", NoneType, NoneType)
COMPARE_ROWS = UpdateName("compare_rows", StoredRows, ReadAgain)
CORRECT_SPEND = UpdateName("correct_spend", CorrectSpend, ReadAgain)
# The following are signals too, for whoever needs no answer.
RAISE_CAP = UpdateName("raise_cap", RaiseCap, CapState)
SET_CAP = UpdateName("set_cap", SetCap, CapState)
UNSET_CAP = UpdateName("unset_cap", UnsetCap, CapState)
RAISE_RUN = UpdateName("raise_run", RaiseRun, RunState)
RESUME_RUN = UpdateName("resume_run", ResumeRun, RunState)
END_RUN = UpdateName("end_run", EndRun, RunState)
PAUSE_SERVICE = UpdateName("pause_service", PauseService, ServiceState)
RESUME_SERVICE = UpdateName("resume_service", ResumeService, ServiceState)
TAKE_CLOCK = UpdateName("take_clock", TakeClock, ClockState)
ACCEPT_LOWER = UpdateName("accept_lower", AcceptLower, ReadAgain)

PURCHASE_BEGIN = UpdateName("begin", PurchaseBegin, PurchaseBegun)
PURCHASE_TURN = UpdateName("turn", NoneType, NoneType)
"""Answered when the purchase is parked no more."""

REPORT_ATTEMPTS = SignalName("report_attempts", AttemptReports)
REPORT_SPENDING = SignalName("report_spending", SpendingReport)
BUDGET_ANSWER = SignalName("budget_answer", ParkedAnswer)
CALLER_GONE = SignalName("caller_gone", NoneType)
BUDGET_WITHDRAWN = SignalName("budget_withdrawn", Withdrawn)
PURCHASE_END = SignalName("purchase_end", PurchaseEnd)
LEDGER_BEGAN = SignalName("ledger_began", NoneType)
ADD = SignalName("add", BacklogBatch)
PIECE_ENDED = SignalName("piece_ended", PieceEnded)

STATUS = QueryName("status", StatusRequest, DeskStatus)
CONFIGURATION = QueryName("configuration", NoneType, Configuration)
UNCONFIRMED_HOLDS = QueryName("unconfirmed_holds", str, UnconfirmedHolds)
WAITING = QueryName("waiting", NoneType, int)
