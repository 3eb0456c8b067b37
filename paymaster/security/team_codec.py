"""The payload codec of a team, as the worker and the commands use it: loaded by its name, and never in the way."""

from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.converter import DefaultPayloadConverter, PayloadCodec, SerializationContext, WithSerializationContext

from paymaster.keys.api_key import KeyUnavailable
from paymaster.security.named_objects import named_object
from paymaster.security.payloads import REASON, unreadable
from paymaster.settings import ConfigurationError

_PLAIN_ENCODINGS = frozenset(
    each.encoding.encode() for each in DefaultPayloadConverter.default_encoding_payload_converters
)
_SETTING = "encryption.codec"


def team_codec(name: str) -> "TeamCodec":
    """The codec of this name, "module:object". Raises ConfigurationError, saying what is wrong with it."""
    codec = named_object(name, _SETTING, (PayloadCodec,))
    if not isinstance(codec, PayloadCodec):
        raise ConfigurationError(
            [f"{_SETTING}: {name} is a {type(codec).__name__}, and neither is nor makes a temporalio PayloadCodec"]
        )
    return TeamCodec(codec, name)


class TeamCodec(PayloadCodec, WithSerializationContext):
    """A team's codec that does not stop a workflow over what it cannot decode.

    OSError and TimeoutError mean that it may do so later: the task is tried again. After every other error what is in
    plain text is left as it is, and what is not becomes the reason, which is raised by whoever reads it.
    """

    def __init__(self, codec: PayloadCodec, name: str) -> None:
        self._codec = codec
        self._name = name

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises what the codec raises."""
        return await self._codec.encode(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises OSError, TimeoutError and KeyUnavailable."""
        return [payload if REASON in payload.metadata else await self._decoded(payload) for payload in payloads]

    async def _decoded(self, payload: Payload) -> Payload:
        try:
            (decoded,) = await self._codec.decode([payload])
        except (OSError, KeyUnavailable):
            raise
        except Exception as error:
            if payload.metadata.get("encoding", b"") in _PLAIN_ENCODINGS:
                return payload
            return unreadable(f"the codec {self._name} cannot decode this: {type(error).__name__}: {error}")
        return decoded

    def with_context(self, context: SerializationContext) -> "TeamCodec":
        """The codec for that context, where it looks at one."""
        if not isinstance(self._codec, WithSerializationContext):
            return self
        return TeamCodec(self._codec.with_context(context), self._name)
