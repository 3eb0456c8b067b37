"""A stored answer is read in pieces, and whatever is not what was stored is found out."""

import random
import zlib
from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.errors import AnswerGone
from paymaster.messages import LLMResult, Outcome, StoredBody, WireAnswer
from paymaster.messages.call_steps import BodyPiece
from paymaster.stored_answers import PIECE_BYTES_MAX, pieces_of, whole


def result_of(body: bytes, pieces: Sequence[bytes]) -> LLMResult:
    stored = StoredBody(reference="r", pieces=len(pieces), size=len(body), sha256=sha256(body).hexdigest())
    return LLMResult(outcome=Outcome.COMPLETED, call_id="c", wire=WireAnswer(status=200, body=b"", stored=stored))


def cut(body: bytes, size: int) -> list[bytes]:
    packed = zlib.compress(body)
    return [packed[at : at + size] for at in range(0, len(packed), size)]


async def read(result: LLMResult, pieces: Sequence[bytes]) -> bytes:
    async def piece(asked: BodyPiece) -> bytes:
        return pieces[asked.piece]

    return await whole(pieces_of(result, piece))


@given(st.binary(max_size=2_000), st.integers(50, 300))
async def test_any_body_comes_back(body: bytes, size: int) -> None:
    pieces = cut(body, size)
    assert await read(result_of(body, pieces), pieces) == body


@pytest.mark.parametrize("size", [0, PIECE_BYTES_MAX - 1, PIECE_BYTES_MAX, 3 * PIECE_BYTES_MAX, 3_500_000])
async def test_what_packs_well_is_not_unpacked_at_once(size: int) -> None:
    body = b"x" * size
    stored = cut(body, 1_500)

    async def piece(asked: BodyPiece) -> bytes:
        return stored[asked.piece]

    given = [each async for each in pieces_of(result_of(body, stored), piece)]
    assert b"".join(given) == body
    assert all(len(each) <= PIECE_BYTES_MAX for each in given)


@pytest.mark.parametrize("change", ["a bit", "two swapped", "another's", "one too long"])
async def test_what_was_changed_is_told(change: str) -> None:
    numbers = random.Random(1)
    body, other = numbers.randbytes(5_000), numbers.randbytes(5_000)
    pieces = cut(body, 1_500)
    result = result_of(body, pieces)
    match change:
        case "a bit":
            pieces[1] = pieces[1][:700] + bytes([pieces[1][700] ^ 1]) + pieces[1][701:]
        case "two swapped":
            pieces[1:3] = pieces[2], pieces[1]
        case "another's":
            pieces = cut(other, 1_500)
        case _:
            pieces = cut(b"0" * 10_000_000, 1_500)[:1] * len(pieces)
    with pytest.raises(AnswerGone, match="is not what it was when it was stored"):
        await read(result, pieces)


async def test_a_result_without_bytes_has_nothing_to_read() -> None:
    with pytest.raises(ValueError, match="has no bytes of a provider"):
        await read(LLMResult(outcome=Outcome.COMPLETED, call_id="c", text="said"), [])
    wire = WireAnswer(status=200, body=b"said")
    assert await read(LLMResult(outcome=Outcome.COMPLETED, call_id="c", wire=wire), []) == b"said"
