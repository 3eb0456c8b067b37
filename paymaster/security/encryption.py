"""Payload encryption: whoever reads Temporal's histories, but has no key, reads no prompt and no answer.

Each payload is encrypted with AES-256-GCM under a key of its own, derived from the named key and 16 random bytes: so
random nonces may be used for any number of payloads. The name of the key is in the payload's metadata, so that several
keys can be in use: the first one encrypts, all of them decrypt. What came in plain text (a signal from the Temporal UI,
a history from before) is taken as it is: encryption hides what is stored, it does not prove who wrote it.
"""

import binascii
import os
from base64 import b64decode
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from paymaster.keys.api_key import KeySource, KeyUnavailable
from paymaster.messages import ENCRYPTED
from paymaster.security.payloads import PayloadUnreadable, unreadable

KEY_NAME = "encryption-key-id"
"""Metadata: the name of the key."""
KEY_CHECK = "encryption-key-check"
"""Metadata: tells a key from another one that was given the same name."""
KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE_BYTES = 12  # of AES-GCM
_HOW_TO_MAKE = "make one with `openssl rand -base64 32`"


class _EncryptionKey:
    def __init__(self, name: str, secret: bytes) -> None:
        self.name = name
        self._secret = secret
        self.check = self._derive(b"check", b"")[:4].hex().encode()

    def encrypt(self, plain: bytes) -> bytes:
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        return salt + nonce + self._cipher(salt).encrypt(nonce, plain, self.name.encode())

    def decrypt(self, data: bytes) -> bytes:
        """Raises InvalidTag; ValueError when it is too short to be anything."""
        salt, nonce = data[:_SALT_BYTES], data[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        return self._cipher(salt).decrypt(nonce, data[_SALT_BYTES + _NONCE_BYTES :], self.name.encode())

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(self._derive(b"payload", salt))

    def _derive(self, purpose: bytes, salt: bytes) -> bytes:
        return HKDF(SHA256(), KEY_BYTES, salt, b"paymaster 1 " + purpose).derive(self._secret)


class PayloadEncryption(PayloadCodec):
    """Encrypts with the first of the named keys, decrypts with any of them. Without keys it encrypts nothing."""

    def __init__(self, names: Sequence[str], open_source: Callable[[], KeySource]) -> None:
        """`open_source` gives where the keys are; it is closed again when they are fetched."""
        self._names = tuple(names)
        self._open_source = open_source
        self._keys: dict[str, _EncryptionKey] = {}

    @property
    def encrypts(self) -> bool:
        """Whether there is a key to encrypt with."""
        return bool(self._names)

    async def load(self) -> None:
        """Fetches the keys, once: the value behind a name must not change. Raises KeyUnavailable."""
        missing = [name for name in self._names if name not in self._keys]
        if not missing:
            return
        source = self._open_source()
        try:
            for name in missing:
                self._keys[name] = _EncryptionKey(name, _secret(name, (await source.get(name)).reveal()))
        finally:
            await source.close()

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises KeyUnavailable."""
        if not self._names:
            return list(payloads)
        await self.load()
        key = self._keys[self._names[0]]
        return [
            Payload(
                metadata={"encoding": ENCRYPTED, KEY_NAME: key.name.encode(), KEY_CHECK: key.check},
                data=key.encrypt(payload.SerializeToString()),
            )
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """What Paymaster has not encrypted stays as it is. Raises KeyUnavailable when the keys cannot be fetched.

        What cannot be decrypted becomes the reason, which is raised only when somebody wants to know the content: an
        exception here would stop a whole workflow, the ledger too, over one broken signal or one stranger's update.
        """
        await self.load()
        decoded: list[Payload] = []
        for payload in payloads:
            try:
                decoded.append(self.decrypt(payload))
            except PayloadUnreadable as error:
                decoded.append(unreadable(str(error)))
            except KeyUnavailable as error:
                decoded.append(unreadable(str(error), missing_key=True))
        return decoded

    def decrypt(self, payload: Payload) -> Payload:
        """The content of one payload, once the keys are loaded; itself when Paymaster has not encrypted it.

        Raises KeyUnavailable and PayloadUnreadable.
        """
        if payload.metadata.get("encoding") != ENCRYPTED or KEY_CHECK not in payload.metadata:
            return payload  # others, such as Temporal's own examples, call what they encrypt the same
        name = payload.metadata.get(KEY_NAME, b"").decode(errors="replace")
        key = self._keys.get(name)
        if key is None:
            raise KeyUnavailable(
                f"this is encrypted with the key {name!r}, which [encryption] keys does not name here; add it to that "
                f"list (PAYMASTER__ENCRYPTION__KEYS in the environment), after the key that encrypts, and provide it"
            )
        if payload.metadata.get(KEY_CHECK) != key.check:
            raise PayloadUnreadable(
                f"this is encrypted with another key that was called {name!r} too: give that name its old value again, "
                "and the new value a name of its own"
            )
        try:
            content = key.decrypt(payload.data)
            return Payload.FromString(content)
        except (InvalidTag, ValueError, DecodeError):
            raise PayloadUnreadable(
                f"this was changed or cut after it had been encrypted with the key {name!r}; nothing can decrypt it"
            ) from None


def _secret(name: str, text: str) -> bytes:
    try:
        secret = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise KeyUnavailable(
            f"the key {name!r} cannot encrypt: it must be {KEY_BYTES} random bytes in base64; {_HOW_TO_MAKE}"
        )
    return secret
