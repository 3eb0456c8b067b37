"""How much of a cap is used, as a bar: of characters for a terminal and the Temporal UI, of SVG for pages."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # commands import this before they know whether they need the messages
    from paymaster.messages import WindowStatus

CHARACTERS = 10
GREY = "#8a8f98"
RED = "#c5504b"
_HEX = {"red": RED, "yellow": "#e0803a", "green": "#3aa676"}


def used_share(window: "WindowStatus") -> float | None:
    """Posted and held money as a share of the cap, 1 of a cap of zero; None without a cap."""
    if window.cap_nanos is None:
        return None
    return (window.posted_nanos + window.pending_nanos) / window.cap_nanos if window.cap_nanos else 1.0


def colour(window: "WindowStatus") -> Literal["red", "yellow", "green"] | None:
    """Red from 95% of the cap on, yellow from 80% on; None without a cap."""
    if window.cap_nanos is None:
        return None
    used, cap = window.posted_nanos + window.pending_nanos, window.cap_nanos
    return "red" if used * 20 >= cap * 19 else "yellow" if used * 5 >= cap * 4 else "green"


def terminal_bar(window: "WindowStatus") -> str:
    """Posted (█) and held (▒) money as parts of the cap; empty without a cap. Any spending shows, less than half a
    character of it as ▏."""
    if window.cap_nanos is None:
        return ""
    if window.cap_nanos == 0:
        return _characters(CHARACTERS, CHARACTERS)
    posted, used = (
        -(-nanos * CHARACTERS // window.cap_nanos)
        for nanos in (window.posted_nanos, window.posted_nanos + window.pending_nanos)
    )
    drawn = _characters(posted, used, rest="·")
    return f"▏{drawn[1:]}" if 0 < 2 * CHARACTERS * window.posted_nanos < window.cap_nanos else drawn


def markdown_bar(window: "WindowStatus") -> str:
    """Used money as full tenths of the cap, and in percent; empty without a cap."""
    used = used_share(window)
    if used is None:
        return ""
    tenths = int(used * CHARACTERS)
    return f"{_characters(tenths, tenths)} {used:.0%}"


def html_bar(window: "WindowStatus") -> str:
    """Posted money in the colour of how full the cap is, and held money in grey."""
    cap = window.cap_nanos
    posted = min(1.0, window.posted_nanos / cap if cap else 1.0)
    held = min(1.0 - posted, window.pending_nanos / cap if cap else 0.0)
    return html_parts([(posted, _HEX[colour(window) or "green"]), (held, GREY)])


def html_parts(parts: Iterable[tuple[float, str]]) -> str:
    """A bar of parts, each with its share of the whole width and its colour. It is drawn without styles, which a strict
    policy for content forbids, and says nothing to those who hear a page: its figures stand beside it."""
    drawn, begins = "", 0.0
    for share, part_colour in parts:
        drawn += f"<rect x='{begins:.2f}' width='{share * 100:.2f}' height='1' fill='{part_colour}'/>"
        begins += share * 100
    return f"<svg class='bar' viewBox='0 0 100 1' preserveAspectRatio='none' aria-hidden='true'>{drawn}</svg>"


def _characters(posted: int, used: int, rest: str = "░") -> str:
    posted, used = min(posted, CHARACTERS), min(used, CHARACTERS)
    return "█" * posted + "▒" * (used - posted) + rest * (CHARACTERS - used)
