"""What can go wrong, as an agent sees it.

PaymasterError              an agent may catch this one
├── CallFailed
│   ├── CallDenied          nothing more was sent: budget, limit or configuration      → ask an admin, or do without
│   └── CallUnavailable     every allowed service failed, or no ledger answered        → do without, or try later
├── CallIdReused            the id has other content, or what was paid for is gone     → choose another id
├── StandingUnknown         what is left of a budget is not known                      → name another one, or ask later
├── PurchaseDenied          nothing was held: budget, configuration, or no ledger      → ask an admin, or do without
├── PurchaseEnded           what a purchase did cost is said twice, or too late        → resolve it by command
├── AnswerGone              a stored answer is deleted, or cannot be read any more    → read it sooner, or ask again
└── OutputInvalid           the answer is not what was asked for, even when repaired   → ask otherwise, or do without

They are Temporal `ApplicationError`s, because any other exception that leaves an agent's workflow does not fail it but
makes its task run again for ever.
"""

from temporalio.exceptions import ApplicationError

from paymaster.messages import LLMResult, Outcome
from paymaster.messages.purchases import PurchaseResult
from paymaster.messages.temporal_names import CALL_ID_REUSED


class PaymasterError(ApplicationError):
    def __init__(self, message: str) -> None:
        super().__init__(message, type=type(self).__name__, non_retryable=True)


class CallFailed(PaymasterError):
    """A call that ended without an answer; `result` has its attempts and cost."""

    def __init__(self, result: LLMResult) -> None:
        super().__init__(f"{result.reason}: {result.detail}")
        self.result = result


class CallDenied(CallFailed):
    """Nothing more was sent: the budget, a limit or the configuration forbids it."""


class CallUnavailable(CallFailed):
    """Every service that was allowed failed, or the ledger could not be reached."""


class CallIdReused(PaymasterError):
    """The id of a call or purchase was used before: with other content, or by one that was paid for and that Temporal
    has forgotten with its answer. Nothing was sent, or held."""

    def __init__(self, call_id: str, detail: str | None = None) -> None:
        """`detail` None: it has other content."""
        other = f"call id {call_id!r} was used before with other content; the same id means the same call"
        super().__init__(detail or other)


class PurchaseDenied(PaymasterError):
    """Nothing may be bought: the budget or the configuration forbids it, or no ledger answered. `result` says why."""

    def __init__(self, result: PurchaseResult) -> None:
        super().__init__(f"{result.reason}: {result.detail}")
        self.result = result


class PurchaseEnded(PaymasterError):
    """What a purchase did cost was said before, or it had ended before that was said."""


class AnswerGone(PaymasterError):
    """An answer that was too large for Temporal's histories, and is not stored any more or cannot be read."""


class StandingUnknown(PaymasterError):
    """What is left of a budget is not known: there is no such budget, or the ledger does not answer."""


class OutputInvalid(PaymasterError):
    """An answer that does not fit the pydantic model that was asked for; `result` has it, and what it cost."""

    def __init__(self, result: LLMResult, problem: str) -> None:
        super().__init__(f"the answer of call {result.call_id} does not fit: {problem}")
        self.result = result


class AdminRefused(Exception):
    """An admin's command that makes no sense to the ledger; the message says what exists."""


class AdminStale(AdminRefused):
    """An admin's command for what has changed since its sender saw it."""


class LedgerNotFound(Exception):
    """There is no ledger of this name in the Temporal namespace, or no worker answers for it."""

    def __init__(self, message: str, command_id: str | None = None) -> None:
        super().__init__(message)
        self.command_id = command_id
        """Of a command that may have been carried out all the same: given again with this id it is not carried out
        twice. None: it certainly was not, or it was no command."""


def not_reused_or_raise(result: LLMResult) -> LLMResult:
    """The result, unless its call id outlived the call that it was used for. Raises CallIdReused then."""
    if result.reason == CALL_ID_REUSED:
        raise CallIdReused(result.call_id, result.detail)
    return result


def completed_or_raise(result: LLMResult) -> LLMResult:
    """The result when it is an answer. Raises CallDenied, CallUnavailable or CallIdReused otherwise."""
    match not_reused_or_raise(result).outcome:
        case Outcome.COMPLETED:
            return result
        case Outcome.DENIED:
            raise CallDenied(result)
        case Outcome.UNAVAILABLE:
            raise CallUnavailable(result)
