"""An admin's private key: made, read from its file, and used to sign commands."""

import os
import time
from base64 import b64decode, b64encode
from pathlib import Path
from uuid import uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from paymaster.admission.signatures import SIGNATURE_LIVES_MS, SignedT, signed_bytes
from paymaster.messages import Signature


class KeyFileUnusable(Exception):
    """A file with a signing key that cannot be read or made. The message says what to do."""


class SigningKey:
    """An admin's private key, which prints as its public one."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = b64encode(private.public_key().public_bytes_raw()).decode()
        """The public key in base64, which belongs into `[admin.keys]`."""

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

    @classmethod
    def from_line(cls, line: str, name: str) -> "SigningKey":
        """The key in the second line of such a file, which a key ring has under this name. Raises KeyFileUnusable."""
        try:
            private = load_der_private_key(b64decode(line, validate=True), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileUnusable(
                f"the key {name!r} is not the second line of a file of `paymaster admin new-key FILE`"
            )
        return cls(private)

    def sign(
        self, action: str, command: SignedT, *, by: str, ledger: str, epoch: str, lives_ms: int = SIGNATURE_LIVES_MS
    ) -> SignedT:
        """The command with a signature that is good from now on for `lives_ms`, once."""
        unsigned = Signature(by=by, id=uuid4().hex, expires_at_ms=int(time.time() * 1000) + lives_ms, value="")
        value = self._private.sign(signed_bytes(action, command, unsigned, ledger=ledger, epoch=epoch))
        signature = unsigned.model_copy(update={"value": b64encode(value).decode()})
        return command.model_copy(update={"signature": signature})
