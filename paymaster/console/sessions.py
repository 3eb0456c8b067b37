"""Sessions of people who logged in with a key: a signed token in a cookie, which says who it is and until when.

A login makes a new session, whatever cookie the browser had, so that nobody can be given one that somebody else knows.
"""

import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import jwt

_ALGORITHM = "HS256"
_CLAIMS = ["sub", "jti", "key", "exp"]


@dataclass(frozen=True)
class Session:
    id: str
    name: str
    """Of the key that began it."""
    key_sha256: str
    ends_at_s: float


class Sessions:
    def __init__(self, secret: str, lasts: timedelta) -> None:
        self._secret = sha256(f"paymaster-console-1:{secret}".encode()).digest()
        self._lasts_s = round(lasts.total_seconds())
        self._ended: dict[str, float] = {}
        """Ids of sessions that were ended before their time, with that time."""

    @property
    def lasts_s(self) -> int:
        return self._lasts_s

    def begin(self, name: str, key_sha256: str) -> str:
        """The token of a new session."""
        claims = {"sub": name, "jti": secrets.token_urlsafe(24), "key": key_sha256, "exp": time.time() + self._lasts_s}
        return jwt.encode(claims, self._secret, _ALGORITHM)

    def of(self, token: str) -> Session | None:
        """None: it is none of ours, or has ended."""
        try:
            claims = jwt.decode(token, self._secret, [_ALGORITHM], options={"require": _CLAIMS})
        except jwt.InvalidTokenError:
            return None
        if claims["jti"] in self._ended:
            return None
        return Session(claims["jti"], claims["sub"], str(claims["key"]), float(claims["exp"]))

    def end(self, session: Session) -> None:
        """Its token is refused from now on, by this gateway."""
        now_s = time.time()
        self._ended = {id_: ends_at_s for id_, ends_at_s in self._ended.items() if ends_at_s > now_s}
        self._ended[session.id] = session.ends_at_s

    def form_token(self, session_id: str) -> str:
        """What a form of this session's pages carries, and nobody else's pages can know."""
        return hmac.new(self._secret, f"form:{session_id}".encode(), sha256).hexdigest()

    def is_form_token(self, token: str, session_id: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self.form_token(session_id).encode())
