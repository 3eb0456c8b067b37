"""Tokens of an identity provider: good ones are taken, and no trick with a header, a key or a claim is."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from identity_provider import ISSUER, IdentityProvider, public_jwk
from jwt.algorithms import HMACAlgorithm

from paymaster.gateway.jwks import Jwks
from paymaster.gateway.terms import NotAClient
from paymaster.gateway.tokens import CLOCKS_DIFFER_S, TOKEN_CHARACTERS_MAX, Tokens
from paymaster.settings.gateway_clients import JwtSettings


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


@pytest.fixture
async def tokens(provider: IdentityProvider) -> AsyncIterator[Tokens]:
    settings = JwtSettings.model_validate(provider.settings())
    jwks = Jwks(settings.jwks_url)
    yield Tokens(settings, jwks)
    await jwks.close()


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("kid", ["rsa-1", "ec-1"])
@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt", None])
async def test_a_good_token_is_taken(tokens: Tokens, provider: IdentityProvider, kid: str, typ: str | None) -> None:
    claims = await tokens.claims_of(provider.token(kid=kid, headers={"typ": typ}, aud=["other", "api://paymaster"]))
    assert (claims["sub"], claims["iss"]) == ("u-17", ISSUER)


Forged = Callable[[IdentityProvider], str]


def signed_with(secret: bytes) -> Forged:
    """By HS256, with what everybody has."""

    def forged(provider: IdentityProvider) -> str:
        head = part({"alg": "HS256", "kid": "rsa-1", "typ": "JWT"})
        signed = f"{head}.{part(provider.claims())}".encode()
        signature = HMACAlgorithm(HMACAlgorithm.SHA256).sign(signed, secret)
        return f"{signed.decode()}.{part(signature)}"

    return forged


def by_public_key(provider: IdentityProvider) -> str:
    public = provider.private["rsa-1"].public_key()
    return signed_with(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))(provider)


def unsigned(provider: IdentityProvider, alg: object = "none") -> str:
    return f"{part({'alg': alg, 'kid': 'rsa-1', 'typ': 'JWT'})}.{part(provider.claims())}."


def of_own_key(provider: IdentityProvider, **header: object) -> str:
    own = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    jwk = {**public_jwk(own), "kid": "rsa-1"}
    headers = {"kid": "rsa-1", "jwk": jwk} | header
    return jwt.encode(provider.claims(), own, algorithm="RS256", headers=headers)


def with_changed_claims(provider: IdentityProvider) -> str:
    head, _, signature = provider.token().split(".")
    return f"{head}.{part(provider.claims(team='bosses'))}.{signature}"


FORGED: list[tuple[Forged, str]] = [
    (unsigned, "not signed by one of RS256, ES256"),
    (lambda provider: unsigned(provider, "nOnE"), "not signed by one of"),
    (lambda provider: unsigned(provider, "RS256"), "its signature, or a claim, is wrong"),
    (lambda provider: unsigned(provider, ["RS256"]), "not signed by one of"),
    (by_public_key, "not signed by one of"),
    (signed_with(b""), "not signed by one of"),
    (of_own_key, "its signature"),
    (
        lambda provider: of_own_key(provider, jku="http://127.0.0.1:1/keys", x5u="http://127.0.0.1:1/x"),
        "its signature",
    ),
    (lambda provider: of_own_key(provider, kid="mine"), "no key of the id"),
    (lambda provider: of_own_key(provider, kid="../../dev/null"), "no key of the id"),
    (lambda provider: of_own_key(provider, kid=""), "does not name the id"),
    (lambda provider: of_own_key(provider, kid="k" * 300), "does not name the id"),
    (lambda provider: provider.token(headers={"kid": "ec-1"}), "its signature"),
    (with_changed_claims, "its signature"),
    (lambda provider: provider.token(headers={"typ": "logout+jwt"}), "not of the type"),
    (lambda provider: provider.token(headers={"crit": ["exp"]}), "cannot be read"),
    (lambda provider: provider.token(iss=ISSUER + "/"), "for somebody else"),
    (lambda provider: provider.token(iss=[ISSUER]), "for somebody else"),
    (lambda provider: provider.token(aud="api://other"), "for somebody else"),
    (lambda provider: provider.token(aud="api://paymaster "), "for somebody else"),
    (lambda provider: provider.token(exp=int(time.time()) - CLOCKS_DIFFER_S - 5), "it has expired"),
    (lambda provider: provider.token(nbf=int(time.time()) + CLOCKS_DIFFER_S + 60), "not valid yet"),
    (lambda provider: provider.token(iat=int(time.time()) + CLOCKS_DIFFER_S + 60), "not valid yet"),
    (lambda provider: provider.token(exp="never"), "a claim, is wrong"),
    (lambda provider: provider.token(exp=None), "lacks the claim exp"),
    (lambda provider: provider.token(sub=None), "lacks the claim sub"),
    (lambda provider: provider.token(aud=None), "lacks the claim aud"),
    (lambda provider: provider.token(iss=None), "lacks the claim iss"),
    (lambda provider: provider.token(sub=["u-17"]), "a claim, is wrong"),
    (lambda provider: provider.token(junk="x" * TOKEN_CHARACTERS_MAX), "more than 16,384 characters"),
    (lambda _: f"{part(b'[' * 10_000)}.e30.e30", "cannot be read"),
    (lambda _: "a.b.c", "cannot be read"),
    (lambda _: f"{part([1])}.e30.e30", "cannot be read"),
    (lambda _: f"{part({'alg': 1e400, 'kid': None})}.e30.e30", "cannot be read"),
    (lambda _: "..", "cannot be read"),
]


@pytest.mark.parametrize(("forged", "why"), FORGED)
async def test_no_other_token_is_taken(tokens: Tokens, provider: IdentityProvider, forged: Forged, why: str) -> None:
    token = forged(provider)
    with pytest.raises(NotAClient) as refused:
        await tokens.claims_of(token)
    assert refused.value.status == 401
    assert why in refused.value.detail
    assert not [piece for piece in token.split(".") if len(piece) > 12 and piece in str(refused.value)]


async def test_clocks_may_differ_a_little(tokens: Tokens, provider: IdentityProvider) -> None:
    now = int(time.time())
    await tokens.claims_of(provider.token(exp=now - CLOCKS_DIFFER_S // 2, nbf=now + CLOCKS_DIFFER_S // 2, iat=None))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("ES384", ec.generate_private_key(ec.SECP384R1())), ("RS256", rsa.generate_private_key(65_537, 1_024))],
)
async def test_a_key_that_does_not_fit_its_algorithm(
    provider: IdentityProvider, algorithm: str, key: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """An algorithm that is not allowed, and a key that is too short, although the provider publishes it."""
    provider.private["odd"] = key
    settings = JwtSettings.model_validate(provider.settings())
    tokens = Tokens(settings, jwks := Jwks(settings.jwks_url))
    try:
        token = jwt.encode(provider.claims(), key, algorithm=algorithm, headers={"kid": "odd"})
        with pytest.raises(NotAClient, match=r"not signed by one of|its signature"):
            await tokens.claims_of(token)
    finally:
        del provider.private["odd"]
        await jwks.close()
        recwarn.clear()


async def test_a_key_is_only_for_the_algorithm_that_it_says(provider: IdentityProvider) -> None:
    published = provider.jwks()
    published["keys"][0]["alg"] = "PS256"
    provider.answer = (200, json.dumps(published).encode())
    settings = JwtSettings.model_validate(provider.settings(algorithms=["RS256", "PS256"]))
    tokens = Tokens(settings, jwks := Jwks(settings.jwks_url))
    try:
        with pytest.raises(NotAClient, match="for another algorithm"):
            await tokens.claims_of(provider.token())
        good = jwt.encode(provider.claims(), provider.private["rsa-1"], algorithm="PS256", headers={"kid": "rsa-1"})
        assert (await tokens.claims_of(good))["sub"] == "u-17"
    finally:
        provider.answer = None
        await jwks.close()


async def test_a_provider_that_was_never_reached_is_503(provider: IdentityProvider) -> None:
    settings = JwtSettings.model_validate(provider.settings() | {"jwks_url": "http://127.0.0.1:1/keys"})
    tokens = Tokens(settings, jwks := Jwks(settings.jwks_url))
    with pytest.raises(NotAClient) as refused:
        await tokens.claims_of(provider.token())
    assert (refused.value.status, refused.value.reason) == (503, "clients_unknown")
    await jwks.close()
