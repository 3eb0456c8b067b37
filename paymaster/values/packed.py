"""Bytes as compressed text, for messages that would not fit into a Temporal payload otherwise."""

import zlib
from base64 import b64decode, b64encode


class NotPacked(ValueError):
    """Text that `pack` did not make, or that holds more than is allowed."""


def pack(data: bytes, level: int = 6) -> str:
    return b64encode(zlib.compress(data, level)).decode()


def unpack(text: str, bytes_max: int) -> bytes:
    """What was packed. Raises NotPacked; never holds much more than `bytes_max` bytes, whatever the text says."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(b64decode(text, validate=True), bytes_max + 1)
    except (ValueError, zlib.error) as error:
        raise NotPacked(f"not compressed text: {error}") from None
    if len(data) > bytes_max:
        raise NotPacked(f"compressed text that holds more than {bytes_max} bytes")
    if not unpacker.eof:
        raise NotPacked("compressed text that was cut off")
    return data
