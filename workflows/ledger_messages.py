"""Messages of people and workers to the ledger: read at its door, applied once, refused in words that others see."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from paymaster.admission.answers import digest_of
from paymaster.admission.desk import Desk
from paymaster.admission.signed_commands import SignatureRefused
from paymaster.admission.stale import Stale
from paymaster.messages import ENCRYPTED, AdminMessage, Configure
from paymaster.messages.bounds import check_text
from paymaster.messages.temporal_names import (
    ACCEPT_LOWER,
    CONTENT_OF_COMMAND,
    END_RUN,
    PAUSE_SERVICE,
    RAISE_CAP,
    RAISE_RUN,
    RESUME_RUN,
    RESUME_SERVICE,
    SET_CAP,
    STALE,
    TAKE_CLOCK,
    UNSET_CAP,
    SignalName,
    UpdateName,
)
from paymaster.values.json_reading import exact_json

_CAP = '"account":"budget:acme/content","window":"day"'
EXAMPLES: Mapping[str, str] = {
    RAISE_CAP.name: f'{{{_CAP},"by":"5","reason":"launch","who":"ada"}}',
    SET_CAP.name: f'{{{_CAP},"to":"50","reason":"new plan","who":"ada"}}',
    UNSET_CAP.name: f'{{{_CAP},"reason":"as configured","who":"ada"}}',
    RAISE_RUN.name: '{"run":"nightly","by":"2","calls":100,"reason":"more to do","who":"ada"}',
    RESUME_RUN.name: '{"run":"nightly","reason":"it is no loop","who":"ada"}',
    END_RUN.name: '{"run":"nightly","reason":"it is a loop","who":"ada"}',
    PAUSE_SERVICE.name: '{"service":"openai","reason":"incident 4711","who":"ada"}',
    RESUME_SERVICE.name: '{"service":"openai","reason":"it works again","who":"ada"}',
    TAKE_CLOCK.name: '{"reason":"the clock is right now","who":"ada"}',
    ACCEPT_LOWER.name: '{"account":"budget:acme/content","reason":"the rows are right","who":"ada"}',
}
"""What the Temporal UI shows beside each signal of admins: a message to paste and change."""
MessageT = TypeVar("MessageT", bound=BaseModel)
CommandT = TypeVar("CommandT", bound=AdminMessage | Configure)
StateT = TypeVar("StateT", bound=BaseModel)


class LedgerMessages:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def signalled(
        self, signal: UpdateName[MessageT, Any], act: Callable[[MessageT, int], object], message: RawValue
    ) -> None:
        name, change = signal.name, self.decoded(signal, message)
        if change is not None:
            try:
                self._check_tag(change)
                act(change, workflow_now_ms())
            except ValueError as error:
                self.refuse(name, change.model_dump_json(exclude={"signature"}), str(error))
            except Exception as error:  # a defect in one command must not stop the ledger for all the others
                self.failed(name, change, error)

    def answered(
        self, asked: UpdateName[CommandT, StateT], act: Callable[[CommandT, int], StateT], change: CommandT
    ) -> StateT:
        """The answer of an update, once for each update id; what the desk refuses fails the update, and only that."""
        name, update = asked.name, workflow.current_update_info()
        assert update is not None  # only handlers of updates call this
        try:
            digest = digest_of(name, change)
            command_id = update.id.rpartition(CONTENT_OF_COMMAND)[0] or update.id
            return self._desk.answers.once(command_id, digest, asked.result, lambda: self._told(act, change))
        except ValueError as error:
            if isinstance(error, SignatureRefused):  # not a slip of whoever waits for the answer
                self.refuse(name, change.model_dump_json(exclude={"signature"}), str(error))
            kind = STALE if isinstance(error, Stale) else "Refused"
            raise ApplicationError(str(error), type=kind, non_retryable=True) from error
        except Exception as error:  # as above
            self.failed(name, change, error)
            raise ApplicationError(f"internal error: {error!r}", type="Refused", non_retryable=True) from error

    def _told(self, act: Callable[[CommandT, int], StateT], change: CommandT) -> StateT:
        self._check_tag(change)
        return self._desk.copies.told(act(change, workflow_now_ms()))

    def _check_tag(self, change: BaseModel) -> None:
        if isinstance(change, AdminMessage):
            self._desk.check_tag(change, workflow_now_ms())

    def failed(self, name: str, change: BaseModel, error: Exception) -> None:
        workflow.logger.exception("the desk failed on %s", name)
        self.refuse(name, change.model_dump_json(exclude={"signature"}), f"internal error: {error!r}")

    def decoded(self, signal: UpdateName[MessageT, Any] | SignalName[MessageT], message: RawValue) -> MessageT | None:
        """Decoded here, because the SDK drops what it cannot decode: a wrong signal must be seen by somebody."""
        name, kind = signal.name, signal.argument
        text = message.payload.data.decode(errors="replace")
        try:
            if message.payload.metadata.get("encoding") == ENCRYPTED:
                workflow.payload_converter().from_payload(message.payload)  # raises why it could not be decrypted
            check_text(message.payload.data, kind)
            change = kind.model_validate(exact_json(text))
            change.model_dump_json()  # half a surrogate pair can be read, but never be stored or sent on
            return change
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors())
            self.refuse(name, text, "; ".join(problems))
        except ValueError as error:
            self.refuse(name, text, f"not a message: {error}")
        return None

    def refuse(self, name: str, text: str, reason: str) -> None:
        """Cut to length: a reason repeats what was sent, and the ledger keeps it and sends it on with others."""
        refused = f"{name[:100]} {text[:200]}: {reason[:1_000]}".encode(errors="replace").decode()
        workflow.logger.error("refused %s", refused)
        self._desk.refuse_message(refused, workflow_now_ms())


def refuse_unless(check: Callable[[MessageT], None], message: MessageT) -> None:
    """Fails an update, and only that, for what the check raises as ValueError."""
    try:
        check(message)
    except ValueError as error:
        raise ApplicationError(str(error), type="Refused", non_retryable=True) from None


def workflow_now_ms() -> int:
    """Workflow time."""
    return workflow.time_ns() // 1_000_000
