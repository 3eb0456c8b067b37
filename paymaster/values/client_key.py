"""Keys of the gateway's clients: `pmk_k3j2m1x9w8q7_` and 43 random characters, shown once when they are made.

Of a key only its SHA-256 is stored. A password would need a slow hash, because it can be guessed; 256 random bits
cannot, however quick the hash is.
"""

import re
import secrets
import string
from hashlib import sha256
from typing import NamedTuple

_CLIENT_KEY = re.compile(r"(pmk_[a-z0-9]{12})_[A-Za-z0-9]{43}")
_KEY_ID = re.compile(r"pmk_[a-z0-9]{12}")
_ID_CHARACTERS = 12
_SECRET_CHARACTERS = 43
"""Of 62 different ones: 256 bits."""


class NewKey(NamedTuple):
    """A key that was just made."""

    id: str
    """What it begins with, which is no secret: lists, logs and answers name it by this."""
    text: str


def new_client_key() -> NewKey:
    key_id = f"pmk_{_random(string.ascii_lowercase + string.digits, _ID_CHARACTERS)}"
    return NewKey(key_id, f"{key_id}_{_random(string.ascii_letters + string.digits, _SECRET_CHARACTERS)}")


def _random(characters: str, length: int) -> str:
    return "".join(secrets.choice(characters) for _ in range(length))


def key_digest(key: str) -> bytes:
    """What is stored of a key: its SHA-256."""
    return sha256(key.encode()).digest()


def key_id_of(text: str) -> str | None:
    """The id of a client's key. None: the text is none."""
    found = _CLIENT_KEY.fullmatch(text)
    return None if found is None else found[1]


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None
