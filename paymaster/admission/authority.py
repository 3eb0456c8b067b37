"""Whether a command of an admin may be carried out, by the configuration in force."""

from paymaster.admission.signatures import SignedT
from paymaster.admission.signed_commands import check_signature
from paymaster.admission.state import DeskState


def signed(state: DeskState, action: str, command: SignedT, *, may_have_expired: bool = False) -> SignedT:
    """The command, in the name of who signed it. Raises SignatureRefused for one that is not signed as it must be."""
    return check_signature(
        action,
        command,
        state.config.admin,
        state.used_signatures,
        ledger=state.ledger,
        epoch=state.epoch,
        now_ms=state.now_ms,
        may_have_expired=may_have_expired,
    )
