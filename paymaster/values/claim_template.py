"""Texts with claims of a token in them: `acme/{team}/{sub}`."""

import re
from collections.abc import Callable

_CLAIM = re.compile(r"\{([^{}]{1,200})\}")
_BRACE = re.compile(r"[{}]")


def check_claim_template(template: str) -> str:
    """The template itself. Raises ValueError with the reason when it is none."""
    if not template or _BRACE.search(_CLAIM.sub("", template)):
        raise ValueError('write names of claims in braces, like "acme/{team}/{sub}"')
    return template


def filled(template: str, value_of: Callable[[str], str]) -> str:
    """The template with the value of each claim that it names."""
    return _CLAIM.sub(lambda found: value_of(found[1]), template)
