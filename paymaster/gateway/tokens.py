"""Tokens (JWT) of an identity provider: whether one is good, and what it claims."""

from typing import Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    MissingRequiredClaimError,
    PyJWTError,
)

from paymaster.gateway.jwks import Jwks, KeysUnknown, PublicKey
from paymaster.gateway.terms import NotAClient
from paymaster.settings.gateway_clients import JwtSettings

TOKEN_CHARACTERS_MAX = 16 * 1024
CLOCKS_DIFFER_S = 30
"""By which the provider's clock and ours may differ."""
_KID_CHARACTERS_MAX = 200
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
"""Of tokens that say who somebody is. Providers sign others too, for the ends of sessions, say."""


class Tokens:
    """Judges the tokens of one provider."""

    def __init__(self, settings: JwtSettings, keys: Jwks) -> None:
        self.settings = settings
        self._keys = keys

    async def claims_of(self, token: str) -> dict[str, Any]:
        """What a good token claims. Raises NotAClient."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise _bad(f"it has more than {TOKEN_CHARACTERS_MAX:,} characters")
        kid, algorithm = self._signed_by(token)
        try:
            key = await self._keys.key(kid)
        except KeysUnknown:
            raise NotAClient(503, "clients_unknown", "the identity provider's keys cannot be fetched now") from None
        if key is None:
            raise _bad("the identity provider has no key of the id that it names")
        return self._verified(token, key, algorithm)

    def _signed_by(self, token: str) -> tuple[str, str]:
        """The id of the key, and the algorithm, that the token names. Where else it says that keys are (`jku`, `x5u`,
        `jwk`) is never looked at. Raises NotAClient."""
        try:
            header = jwt.get_unverified_header(token)
        except (PyJWTError, ValueError):
            raise _bad("it cannot be read") from None
        kid, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "JWT")
        if algorithm not in self.settings.algorithms:
            raise _bad(f"it is not signed by one of {', '.join(self.settings.algorithms)}")
        if not isinstance(kid, str) or not 0 < len(kid) <= _KID_CHARACTERS_MAX:
            raise _bad("it does not name the id of the key that signed it")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _bad("it is not of the type JWT or at+jwt")
        return kid, algorithm

    def _verified(self, token: str, key: PublicKey, algorithm: str) -> dict[str, Any]:
        """Raises NotAClient."""
        settings = self.settings
        if key.algorithm not in (None, algorithm):
            raise _bad("its key is for another algorithm")
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=CLOCKS_DIFFER_S,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except ExpiredSignatureError:
            raise _bad("it has expired", "token_expired") from None
        except ImmatureSignatureError:
            raise _bad("it is not valid yet") from None
        except (InvalidAudienceError, InvalidIssuerError):
            raise _bad("it is for somebody else: iss and aud must be those of [gateway.jwt]") from None
        except MissingRequiredClaimError as error:
            raise _bad(f"it lacks the claim {error.claim}") from None
        except (PyJWTError, ValueError, TypeError):
            raise _bad("its signature, or a claim, is wrong") from None


def _bad(why: str, reason: str = "bad_token") -> NotAClient:
    return NotAClient(401, reason, f"the token is not taken: {why}")
