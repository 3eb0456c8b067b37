"""What the name of a key may be."""

import re

KEY_NAME = "[a-z0-9]+(-[a-z0-9]+)*"
"""What the name of a key looks like, as a regular expression; its length is limited besides."""
_KEY_NAME_CHARACTERS_MAX = 64
_RANDOM_RUN = re.compile(r"[A-Za-z0-9]{24,}|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_key_name(name: str) -> str:
    """The name, if it can be the name of a key. Raises ValueError otherwise, and never repeats what it was given.

    Somebody who pastes the key itself where its name belongs must not find it in a log afterwards.
    """
    if name.startswith(("sk-", "sk_")) or _RANDOM_RUN.search(name) or _UUID.search(name):
        raise ValueError(
            'this looks like an API key, and only the NAME of a key belongs here, like "openai-api-key"; put the key '
            "into the environment variable PAYMASTER_KEY_OPENAI_API_KEY, and replace it if this file was shared"
        )
    if not re.fullmatch(KEY_NAME, name) or len(name) > _KEY_NAME_CHARACTERS_MAX:
        raise ValueError(
            'not the name of a key: write lower-case words and digits joined by "-", like "openai-api-key", '
            f"at most {_KEY_NAME_CHARACTERS_MAX} characters"
        )
    return name
