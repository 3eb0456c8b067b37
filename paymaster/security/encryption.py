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
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter, PydanticPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    EncodingPayloadConverter,
    PayloadCodec,
)

from paymaster.keys.api_key import KeySource, KeyUnavailable
from paymaster.messages import ENCRYPTED, Configure
from paymaster.messages.bounds import check_text, may_come_from_anybody
from paymaster.messages.config_reading import read_configure
from paymaster.security.failures import EncodingFailureConverter, RedactingFailureConverter
from paymaster.values.json_reading import check_levels, check_values
from paymaster.values.limits import ERRORS_TOLD_MAX

KEY_NAME = "encryption-key-id"
"""Metadata: the name of the key."""
KEY_CHECK = "encryption-key-check"
"""Metadata: tells a key from another one that was given the same name."""
MISSING_KEY = "missing-key"
"""Metadata of what takes the place of a payload for which there is no key here."""
KEY_BYTES = 32
_LONG = 64 * 1024
"""Bytes of JSON from which on its data is made before it is validated. While Pydantic reads JSON itself, each error has
a copy made of the whole input, and a large object that lacks ten fields has ten errors."""
_SALT_BYTES = 16
_NONCE_BYTES = 12  # of AES-GCM
_HOW_TO_MAKE = "make one with `openssl rand -base64 32`"


class PayloadUnreadable(ValueError):
    """An encrypted payload was changed on its way, or is encrypted with another key of the same name."""


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
        """What is not encrypted stays as it is. Raises KeyUnavailable when the keys cannot be fetched.

        What cannot be decrypted becomes the reason, which is raised only when somebody wants to know the content: an
        exception here would stop a whole workflow, the ledger too, over one broken signal or one stranger's update.
        """
        await self.load()
        decoded: list[Payload] = []
        for payload in payloads:
            try:
                decoded.append(self.decrypt(payload))
            except PayloadUnreadable as error:
                decoded.append(Payload(metadata={"encoding": ENCRYPTED}, data=str(error).encode()))
            except KeyUnavailable as error:
                decoded.append(Payload(metadata={"encoding": ENCRYPTED, MISSING_KEY: b"1"}, data=str(error).encode()))
        return decoded

    def decrypt(self, payload: Payload) -> Payload:
        """The content of one payload, once the keys are loaded; itself when it is not encrypted.

        Raises KeyUnavailable and PayloadUnreadable.
        """
        if payload.metadata.get("encoding") != ENCRYPTED:
            return payload
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


class _Unreadable(EncodingPayloadConverter):
    """Says, in the place of its content, why a payload could not be decrypted."""

    @property
    def encoding(self) -> str:
        return ENCRYPTED.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        reason = payload.data.decode(errors="replace")
        raise KeyUnavailable(reason) if MISSING_KEY in payload.metadata else PayloadUnreadable(reason)


class _BoundedJSON(PydanticJSONPlainPayloadConverter):
    """JSON, of which Paymaster's own messages have no more values, levels and errors than they may.

    What anybody can send to a workflow is read on a thread during which no other runs; 2 MB can hold a million values,
    each with an error of its own. What other libraries and agents send is theirs.
    """

    def from_payload(self, payload: Payload, type_hint: type[Any] | None = None) -> Any:
        """Raises ValueError, as for everything that is not the message."""
        if isinstance(type_hint, type) and issubclass(type_hint, BaseModel):
            if issubclass(type_hint, Configure):
                return read_configure(payload.data)
            check_text(payload.data, type_hint)
            if may_come_from_anybody(type_hint):
                return _message(payload.data, type_hint)
        return super().from_payload(payload, type_hint)


class _AllBoundedJSON(_BoundedJSON):
    """JSON, which has no more values and levels than may pass through also where it is no message.

    The SDK reads what nobody asked for as anything: the arguments of a query that takes none, or the second of an
    update that takes one. What has too much in it is left as it came.
    """

    def from_payload(self, payload: Payload, type_hint: type[Any] | None = None) -> Any:
        """Raises ValueError, as for everything that is not of that type."""
        if not isinstance(type_hint, type) or not issubclass(type_hint, BaseModel):
            try:
                check_values(payload.data)
                check_levels(payload.data)
            except ValueError:
                if type_hint is None:
                    return RawValue(payload)
                raise
        return super().from_payload(payload, type_hint)


def _message(text: bytes, kind: type[BaseModel]) -> BaseModel:
    try:
        return kind.model_validate(from_json(text)) if len(text) > _LONG else kind.model_validate_json(text)
    except ValidationError as error:
        if error.error_count() <= ERRORS_TOLD_MAX:
            raise
        problem = f"not a {kind.__name__}: {error.error_count():,} of its values are wrong"
    raise ValueError(problem)


def _converters(json: EncodingPayloadConverter) -> tuple[EncodingPayloadConverter, ...]:
    """Pydantic's, with this one for JSON."""
    others = [each for each in PydanticPayloadConverter().converters.values() if each.encoding != json.encoding]
    return (*others, json, _Unreadable())  # JSON takes everything to write: others come first


# The SDK makes a converter for each run of a workflow; its parts keep what they know of types, which all share.
_CONVERTERS = _converters(_BoundedJSON())
_OWN_CONVERTERS = _converters(_AllBoundedJSON())


class PaymasterPayloadConverter(PydanticPayloadConverter):
    """Pydantic's, which also bounds Paymaster's messages, and knows a payload that could not be decrypted."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_CONVERTERS)


class OwnWorkflowsPayloadConverter(PydanticPayloadConverter):
    """What Paymaster's own workflows read by: bounds everything that anybody can send them."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_OWN_CONVERTERS)


def data_converter(encryption: PayloadEncryption) -> DataConverter:
    """How everything of Paymaster is written into Temporal. The one place that decides it."""
    # The messages and tracebacks of failures are encrypted too: a provider's error may repeat a piece of the prompt.
    return DataConverter(
        payload_converter_class=PaymasterPayloadConverter,
        payload_codec=encryption,
        failure_converter_class=EncodingFailureConverter if encryption.encrypts else RedactingFailureConverter,
    )


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
