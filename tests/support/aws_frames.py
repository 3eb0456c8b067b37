"""Frames of AWS's event streams, written as its specification says, independently of how they are read."""

import json
import struct
from binascii import crc32
from collections.abc import Iterable, Mapping
from typing import Any


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame: the two lengths, their checksum, the headers, the payload and the checksum of all of it."""
    written = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\7" + struct.pack("!H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack("!II", 16 + len(written) + len(payload), len(written))
    message = lengths + struct.pack("!I", crc32(lengths)) + written + payload
    return message + struct.pack("!I", crc32(message))


def event(name: str, data: Any) -> bytes:
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(data).encode())


def exception(name: str, message: str) -> bytes:
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps({"message": message}).encode())


def frames(events: Iterable[tuple[str, Any]]) -> list[bytes]:
    return [event(name, data) for name, data in events]
