"""Whoever lacks the secret can neither choose where an answer goes nor say what one is."""

import pytest

from paymaster.live.signing import is_genuine, is_worker, proof_of_worker, signed

SECRET = "a-secret-of-gateways-and-workers"
TOKEN = "t" * 43
SIGNED = signed(SECRET, address="http://127.0.0.1:7301", token=TOKEN, call_id="c-1", expires_at_ms=1_000)


def test_it_is_good_for_its_call_and_secret() -> None:
    assert is_genuine(SIGNED, "c-1", SECRET)
    assert not is_genuine(SIGNED, "c-2", SECRET)
    assert not is_genuine(SIGNED, "c-1", "another-secret")


@pytest.mark.parametrize(
    "change",
    [{"address": "http://127.0.0.1:7302"}, {"token": "u" * 43}, {"expires_at_ms": 1_001}, {"signature": "0" * 64}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_changed_it_is_good_no_more(change: dict[str, object]) -> None:
    assert not is_genuine(SIGNED.model_copy(update=change), "c-1", SECRET)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    one = signed(SECRET, address="http://a:1", token=TOKEN, call_id="c\n4:1000", expires_at_ms=1)
    other = signed(SECRET, address="http://a:1", token=TOKEN, call_id="c", expires_at_ms=10_001)
    assert one.signature != other.signature


def test_a_worker_proves_that_it_has_the_secret() -> None:
    proof = proof_of_worker(SECRET, TOKEN)
    assert is_worker(proof, SECRET, TOKEN)
    assert not is_worker(proof, SECRET, "u" * 43)
    assert not is_worker(SIGNED.signature, SECRET, TOKEN)
    assert not is_worker("é", SECRET, TOKEN)


def test_neither_secret_nor_token_is_printed() -> None:
    assert TOKEN not in repr(SIGNED)
    assert SIGNED.signature not in repr(SIGNED)
