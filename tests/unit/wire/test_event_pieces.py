"""A stream is cut behind each event, and no byte of it is lost."""

from hypothesis import given
from hypothesis import strategies as st

from paymaster.wire.event_pieces import event_pieces

PARTS = st.sampled_from([b"data: x", b"\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b": c", b"\xff"])


@given(st.lists(PARTS, max_size=20).map(b"".join))
def test_all_bytes_are_in_the_pieces(stream: bytes) -> None:
    pieces = event_pieces(stream)
    assert b"".join(pieces) == stream
    assert all(pieces)


def test_each_event_is_a_piece() -> None:
    stream = b"data: a\n\n: ping\r\n\r\nevent: x\ndata: b\r\rdata: cut"
    assert event_pieces(stream) == [b"data: a\n\n", b": ping\r\n\r\n", b"event: x\ndata: b\r\r", b"data: cut"]
