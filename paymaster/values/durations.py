"""Durations as people write them: "500ms", "30s", "15m", "24h", "7d"."""

import re
from datetime import timedelta

DURATION = r"([0-9]{1,12})(ms|s|m|h|d)"
"""How a duration is written, as a regular expression."""
_DURATION_MAX = timedelta(days=366)
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


def parse_duration(text: str) -> timedelta:
    """The duration written as a whole number and a unit: "500ms", "30s", "15m", "24h", "7d". Raises ValueError."""
    written = re.fullmatch(DURATION, text)
    if written is None:
        raise ValueError(f'{text!r} is not a duration; write a whole number and a unit, like "500ms", "30s" or "24h"')
    number, unit = int(written[1]), _UNITS[written[2]]
    if not 0 < number <= _DURATION_MAX // unit:
        raise ValueError(f"{text!r} is out of range; a duration is more than zero and at most {_DURATION_MAX.days}d")
    return number * unit


def format_duration(duration: timedelta) -> str:
    """A duration as text in the largest unit that divides it, which `parse_duration` reads."""
    unit = next((unit for unit, length in _UNITS.items() if duration % length == timedelta(0)), "ms")
    return f"{duration // _UNITS[unit]}{unit}"


def duration_from_input(value: object) -> timedelta:
    """A duration that was written as text, or is one already. Raises ValueError."""
    if isinstance(value, timedelta):
        if not timedelta(0) < value <= _DURATION_MAX or value % _UNITS["ms"]:
            raise ValueError(f"a duration is whole milliseconds, more than zero and at most {_DURATION_MAX.days}d")
        return value
    if not isinstance(value, str):
        raise ValueError('write a duration as text with its unit, like "30s"')
    return parse_duration(value)


def milliseconds(duration: timedelta) -> int:
    return duration // _UNITS["ms"]
