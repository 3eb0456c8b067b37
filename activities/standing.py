"""standing: what is left of some budgets, for an agent or a program that asks before it calls."""

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from paymaster.errors import LedgerNotFound
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.ledger.handle import Ledger
from paymaster.messages import Answer, AskStanding, Command, StandingAnswer, StandingRequest
from paymaster.messages.temporal_names import STANDING_UNKNOWN
from paymaster.security.payloads import PLAIN, as_raw, in_plain_text, read_raw

SINCE_RULES = 2
"""A worker of version 0.1.0 could not replay a ledger that was asked."""


class StandingActivities:
    def __init__(self, ledger: Ledger, commits: GroupCommit[Command, Answer]) -> None:
        """`commits` take the question to the ledger in the same updates as the commands of calls."""
        self._ledger = ledger
        self._commits = commits
        self._may_ask = False

    @activity.defn
    async def standing(self, message: RawValue) -> RawValue:
        """`message` is a StandingRequest, the result a Standing: in plain text for whoever asks in plain text.

        Raises an ApplicationError of type StandingUnknown, which is tried again where the answer may come yet.
        """
        try:
            asked = read_raw(message, StandingRequest)
            answer = await self._ask(
                AskStanding(budget=asked.budgets[0], further_budgets=asked.budgets[1:], run=asked.run)
            )
        except (ValueError, PoisonedBatch) as error:  # of a message that is none, or that the ledger refused
            raise _unknown(str(error), passing=False) from error
        except (CommitUnavailable, LedgerNotFound) as error:
            raise _unknown(str(error), passing=True) from error
        if answer.standing is None:
            raise _unknown(answer.unknown, passing=answer.passing)
        return in_plain_text(answer.standing) if PLAIN in message.payload.metadata else as_raw(answer.standing)

    async def _ask(self, command: AskStanding) -> StandingAnswer:
        self._may_ask = self._may_ask or await self._ledger.rules() >= SINCE_RULES
        if not self._may_ask:
            words = (
                "the ledger still runs by the rules of version 0.1.0: `paymaster upgrade`, when no older worker runs"
            )
            return StandingAnswer(unknown=words)
        answer = await self._commits.submit(command)
        assert isinstance(answer, StandingAnswer)  # what the ledger answers to the question
        return answer


def _unknown(detail: str, *, passing: bool) -> ApplicationError:
    return ApplicationError(detail, type=STANDING_UNKNOWN, non_retryable=not passing)
