"""What the commands of admins were answered, by command id, so that whoever asks again gets the same answer.

Temporal remembers the ids of updates for one run only; this is part of the desk's state, and so lives on in the next.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from pydantic import BaseModel

from paymaster.admission.signed_commands import SignatureRefused
from paymaster.admission.stale import ApprovalRefused, Stale
from paymaster.messages import AdminMessage, Configure
from paymaster.values.limits import ANSWERS_BYTES_MAX, ANSWERS_MAX, REFUSAL_BYTES_MAX

SINCE_RULES = 2
"""Older rules remember nothing: a worker of version 0.1.0, which may go on with the run, would answer otherwise."""

AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(slots=True)
class CommandAnswer:
    """The answer to one command."""

    command: str
    """A digest of the command's name and content."""
    text: str
    """The answer as JSON, or why the command was refused."""
    refused: bool = False

    def size(self) -> int:
        return len(self.command) + len(self.text.encode())


class CommandAnswers:
    """The answers to the latest commands, in the order in which they were given."""

    def __init__(self, kept: dict[str, CommandAnswer], rules: int) -> None:
        """`kept` is where they are, by command id; `rules` are those of the ledger's run."""
        self._kept = kept
        self._remembers = rules >= SINCE_RULES
        self._bytes = sum(len(command_id) + answer.size() for command_id, answer in kept.items())

    def once(self, command_id: str, digest: str, kind: type[AnswerT], act: Callable[[], AnswerT]) -> AnswerT:
        """The answer that the command of this id got before, else the one that `act` gives, which is remembered.

        Raises ValueError as `act` did, and for an id that another command had. A command whose signature was refused
        is not remembered: it did nothing, and nobody without a key shall crowd out the answers of those who have one.
        Nor is one that came too late for what its sender saw, or that an approver may not give now.
        """
        if not self._remembers:
            return act()
        if earlier := self._kept.get(command_id):
            if earlier.command != digest:
                raise ValueError(f"the command id {command_id!r} was used before, for another command")
            if earlier.refused:
                raise ValueError(earlier.text)
            return kind.model_validate_json(earlier.text)
        try:
            answer = act()
        except (SignatureRefused, Stale, ApprovalRefused):
            raise
        except ValueError as error:
            text = str(error).encode(errors="replace")[:REFUSAL_BYTES_MAX].decode(errors="ignore")
            self._keep(command_id, CommandAnswer(digest, text, refused=True))
            raise
        self._keep(command_id, CommandAnswer(digest, answer.model_dump_json()))
        return answer

    def _keep(self, command_id: str, answer: CommandAnswer) -> None:
        self._kept[command_id] = answer
        self._bytes += len(command_id) + answer.size()
        while len(self._kept) > ANSWERS_MAX or self._bytes > ANSWERS_BYTES_MAX:
            oldest = next(iter(self._kept))
            self._bytes -= len(oldest) + self._kept.pop(oldest).size()


def digest_of(name: str, command: AdminMessage | Configure) -> str:
    """Tells whether two commands are the same. Signatures are left out: a command may be signed anew."""
    exclude = {"signature", "config"} if isinstance(command, Configure) else {"signature"}
    content = command.model_dump(mode="json", exclude=exclude, exclude_defaults=True)
    if isinstance(command, Configure):  # megabytes, which its own digest stands for
        content["config"] = command.config.digest
    return sha256(f"{name} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()[:32]
