"""Signed admin commands: an Ed25519 signature says who gives a command, to which ledger, and until when.

What is signed names the ledger and its epoch (the books, which begin anew when Temporal's state is lost), the command
with all its fields, an id and an expiry time: the same signature is good for nothing else, and for one time only.
Checking is a pure function of bytes and needs no secret, so that the ledger does it inside its workflow."""

import contextlib
import json
from base64 import b64decode
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from paymaster.messages import AdminMessage, Configure, Signature

SIGNATURE_LIVES_MS = 300_000
"""How long a new signature is good: for the way to the ledger, and for clocks that differ a little."""

SIGNATURE_LIVES_MAX_MS = 3_600_000
"""The ledger takes none that is good for longer, because it remembers each used one until it expires."""

_PURPOSE = b"paymaster admin command 1\n"
"""In front of what is signed, so that a signature made for something else never fits."""

SignedT = TypeVar("SignedT", bound=AdminMessage | Configure)


def is_genuine(
    public: str, action: str, command: AdminMessage | Configure, signature: Signature, *, ledger: str, epoch: str
) -> bool:
    """Whether the owner of this public key signed exactly this command to this ledger."""
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public, validate=True))
        value = b64decode(signature.value, validate=True)
        key.verify(value, signed_bytes(action, command, signature, ledger=ledger, epoch=epoch))
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_bytes(
    action: str, command: AdminMessage | Configure, signature: Signature, *, ledger: str, epoch: str
) -> bytes:
    document = {
        "action": action,
        "by": signature.by,
        # Without defaults, so that a field which a later version adds does not change what an earlier one signed.
        # Not in mode "json": a large configuration would be compressed, which zlib may do differently somewhere else.
        "command": command.model_dump(exclude={"signature"}, exclude_defaults=True),
        "epoch": epoch,
        "expires_at_ms": signature.expires_at_ms,
        "id": signature.id,
        "ledger": ledger,
    }
    return _PURPOSE + json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _refuse_one() -> None:
    """Refuses a signature once, outside of any workflow: the library imports its exception when it first raises it, and
    that import, inside the workflow sandbox, would abort the whole process."""
    with contextlib.suppress(InvalidSignature):
        Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().verify(bytes(64), b"")


_refuse_one()
