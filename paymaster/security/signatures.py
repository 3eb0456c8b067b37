"""Signed admin commands: an Ed25519 signature says who gives a command, to which ledger, and until when.

What is signed names the ledger and its epoch (the books, which begin anew when Temporal's state is lost), the command
with all its fields, an id and an expiry time: the same signature is good for nothing else, and for one time only.
Checking is a pure function of bytes and needs no secret, so that the ledger does it inside its workflow.
"""

import contextlib
import json
import os
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from paymaster.messages import AdminMessage, Configure, Signature

SIGNATURE_LIVES_MS = 300_000
"""How long a new signature is good: for the way to the ledger, and for clocks that differ a little."""
SIGNATURE_LIVES_MAX_MS = 3_600_000
"""The ledger takes none that is good for longer, because it remembers each used one until it expires."""
_PURPOSE = b"paymaster admin command 1\n"
"""In front of what is signed, so that a signature made for something else never fits."""

SignedT = TypeVar("SignedT", bound=AdminMessage | Configure)


class KeyFileUnusable(Exception):
    """A file with a signing key that cannot be read or made. The message says what to do."""


class SigningKey:
    """An admin's private key, which prints as its public one."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = b64encode(private.public_key().public_bytes_raw()).decode()
        """As it is written in `[admin.keys]`."""

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public!r})"

    @classmethod
    def create(cls, file: Path) -> "SigningKey":
        """A new key in a new file that only its owner can read. Raises KeyFileUnusable; never overwrites a file."""
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeyFileUnusable(f"{file} exists already; a key is never overwritten, name another file") from None
        except OSError as error:
            raise KeyFileUnusable(f"{file} cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
        return cls(private)

    @classmethod
    def read(cls, file: Path) -> "SigningKey":
        """The key in a file. Raises KeyFileUnusable, also when others can read the file."""
        try:
            if file.stat().st_mode & 0o077:
                raise KeyFileUnusable(f"{file} can be read by others; run `chmod 600 {file}`")
            private = load_pem_private_key(file.read_bytes(), password=None)
        except OSError as error:
            raise KeyFileUnusable(f"{file} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a passphrase
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileUnusable(
                f"{file} is not an Ed25519 key in PEM without a passphrase; `paymaster admin new-key FILE` makes one"
            )
        return cls(private)

    def sign(
        self, action: str, command: SignedT, *, by: str, ledger: str, epoch: str, lives_ms: int = SIGNATURE_LIVES_MS
    ) -> SignedT:
        """The command with a signature that is good from now on for `lives_ms`, once."""
        unsigned = Signature(by=by, id=uuid4().hex, expires_at_ms=int(time.time() * 1000) + lives_ms, value="")
        value = self._private.sign(_signed_bytes(action, command, unsigned, ledger=ledger, epoch=epoch))
        signature = unsigned.model_copy(update={"value": b64encode(value).decode()})
        return command.model_copy(update={"signature": signature})


def is_genuine(
    public: str, action: str, command: AdminMessage | Configure, signature: Signature, *, ledger: str, epoch: str
) -> bool:
    """Whether the owner of this public key signed exactly this command to this ledger."""
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public, validate=True))
        value = b64decode(signature.value, validate=True)
        key.verify(value, _signed_bytes(action, command, signature, ledger=ledger, epoch=epoch))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed_bytes(
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
