"""What `paymaster doctor` found out."""

from typing import NamedTuple


class Check(NamedTuple):
    """One line of the report. `detail` is what was found, or the problem with what to do about it."""

    name: str
    ok: bool
    detail: str
