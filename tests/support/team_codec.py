"""A payload codec as a team has one of its own; workers load it by its name."""

from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

ENCODING = b"binary/of-the-team"


class TeamsOwnCodec(PayloadCodec):
    """Hides a payload from whoever does not turn its bits. Strict: raises for what it has not encoded."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": ENCODING}, data=_turned(payload.SerializeToString())) for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        for payload in payloads:
            if payload.metadata["encoding"] != ENCODING:
                raise KeyError(f"not encoded by this codec: {payload.metadata['encoding'].decode()}")
        return [Payload.FromString(_turned(payload.data)) for payload in payloads]


class TakesOthers(TeamsOwnCodec):
    """Leaves as it is what it has not encoded, like the codecs of Temporal's examples."""

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        decoded: list[Payload] = []
        for payload in payloads:
            decoded += await super().decode([payload]) if payload.metadata["encoding"] == ENCODING else [payload]
        return decoded


def _turned(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


codec = TeamsOwnCodec()
