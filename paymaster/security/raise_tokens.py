"""What a button or a link of an alert may do, signed, so that nobody makes one of their own.

A worker signs it with a secret that gateways share; it passes through a chat program, where others may read it. It says
nothing about who may press it.
"""

from hashlib import sha256

import jwt
from jwt.exceptions import ExpiredSignatureError, PyJWTError
from pydantic import BaseModel, ConfigDict, ValidationError

from paymaster.messages import Alert, Window

TOKEN_LIVES_MS = 86_400_000
"""How long a button is good for: who comes later looks how things are now. Its window may end before."""
TOKEN_CHARACTERS_MAX = 2_000
"""Slack takes no longer value of a button."""
_AUDIENCE = "paymaster-raise-1"
_ALGORITHM = "HS256"


class TokenRefused(ValueError):
    """A token that was not made for this, in words."""


class OfferedRaise(BaseModel):
    """A raise of one cap until its window ends, as an alert offers it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ledger: str
    epoch: str
    alert: int
    """Its sequence number."""
    account: str
    window: Window
    by_nanos: int
    cap_nanos: int
    window_ends_at_ms: int

    @property
    def nonce(self) -> str:
        """All raises that one alert offers have one: only one of them is made."""
        return f"{self.epoch}/{self.alert}"

    @property
    def budget(self) -> str:
        return self.account.removeprefix("budget:")


def offered_raises(ledger: str, epoch: str, alert: Alert) -> tuple[OfferedRaise, ...]:
    """What an alert offers."""
    if alert.offer is None or alert.account is None or alert.window is None:
        return ()
    return tuple(
        OfferedRaise(
            ledger=ledger,
            epoch=epoch,
            alert=alert.sequence,
            account=alert.account,
            window=alert.window,
            by_nanos=by_nanos,
            cap_nanos=alert.offer.cap_nanos,
            window_ends_at_ms=alert.offer.window_ends_at_ms,
        )
        for by_nanos in alert.offer.by_nanos
    )


def token_of(offered: OfferedRaise, secret: str, *, made_at_ms: int) -> str:
    claims = offered.model_dump() | {"aud": _AUDIENCE, "exp": (made_at_ms + TOKEN_LIVES_MS) // 1_000}
    return jwt.encode(claims, _key(secret), _ALGORITHM)


def read_token(token: str, secret: str, ledger: str) -> OfferedRaise:
    """Raises TokenRefused."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise TokenRefused("it is too long")
    try:
        claims = jwt.decode(
            token,
            _key(secret),
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            options={"require": ["exp", "aud"]},
        )
        offered = OfferedRaise.model_validate({name: claims[name] for name in claims.keys() - {"aud", "exp"}})
    except ExpiredSignatureError:
        raise TokenRefused(f"it was good for {TOKEN_LIVES_MS // 3_600_000} hours, which are over") from None
    except (PyJWTError, ValidationError, ValueError):
        raise TokenRefused("it was not made here, or was changed on its way") from None
    if offered.ledger != ledger:
        raise TokenRefused(f"it is of the ledger {offered.ledger!r}, and this is {ledger!r}")
    return offered


def _key(secret: str) -> bytes:
    """Of the length that the algorithm wants, and good for this purpose only."""
    return sha256(f"{_AUDIENCE}\n{secret}".encode()).digest()
