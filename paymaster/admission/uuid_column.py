"""Many ids as one text: the bytes of those that are UUIDs written in one form, and the others as they are."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

_BYTES = 16


class _Form(NamedTuple):
    """How a UUID is written."""

    prefix: str
    dashes: bool

    def text(self, digits: str) -> str:
        """`digits`: 32, hexadecimal."""
        if not self.dashes:
            return self.prefix + digits
        return f"{self.prefix}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def bytes_of(self, text: str) -> bytes | None:
        """None: the text is no UUID in this form."""
        try:
            found = bytes.fromhex(text[len(self.prefix) :].replace("-", ""))
        except ValueError:
            return None
        return found if len(found) == _BYTES and self.text(found.hex()) == text else None


def uuid_column(ids: Sequence[str]) -> dict[str, Any]:
    form = next((form for text in ids if (form := _form_of(text))), _Form("", dashes=True))
    found = [form.bytes_of(text) for text in ids]
    others = {number: ids[number] for number, each in enumerate(found) if each is None}
    return {**form._asdict(), "uuids": b64encode(b"".join(each for each in found if each)).decode(), "others": others}


def ids_of(column: dict[str, Any]) -> list[str]:
    form, digits = _Form(column["prefix"], column["dashes"]), b64decode(column["uuids"]).hex()
    ids = [form.text(digits[start : start + 2 * _BYTES]) for start in range(0, len(digits), 2 * _BYTES)]
    for number, text in column["others"].items():  # in rising order: each comes to its place
        ids.insert(int(number), text)
    return ids


def _form_of(text: str) -> _Form | None:
    forms = (_Form(text[:-36], dashes=True), _Form(text[:-32], dashes=False))
    return next((form for form in forms if form.bytes_of(text) is not None), None)
