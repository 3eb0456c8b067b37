"""A data converter with Paymaster's encryption and redaction on top of whatever else a client has."""

from collections.abc import Sequence
from dataclasses import dataclass

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    DataConverter,
    ExternalStorage,
    PayloadCodec,
    SerializationContext,
    StorageDriverStoreContext,
    WithSerializationContext,
)

from paymaster.security.encryption import PayloadEncryption
from paymaster.security.failures import redacting
from paymaster.security.payloads import PLAIN, REASON, STORAGE, PaymasterPayloadConverter, unreadable
from paymaster.security.team_storage import (
    AgentsChoice,
    NoStorage,
    WorkersStorage,
    agents_storage,
    not_had,
    why_not_had,
)


class ComposedCodec(PayloadCodec, WithSerializationContext):
    """The codec of a team, and around it Paymaster's encryption."""

    def __init__(
        self, encryption: PayloadEncryption, inner: PayloadCodec | None = None, *, marks_plain: bool = False
    ) -> None:
        """`inner`: the team's. None: there is none. `marks_plain`: what came in plain text is marked as PLAIN, and goes
        out in plain text where it is handed on."""
        self.encryption = encryption
        self.inner = inner
        self._marks_plain = marks_plain

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises KeyUnavailable, and what the team's codec raises."""
        if any(PLAIN in payload.metadata for payload in payloads):
            return [_unmarked(each) if PLAIN in each.metadata else (await self.encode([each]))[0] for each in payloads]
        inner = payloads if self.inner is None else await self.inner.encode(payloads)
        encoded = await self.encryption.encode(inner)
        if len(encoded) == len(payloads):
            for payload, hidden in zip(payloads, encoded, strict=True):
                if STORAGE in payload.metadata:  # for whoever chooses the storage, after this
                    hidden.metadata[STORAGE] = payload.metadata[STORAGE]
        return encoded

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """What is in plain text stays as it is. Raises KeyUnavailable, and what the team's codec raises."""
        received = [_without_marks(each) for each in payloads]
        decoded = await self.encryption.decode(received)
        if self.inner is not None:
            decoded = await self.inner.decode(decoded)
        if self._marks_plain and len(decoded) == len(received):
            return [
                _marked(after) if after == before else after for before, after in zip(received, decoded, strict=True)
            ]
        return decoded

    def with_context(self, context: SerializationContext) -> "ComposedCodec":
        """With the team's codec for that context, where it looks at one."""
        if not isinstance(self.inner, WithSerializationContext):
            return self
        return ComposedCodec(self.encryption, self.inner.with_context(context), marks_plain=self._marks_plain)


def _without_marks(payload: Payload) -> Payload:
    """Nobody but this codec says what is unreadable or plain."""
    if REASON in payload.metadata:
        return unreadable(why_not_had(payload) or "this was sent as unreadable")
    return _unmarked(payload) if PLAIN in payload.metadata else payload


def _marked(payload: Payload) -> Payload:
    marked = Payload()
    marked.CopyFrom(payload)
    marked.metadata[PLAIN] = b"1"
    return marked


def _unmarked(payload: Payload) -> Payload:
    plain = Payload()
    plain.CopyFrom(payload)
    del plain.metadata[PLAIN]
    return plain


@dataclass(frozen=True)
class ComposedConverter(DataConverter):
    """A data converter that encrypts and redacts, also after `dataclasses.replace`, by which other plugins change it.

    Payload converter, codec, failure converter and external storage that were there stay.
    """

    encryption: PayloadEncryption | None = None
    marks_plain: bool = False
    """What comes in plain text is marked, for a worker that refuses such requests or answers them likewise."""
    offloads_calls: bool = False
    """Requests may go into external storage, because the workers have it too; else only those that fit nowhere else."""

    def __post_init__(self) -> None:
        if self.encryption is not None:
            codec = self.payload_codec.inner if isinstance(self.payload_codec, ComposedCodec) else self.payload_codec
            codec = ComposedCodec(self.encryption, codec, marks_plain=self.marks_plain)
            object.__setattr__(self, "payload_codec", codec)
            # The messages and tracebacks of failures are encrypted too: a provider's error may repeat the prompt.
            failures = redacting(self.failure_converter_class, encoded=self.encryption.encrypts)
            object.__setattr__(self, "failure_converter_class", failures)
            storage = self.external_storage
            if storage is not None and not isinstance(storage, WorkersStorage) and not _is_composed(storage):
                storage = agents_storage(storage, with_calls=self.offloads_calls)
                object.__setattr__(self, "external_storage", storage)
        super().__post_init__()

    def _with_store_context(self, store_ctx: StorageDriverStoreContext) -> DataConverter:
        # The SDK tells it for each activation and each payload, and has the whole converter made anew each time.
        return self if isinstance(self.external_storage, NoStorage) else super()._with_store_context(store_ctx)

    async def _decode_reference_payload_sequence(self, payloads: Sequence[Payload]) -> list[Payload]:
        if not isinstance(self.external_storage, WorkersStorage):
            return await super()._decode_reference_payload_sequence(payloads)
        decoded: list[Payload] = []
        for payload in payloads:
            try:
                decoded += await super()._decode_reference_payload_sequence([payload])
            except RuntimeError as error:  # the SDK's, over a reference that another codec has encoded
                decoded.append(not_had(str(error)))
        return decoded


def _is_composed(storage: ExternalStorage) -> bool:
    return isinstance(storage.driver_selector, AgentsChoice)


def composed(
    converter: DataConverter,
    encryption: PayloadEncryption,
    codec: PayloadCodec | None = None,
    storage: ExternalStorage | None = None,
) -> ComposedConverter:
    """That converter, with encryption and redaction.

    `codec`, `storage`: the team's, for a client that has none of its own; with `storage` the workers have it too.
    """
    has_codec = converter.payload_codec is not None
    return ComposedConverter(
        payload_converter_class=converter.payload_converter_class,
        payload_codec=converter.payload_codec if has_codec else codec,
        failure_converter_class=converter.failure_converter_class,
        external_storage=storage if converter.external_storage is None else converter.external_storage,
        encryption=encryption,
        offloads_calls=storage is not None,
    )


def data_converter(encryption: PayloadEncryption) -> DataConverter:
    """How a client that has no converter of its own writes into Temporal."""
    return composed(DataConverter(payload_converter_class=PaymasterPayloadConverter), encryption)
