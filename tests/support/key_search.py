"""Looks for a key in everything that somebody could read, in whatever form it was written."""

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

PART_CHARACTERS = 12
"""A piece of a key of this length, from its begin or its end, counts as the key: somebody may have cut it off."""


def find_key(text: str, key: str) -> list[str]:
    """The forms of the key that are in the text. None is what every test wants."""
    return sorted(form for form in _forms(key) if form in text)


def _forms(key: str) -> set[str]:
    """Plain, cut off, and as URLs, JSON (also in JSON), HTML, Python, base64 and hexadecimal write it."""
    raw, in_json = key.encode(), json.dumps(key)[1:-1]
    forms = {key, key[:PART_CHARACTERS], key[-PART_CHARACTERS:], in_json, json.dumps(in_json)[1:-1]}
    forms |= {in_json.replace("/", "\\/"), html.escape(key), repr(key)[1:-1], repr(raw)[2:-1]}
    forms.add(re.sub("[^A-Za-z0-9]", lambda sign: f"\\u{ord(sign[0]):04x}", key))
    for quoted in (quote(key), quote(key, safe=""), quote_plus(key)):
        forms |= {quoted, re.sub("%..", lambda sign: sign[0].lower(), quoted), quote(quoted, safe="")}
    for shift in range(3):  # the alignments that base64 can meet it in, without what the neighbours change
        for encode in (b64encode, urlsafe_b64encode):
            forms.add(encode(b"\0" * shift + raw).decode().rstrip("=")[4 if shift else 0 : -4])
    return forms | {raw.hex(), raw.hex().upper()}
