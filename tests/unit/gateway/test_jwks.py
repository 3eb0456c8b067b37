"""The keys of an identity provider: fetched rarely, at once for a new one, and kept while nobody answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from identity_provider import IdentityProvider, public_jwk
from paymaster_process import until

from paymaster.gateway.jwks import ASK_EVERY_S, KEPT_IN_OUTAGE_S, REFRESH_AFTER_S, Jwks, KeysUnknown, usable_keys
from paymaster.values.limits import JWKS_BYTES_MAX


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


@pytest.fixture
async def jwks(provider: IdentityProvider, clock: Clock) -> AsyncIterator[Jwks]:
    jwks = Jwks(provider.url, clock)
    yield jwks
    await jwks.close()


async def test_many_requests_ask_the_provider_once(jwks: Jwks, provider: IdentityProvider) -> None:
    found = await asyncio.gather(*(jwks.key("rsa-1") for _ in range(20)))
    assert None not in found
    assert provider.asked == 1


async def test_a_new_key_is_found_and_made_up_ones_ask_rarely(
    jwks: Jwks, provider: IdentityProvider, clock: Clock
) -> None:
    """However many tokens name keys that nobody has."""
    assert await jwks.key("rsa-2") is None
    provider.rotate("rsa-2")
    assert [await jwks.key(f"made-up-{n}") for n in range(50)] == [None] * 50
    assert provider.asked == 1
    clock.now_s += ASK_EVERY_S
    assert await jwks.key("rsa-2") is not None
    assert provider.asked == 2


async def test_a_key_that_the_provider_took_back_is_not_taken_long(
    jwks: Jwks, provider: IdentityProvider, clock: Clock
) -> None:
    assert await jwks.key("rsa-1") is not None
    del provider.private["rsa-1"]
    clock.now_s += REFRESH_AFTER_S - 1
    assert await jwks.key("rsa-1") is not None
    clock.now_s += 1
    assert await jwks.key("rsa-1") is not None, "this one is used while the keys are fetched"
    await until(lambda: provider.asked == 2, "it was asked in the background")
    await until(lambda: jwks_is_without(jwks, "rsa-1"), "the key is gone")


async def jwks_is_without(jwks: Jwks, kid: str) -> bool:
    return await jwks.key(kid) is None


async def test_very_old_keys_are_fetched_before_they_are_used(
    jwks: Jwks, provider: IdentityProvider, clock: Clock
) -> None:
    assert await jwks.key("rsa-1") is not None
    del provider.private["rsa-1"]
    clock.now_s += 2 * REFRESH_AFTER_S
    assert await jwks.key("rsa-1") is None


@pytest.mark.parametrize(
    "answer", [None, (500, b"no"), (302, b""), (200, b"{}"), (200, b'{"keys": []}'), (200, b"[" * 9_999)]
)
async def test_known_keys_outlive_an_outage_for_a_day(
    jwks: Jwks, provider: IdentityProvider, clock: Clock, answer: tuple[int, bytes] | None
) -> None:
    """Whether the provider is not there at all, or answers without keys."""
    assert await jwks.key("rsa-1") is not None
    provider.answer = answer
    if answer is None:
        await provider.be_down()
    clock.now_s += KEPT_IN_OUTAGE_S - 1
    assert await jwks.key("rsa-1") is not None
    clock.now_s += 1
    with pytest.raises(KeysUnknown):
        await jwks.key("rsa-1")
    provider.answer = None
    await provider.be_up()
    clock.now_s += ASK_EVERY_S
    assert await jwks.key("rsa-1") is not None


async def test_an_endless_answer_is_cut_off(jwks: Jwks, provider: IdentityProvider) -> None:
    provider.answer = (200, json.dumps(provider.jwks()).encode() + b" " * JWKS_BYTES_MAX)
    with pytest.raises(KeysUnknown):
        await jwks.key("rsa-1")


RSA: dict[str, Any] = {**public_jwk(rsa.generate_private_key(65_537, 2_048)), "kid": "a"}


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ", "kid": "a", "alg": "RS256"},
        RSA | {"use": "enc"},
        RSA | {"key_ops": ["encrypt"]},
        RSA | {"kid": 7},
        RSA | {"alg": "HS256"},
        RSA | {"alg": "none"},
        RSA | {"n": 17},
        {name: value for name, value in RSA.items() if name != "kid"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a"},
        {"kid": "a"},
        "a key",
    ],
)
def test_only_public_keys_for_signatures_are_usable(key: object) -> None:
    assert list(usable_keys(json.dumps({"keys": [key, RSA | {"kid": "good"}]}).encode())) == ["good"]
    with pytest.raises(ValueError, match="no public key that is for signatures"):
        usable_keys(json.dumps({"keys": [key]}).encode())


@pytest.mark.parametrize("document", [b"", b"[]", b"7", b'{"keys": 7}', b'{"keys": [7]}', b"\xff"])
def test_what_is_no_list_of_keys(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        usable_keys(document)
