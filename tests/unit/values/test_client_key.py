"""Keys of clients: enough randomness, an id that is no secret, and nothing that only looks like one."""

import math
from hashlib import sha256

import pytest

from paymaster.values.client_key import is_key_id, key_digest, key_id_of, new_client_key


def test_a_key_has_256_random_bits_and_its_id_in_front() -> None:
    key = new_client_key()
    prefix, secret = key.text.rsplit("_", 1)
    assert (prefix, key_id_of(key.text)) == (key.id, key.id)
    assert len(secret) * math.log2(62) >= 256
    assert secret.isascii()
    assert secret.isalnum()


def test_no_two_keys_are_alike() -> None:
    keys = [new_client_key() for _ in range(100)]
    assert len({key.id for key in keys}) == len({key.text[-43:] for key in keys}) == 100


def test_the_digest_is_what_a_shell_computes() -> None:
    assert key_digest("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    key = new_client_key().text
    assert key_digest(key) == sha256(key.encode()).digest()


@pytest.mark.parametrize(
    "text", ["", "sk-1", "pmk_", "pmk_abc_def", "PMK_{id}_{secret}", "{key}x", "{key}\n", " {key}"]
)
def test_what_is_no_key_has_no_id(text: str) -> None:
    key = new_client_key()
    secret = key.text[-43:]
    assert key_id_of(text.format(key=key.text, id=key.id[4:], secret=secret)) is None


def test_an_id_is_told_from_a_name_and_from_a_whole_key() -> None:
    key = new_client_key()
    assert is_key_id(key.id)
    assert not is_key_id(key.id.removeprefix("pmk_"))
    assert not is_key_id(key.text)
    assert not is_key_id(f"{key.id}\n")
