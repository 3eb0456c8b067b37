"""Messages that cross compressed: what they cost, and that who sends one cannot make its reader hold more."""

import tracemalloc
import zlib
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from benchmarks.senders import reserve_of
from paymaster.messages import CallRef, CommandBatch, Reserve, Void
from paymaster.security.payloads import (
    OwnWorkflowsPayloadConverter,
    PaymasterPayloadConverter,
    as_raw,
    compressed,
    read_raw,
    without_compression,
)
from paymaster.values.limits import COMMANDS_MAX, TEMPORAL_PAYLOAD_BYTES


def batch_of(commands: int) -> CommandBatch:
    return CommandBatch(commands=tuple(Void(hold_id=str(uuid4())) for _ in range(commands)), sender="s")


def in_zlib(data: bytes) -> RawValue:
    return RawValue(Payload(metadata={"encoding": b"json/zlib"}, data=data))


def as_numbered(number: int, request: Reserve) -> Reserve:
    """With ids that say hardly anything, where two UUIDs are 32 bytes that nothing makes shorter."""
    call = CallRef(workflow_id=f"call/senders/{number}", run_id=f"senders/{number}")
    return request.model_copy(update={"hold_id": call.run_id, "call": call})


@pytest.mark.parametrize(("numbered", "fraction"), [(True, 10), (False, 8)], ids=["numbers", "UUIDs"])
def test_many_commands_become_a_fraction_and_are_the_same(numbered: bool, fraction: int) -> None:
    requests = [reserve_of("plenty") for _ in range(COMMANDS_MAX)]
    if numbered:
        requests = [as_numbered(number, request) for number, request in enumerate(requests)]
    batch = CommandBatch(commands=tuple(requests))
    raw = compressed(batch)
    assert len(raw.payload.data) < len(as_raw(batch).payload.data) / fraction
    assert read_raw(raw, CommandBatch) == batch
    for converter in (PaymasterPayloadConverter(), OwnWorkflowsPayloadConverter()):
        assert converter.from_payload(raw.payload, CommandBatch) == batch
        assert converter.from_payloads([raw.payload], [CommandBatch]) == [batch]


def test_what_is_short_stays_readable_for_people() -> None:
    batch = batch_of(3)
    assert compressed(batch).payload == as_raw(batch).payload


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut off"),
        (b"{}", "not compressed"),
        (zlib.compress(b'{"commands": []}')[:-1], "cut off"),
        (zlib.compress(b'{"commands": 7}'), "commands"),
        (zlib.compress(b"\xff"), "JSON|utf"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_raw(in_zlib(data), CommandBatch)


def test_no_more_is_unpacked_than_could_have_been_sent_plain() -> None:
    bomb = zlib.compress(bytes(200 * TEMPORAL_PAYLOAD_BYTES), 9)
    assert len(bomb) < TEMPORAL_PAYLOAD_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"more than {TEMPORAL_PAYLOAD_BYTES} bytes"):
            read_raw(in_zlib(bomb), CommandBatch)
        assert tracemalloc.get_traced_memory()[1] < 4 * TEMPORAL_PAYLOAD_BYTES
    finally:
        tracemalloc.stop()


def test_other_payloads_are_left_as_they_are() -> None:
    plain = as_raw(batch_of(1)).payload
    assert without_compression(plain) is plain
    metadata = {"encoding": b"json/zlib", "paymaster-plain": b"1"}
    assert without_compression(Payload(metadata=metadata, data=zlib.compress(b"{}"))) == Payload(
        metadata={"encoding": b"json/plain", "paymaster-plain": b"1"}, data=b"{}"
    )
