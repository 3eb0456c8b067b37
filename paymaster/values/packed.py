"""Compressed bytes, also as text, for messages that would be too large for Temporal otherwise, or take it too long."""

import zlib
from base64 import b64decode, b64encode


class NotPacked(ValueError):
    """Text that `pack` did not make, or that holds more than is allowed."""


def pack(data: bytes, level: int = 6) -> str:
    return b64encode(zlib.compress(data, level)).decode()


def unpack(text: str, bytes_max: int) -> bytes:
    """What was packed. Raises NotPacked; never holds much more than `bytes_max` bytes, whatever the text says."""
    try:
        return decompressed(b64decode(text, validate=True), bytes_max)
    except ValueError as error:
        raise NotPacked(f"not compressed text: {error}") from None


def decompressed(data: bytes, bytes_max: int) -> bytes:
    """What `zlib.compress` made. Raises NotPacked; never holds much more than `bytes_max` bytes, whatever it says."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise NotPacked(f"not compressed: {error}") from None
    if len(plain) > bytes_max:
        raise NotPacked(f"compressed, and holds more than {bytes_max} bytes")
    if not unpacker.eof:
        raise NotPacked("compressed, and cut off")
    return plain
