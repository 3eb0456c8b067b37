"""BudgetWorkflow: a durable shell around the desk. It receives, applies and persists; every decision is the desk's.

It runs for ever, on its own task queue. Calls send commands by the update `apply` (many in one, see
paymaster/group_commit.py), admins send `raise_cap`, as a signal or as an update that answers, and operators ask the
query `status`.
"""

import contextlib
import json
from datetime import timedelta
from decimal import Decimal

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from paymaster.admission.desk import NEVER_MS, Desk, DeskState
from paymaster.messages import (
    ACTIVITIES_TASK_QUEUE,
    Answer,
    AnswerBatch,
    CapState,
    Command,
    CommandBatch,
    Delivery,
    Denied,
    DeskConfig,
    DeskStatus,
    LedgerStart,
    Outbox,
    RaiseCap,
    Refused,
    Reserve,
)

DELIVER_AT_MOST = 200
"""Items of the outbox in one delivery."""
DELIVERY_PAUSE = timedelta(milliseconds=250)
"""Between two deliveries, so that what comes meanwhile goes together."""


@workflow.defn(name="BudgetWorkflow")
class BudgetWorkflow:
    @workflow.init
    def __init__(self, start: LedgerStart) -> None:
        """Restores the desk here and not in `run`: a signal can be handled before `run` begins."""
        if start.state is None:
            epoch = workflow.info().first_execution_run_id
            self._desk = Desk(DeskState(ledger=start.ledger, epoch=epoch))
            self._desk.configure(start.config, _now_ms())
        else:
            self._desk = Desk.load(start.state)
        self._ledger = start.ledger

    @workflow.run
    async def run(self, start: LedgerStart) -> None:
        while not workflow.info().is_continue_as_new_suggested():
            await self._until_something_happens()
            self._desk.advance(_now_ms())
            if self._desk.state.outbox and not workflow.info().is_continue_as_new_suggested():
                await self._deliver()
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(
            LedgerStart(ledger=self._ledger, config=self._desk.state.config, state=self._desk.dump())
        )

    async def _until_something_happens(self) -> None:
        """Sleeps until there is something to deliver, or until the time at which the desk wants to look again."""
        due_ms = self._desk.due_ms
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: (
                    bool(self._desk.state.outbox)
                    or self._desk.due_ms < due_ms
                    or workflow.info().is_continue_as_new_suggested()
                ),
                timeout=max(timedelta(0), timedelta(milliseconds=due_ms - _now_ms())) if due_ms < NEVER_MS else None,
                timeout_summary="a hold expires, or a parked call is due",
            )

    async def _deliver(self) -> None:
        """Sends what is in the outbox. What did not arrive stays there and is sent again."""
        items = tuple(self._desk.state.outbox[:DELIVER_AT_MOST])
        try:
            delivery = await workflow.execute_activity(
                "deliver",
                Outbox(ledger=self._ledger, items=items),
                result_type=Delivery,
                task_queue=ACTIVITIES_TASK_QUEUE,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=5), maximum_attempts=10),
            )
        except ActivityError as error:
            workflow.logger.warning("delivery failed, trying again: %s", error.cause)
            delivery = Delivery()
        self._desk.delivered(delivery, _now_ms())
        await workflow.sleep(DELIVERY_PAUSE, summary="between deliveries")

    # ------------------------------------------------------------ calls

    @workflow.update
    def apply(self, batch: CommandBatch) -> AnswerBatch:
        """One answer for each command, in order."""
        answers = tuple(self._apply(command) for command in batch.commands)
        self._desk.advance(_now_ms())
        return AnswerBatch(answers=answers)

    def _apply(self, command: Command) -> Answer:
        try:
            return self._desk.handle(command, _now_ms())
        except Exception as error:  # a defect in one command must not stop the ledger for all the others
            workflow.logger.exception("the desk failed on %s", command.kind)
            if isinstance(command, Reserve):
                return Denied(hold_id=command.hold_id, reason="ledger_error", detail=repr(error))
            return Refused(hold_id=command.hold_id, detail=repr(error))

    @workflow.update
    def configure(self, config: DeskConfig) -> None:
        """A worker's configuration; the same one again changes nothing."""
        self._desk.configure(config, _now_ms())

    # ------------------------------------------------------------ admins and operators

    @workflow.signal(name="raise_cap")
    def raise_cap_signal(self, message: RawValue) -> None:
        """Decoded here, because the SDK drops what it cannot decode: a wrong signal must be seen by somebody."""
        text = message.payload.data.decode(errors="replace")
        try:
            self._desk.raise_cap(RaiseCap.model_validate(json.loads(text, parse_float=Decimal)), _now_ms())
        except ValueError as error:
            workflow.logger.error("refused raise_cap %s: %s", text, _reason(error))
            self._desk.refuse_message(f"raise_cap {text[:200]}: {_reason(error)}")

    @workflow.update(name="raise_cap")
    def raise_cap_update(self, change: RaiseCap) -> CapState:
        try:
            return self._desk.raise_cap(change, _now_ms())
        except ValueError as error:
            raise ApplicationError(_reason(error), type="Refused", non_retryable=True) from error

    @workflow.query
    def status(self) -> DeskStatus:
        return self._desk.status()


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors())
    return str(error)


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000
