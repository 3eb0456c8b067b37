"""Whether a command of an admin may be carried out, by the configuration in force."""

from paymaster.admission.signatures import SignedT
from paymaster.admission.signed_commands import check_signature
from paymaster.admission.state import DeskState
from paymaster.messages import AdminConfig, RaiseCap


def signed(state: DeskState, action: str, command: SignedT, *, may_have_expired: bool = False) -> SignedT:
    """The command, in the name of who signed it. Raises SignatureRefused for one that is not signed as it must be.

    What an approver gives is signed with that approver's key, which is good for nothing else.
    """
    admins, table = state.config.admin, "[admin.keys]"
    if isinstance(command, RaiseCap) and command.approval is not None:
        approver = state.config.approvers.get(command.approval.by)
        keys = {} if approver is None or not approver.key else {command.approval.by: approver.key}
        admins, table = AdminConfig(require_signature=admins.require_signature, keys=keys), "[approvals]"
    return check_signature(
        action,
        command,
        admins,
        state.used_signatures,
        ledger=state.ledger,
        epoch=state.epoch,
        now_ms=state.now_ms,
        may_have_expired=may_have_expired,
        table=table,
    )
