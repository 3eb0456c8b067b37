"""What a worker writes to a gateway: frames, each a letter for its kind, its length and its content.

    H  status, headers and service, as JSON: the first
    D  bytes for the caller: any number
    E  the whole answer was given: the last, or
    F  it will not be, and why, as JSON: the last

A stream without its last frame broke: its worker has died, or was cut off, or had to go on without it.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

_PREFIX = struct.Struct(">cI")
WORDS_BYTES_MAX = 256 * 1024
"""Of a frame that is JSON."""


class BadFrame(ValueError):
    """What arrived is no stream of a worker."""


class Head(BaseModel):
    """How the answer begins."""

    model_config = ConfigDict(frozen=True)

    status: int
    headers: dict[str, str] = {}
    service: str
    """That answers."""


class Failed(BaseModel):
    """The answer came to nothing after it had begun."""

    model_config = ConfigDict(frozen=True)

    reason: str
    """A word for programs."""
    detail: str


class Piece(NamedTuple):
    data: bytes


class Complete(NamedTuple):
    """The whole answer was given."""


Frame = Head | Piece | Complete | Failed


def head_frame(head: Head) -> bytes:
    return _frame(b"H", head.model_dump_json().encode())


def piece_frame(data: bytes) -> bytes:
    return _frame(b"D", data)


def last_frame(failed: Failed | None) -> bytes:
    return _frame(b"E", b"") if failed is None else _frame(b"F", failed.model_dump_json().encode())


def _frame(kind: bytes, content: bytes) -> bytes:
    return _PREFIX.pack(kind, len(content)) + content


class FrameReader:
    """Takes a stream apart, wherever it was cut. Bytes for the caller are given as they come, also within a frame."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._left = 0
        """Bytes of the frame D that is being read."""

    def read(self, data: bytes) -> Iterator[Frame]:
        """What is there now. Raises BadFrame."""
        self._held += data
        while self._held:
            if self._left:
                piece = bytes(self._held[: self._left])
                del self._held[: self._left]
                self._left -= len(piece)
                yield Piece(piece)
                continue
            if len(self._held) < _PREFIX.size:
                return
            kind, length = _PREFIX.unpack_from(self._held)
            if kind == b"D":
                del self._held[: _PREFIX.size]
                self._left = length
                continue
            if length > WORDS_BYTES_MAX:
                raise BadFrame(f"a frame {kind!r} of {length:,} bytes")
            if len(self._held) < _PREFIX.size + length:
                return
            content = bytes(self._held[_PREFIX.size : _PREFIX.size + length])
            del self._held[: _PREFIX.size + length]
            yield _read(kind, content)


def _read(kind: bytes, content: bytes) -> Head | Complete | Failed:
    try:
        match kind:
            case b"H":
                return Head.model_validate_json(content)
            case b"E":
                return Complete()
            case b"F":
                return Failed.model_validate_json(content)
            case _:
                raise BadFrame(f"a frame of the unknown kind {kind!r}")
    except ValidationError as error:
        raise BadFrame(f"a frame {kind!r} that cannot be read") from error
