"""Frames come out as they went in, wherever TCP cuts them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.live.frames import (
    WORDS_BYTES_MAX,
    BadFrame,
    Complete,
    Failed,
    Frame,
    FrameReader,
    Head,
    Piece,
    head_frame,
    last_frame,
    piece_frame,
)

HEAD = Head(status=200, headers={"content-type": "text/event-stream"}, service="one")
LASTS = [None, Failed(reason="timeout", detail="no answer for 30 s")]


def read(sent: bytes, cuts: list[int]) -> list[Frame]:
    reader, at = FrameReader(), sorted({0, len(sent), *(cut % (len(sent) + 1) for cut in cuts)})
    return [frame for begin, end in pairwise(at) for frame in reader.read(sent[begin:end])]


@given(pieces=st.lists(st.binary(min_size=1)), last=st.sampled_from(LASTS), cuts=st.lists(st.integers(0)))
def test_they_come_out_as_they_went_in(pieces: list[bytes], last: Failed | None, cuts: list[int]) -> None:
    sent = head_frame(HEAD) + b"".join(map(piece_frame, pieces)) + last_frame(last)
    first, *between, end = read(sent, cuts)
    assert (first, end) == (HEAD, last or Complete())
    assert all(isinstance(frame, Piece) for frame in between)
    assert b"".join(frame.data for frame in between if isinstance(frame, Piece)) == b"".join(pieces)


def test_bytes_are_given_before_their_frame_is_whole() -> None:
    assert read(piece_frame(b"a token, and more")[:9], []) == [Piece(b"a to")]


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1", b"X\0\0\0\0", b"H\0\0\0\2{}", b"F\0\0\0\1x", b"H" + (WORDS_BYTES_MAX + 1).to_bytes(4, "big")],
    ids=["http", "unknown", "no head", "no reason", "too long"],
)
def test_what_is_no_stream_is_refused(sent: bytes) -> None:
    with pytest.raises(BadFrame):
        read(sent, [])
