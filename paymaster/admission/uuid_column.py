"""Many ids as one text: the bytes of those that are UUIDs written in one form, and the others as they are.

A hold id that is its call's run id and a number is written as the number.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

_BYTES = 16
_DASHED = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PLAIN = re.compile("[0-9a-f]{32}")


class _Form(NamedTuple):
    """How a UUID is written."""

    prefix: str
    dashes: bool

    def text(self, digits: str) -> str:
        """`digits`: 32, hexadecimal."""
        if not self.dashes:
            return self.prefix + digits
        return f"{self.prefix}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def is_of(self, text: str) -> bool:
        digits = _DASHED if self.dashes else _PLAIN
        return text.startswith(self.prefix) and digits.fullmatch(text, len(self.prefix)) is not None


def uuid_column(ids: Sequence[str]) -> dict[str, Any]:
    form = next((form for text in ids if (form := _form_of(text))), _Form("", dashes=True))
    others = {number: text for number, text in enumerate(ids) if not form.is_of(text)}
    uuids = [text for number, text in enumerate(ids) if number not in others] if others else ids
    digits = "".join([text[len(form.prefix) :] for text in uuids]).replace("-", "")
    return {**form._asdict(), "uuids": b64encode(bytes.fromhex(digits)).decode(), "others": others}


def ids_of(column: dict[str, Any]) -> list[str]:
    form, digits = _Form(column["prefix"], column["dashes"]), b64decode(column["uuids"]).hex()
    ids = [form.text(digits[start : start + 2 * _BYTES]) for start in range(0, len(digits), 2 * _BYTES)]
    for number, text in column["others"].items():  # in rising order: each comes to its place
        ids.insert(int(number), text)
    return ids


def _form_of(text: str) -> _Form | None:
    if _DASHED.fullmatch(text[-36:]):
        return _Form(text[:-36], dashes=True)
    return _Form(text[:-32], dashes=False) if _PLAIN.fullmatch(text[-32:]) else None


def number_or_id(hold_id: str, run_id: str) -> int | str:
    """The number of a hold whose id is its call's run id and a number; else its id."""
    before, _, text = hold_id.rpartition("/")
    number = _number(text) if before == run_id else None
    return hold_id if number is None else number


def hold_id_of(number_or_id: int | str, run_id: str) -> str:
    return number_or_id if isinstance(number_or_id, str) else f"{run_id}/{number_or_id}"


@lru_cache
def _number(text: str) -> int | None:
    """None: it is no number as Python writes it, or a long one."""
    return int(text) if text.isdecimal() and text == str(int(text[:9])) else None
