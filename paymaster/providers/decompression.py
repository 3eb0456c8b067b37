"""Bodies as they come over the wire: read up to a limit, in the one encoding that was asked for."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from paymaster.values.limits import BODY_HELD_PLAIN_BYTES

ACCEPT_ENCODING = "gzip"
"""What is asked for. Whatever else a server sends is not read."""
_PIECE = 256 * 1024
"""Bytes that are decompressed before others have a turn."""


class _Unzip(Protocol):
    """What `zlib.decompressobj` gives."""

    @property
    def unconsumed_tail(self) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class BodyTooLarge(Exception):
    """The server sends more than anybody wants to read."""


class BodyUnreadable(Exception):
    """The body is in another encoding, or broken."""


class HeldBody:
    """A body that is arriving: what is long is held compressed, because many may arrive at once."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(1)  # what is streamed token by token shrinks to a twentieth
        self._packed: list[bytes] = []
        self._plain = bytearray()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes) -> None:
        self._size += len(data)
        self._plain += data
        if len(self._plain) > BODY_HELD_PLAIN_BYTES:
            self._packed.append(self._packer.compress(self._plain))
            self._plain.clear()

    def whole(self) -> bytes:
        """All bytes, once they are here."""
        if not self._packed:
            return bytes(self._plain)
        packed = b"".join((*self._packed, self._packer.copy().flush()))
        return zlib.decompress(packed, bufsize=self._size) + self._plain


async def read_body(
    pieces: AsyncIterator[bytes],
    encodings: Sequence[str],
    bytes_max: int,
    hear: Callable[[bytes], Awaitable[None]] | None = None,
) -> HeldBody:
    """The whole body. `encodings`: the values of its Content-Encoding headers.

    `hear` gets it piece by piece, and an empty piece at its end; each is waited for before the next one is read.

    Raises BodyTooLarge, as soon as it is; and BodyUnreadable.
    """
    named = [name.strip().lower() for value in encodings for name in value.split(",") if name.strip()]
    named = [name for name in named if name != "identity"]
    if named not in ([], ["gzip"], ["x-gzip"]):
        raise BodyUnreadable(f"the body is encoded as {', '.join(named)[:100]}, and {ACCEPT_ENCODING} was asked for")
    body = HeldBody()
    unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if named else None
    received = False
    async for piece in pieces:
        received = True
        async for data in _decompressed(unzip, piece):
            body.add(data)
            if len(body) > bytes_max:
                raise BodyTooLarge(f"the answer has more than {bytes_max} bytes")
            if hear is not None and data:
                await hear(data)
    if unzip is not None and received and not unzip.eof:
        raise BodyUnreadable("the compressed body is cut off")
    if hear is not None:
        await hear(b"")
    return body


async def _decompressed(unzip: _Unzip | None, piece: bytes) -> AsyncIterator[bytes]:
    """The piece as it is when it is decompressed, not too much at once."""
    if unzip is None:
        yield piece
        return
    while piece and not unzip.eof:
        try:
            data = unzip.decompress(piece, _PIECE)
        except zlib.error as error:
            raise BodyUnreadable(f"the body is not {ACCEPT_ENCODING}: {error}") from None
        yield data
        piece = unzip.unconsumed_tail
        if piece:
            await asyncio.sleep(0)
