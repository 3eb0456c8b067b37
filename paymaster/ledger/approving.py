"""Raises in the name of approvers: the command that the ledger takes, signed with the key that gateways hold."""

from collections.abc import Mapping
from typing import Protocol

from paymaster.admission.answers import digest_of
from paymaster.keys.api_key import ApiKey, KeyUnavailable
from paymaster.messages import Approval, RaiseCap, Window
from paymaster.messages.temporal_names import RAISE_CAP
from paymaster.security.signing_key import KeyFileUnusable, SigningKey
from paymaster.settings.approvals import ApproverSettings
from paymaster.values.money import nanos_to_usd


class CannotApprove(Exception):
    """No raise can be given in this approver's name here, in words: nothing was sent."""


def approval_id(command: RaiseCap) -> str:
    """The id of a raise in an approver's name: sent again it is the one command, and what another person asks for with
    the same nonce is another one, which the ledger answers in words. Raises ValueError for a raise of an admin."""
    if command.approval is None:
        raise ValueError("this raise is not in an approver's name")
    return f"approval-{command.approval.nonce}-{digest_of(RAISE_CAP.name, command)}"


class Keys(Protocol):
    """Where the keys are that approvers sign with."""

    async def get(self, name: str) -> ApiKey:
        """Raises KeyUnavailable."""
        ...


class Approvers:
    def __init__(self, approvals: Mapping[str, ApproverSettings], keys: Keys, ledger: str) -> None:
        self.tables = approvals
        self._keys = keys
        self._ledger = ledger

    async def raise_cap(
        self,
        account: str,
        window: Window,
        by_nanos: int,
        *,
        approver: str,
        where: str,
        reason: str,
        nonce: str,
        cap_nanos: int,
        window_ends_at_ms: int,
        epoch: str,
    ) -> RaiseCap:
        """The command by which an approver raises a cap until its window ends, signed where the approver has a key.

        `where` it was given, such as "Slack, U012AB3CD". Of all commands with one `nonce` the ledger follows the first.
        `cap_nanos` and `window_ends_at_ms` are what the approver saw, and `epoch` is that of the ledger's copy. Raises
        CannotApprove.
        """
        table = self.tables.get(approver)
        if table is None:
            raise CannotApprove(f"there is no [approvals.{approver}]")
        command = RaiseCap(
            account=account,
            window=window,
            by=str(nanos_to_usd(by_nanos)),
            until_window_end=True,
            who=approver,
            reason=reason,
            approval=Approval(
                by=approver, nonce=nonce, cap_nanos=cap_nanos, window_ends_at_ms=window_ends_at_ms, where=where
            ),
        )
        if table.signing_key is None:
            return command
        key = await self._key(approver, table.signing_key, table.public_key)
        return key.sign(RAISE_CAP.name, command, by=approver, ledger=self._ledger, epoch=epoch)

    async def _key(self, approver: str, name: str, public: str | None) -> SigningKey:
        try:
            key = SigningKey.from_line((await self._keys.get(name)).reveal(), name)
        except (KeyUnavailable, KeyFileUnusable) as error:
            raise CannotApprove(str(error)) from None
        if key.public != public:
            raise CannotApprove(f"the key {name!r} is another one than the public_key of [approvals.{approver}]")
        return key
