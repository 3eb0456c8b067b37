"""Bars: the terminal shows any spending, the Temporal UI full tenths, and reports the exact shares."""

import pytest

from paymaster.bars import GREY, RED, colour, html_bar, markdown_bar, terminal_bar
from paymaster.messages import WindowStatus


def day(cap: int | None, posted: int, pending: int) -> WindowStatus:
    return WindowStatus(window="day", cap_nanos=cap, posted_nanos=posted, pending_nanos=pending, ends_at_ms=None)


@pytest.mark.parametrize(
    ("cap", "posted", "pending", "drawn"),
    [
        (100, 0, 0, "··········"),
        (100, 50, 25, "█████▒▒▒··"),
        (1_000_000, 1, 0, "▏·········"),
        (1_000, 49, 0, "▏·········"),
        (1_000, 50, 0, "█·········"),
        (1_000, 1, 500, "▏▒▒▒▒▒····"),
        (100, 500, 10, "██████████"),
        (0, 0, 0, "██████████"),
        (None, 5, 5, ""),
    ],
)
def test_a_bar_shows_posted_and_pending_parts_of_the_cap(
    cap: int | None, posted: int, pending: int, drawn: str
) -> None:
    assert terminal_bar(day(cap, posted, pending)) == drawn


@pytest.mark.parametrize(
    ("cap", "posted", "pending", "drawn"),
    [
        (100, 19, 0, "█░░░░░░░░░ 19%"),
        (100, 40, 15, "█████░░░░░ 55%"),
        (10, 11, 10, "██████████ 210%"),
        (0, 0, 0, "██████████ 100%"),
        (None, 5, 5, ""),
    ],
)
def test_the_temporal_ui_shows_full_tenths_and_percent(cap: int | None, posted: int, pending: int, drawn: str) -> None:
    assert markdown_bar(day(cap, posted, pending)) == drawn


def test_a_report_shows_posted_and_held_shares() -> None:
    assert html_bar(day(100, 90, 20)) == (
        "<svg class='bar' viewBox='0 0 100 1' preserveAspectRatio='none' aria-hidden='true'>"
        f"<rect x='0.00' width='90.00' height='1' fill='{RED}'/>"
        f"<rect x='90.00' width='10.00' height='1' fill='{GREY}'/></svg>"
    )


@pytest.mark.parametrize(
    ("cap", "posted", "pending", "name"),
    [(100, 79, 0, "green"), (100, 79, 1, "yellow"), (1000, 949, 0, "yellow"), (100, 90, 5, "red"), (0, 0, 0, "red")],
)
def test_a_cap_turns_yellow_at_80_percent_and_red_at_95(cap: int, posted: int, pending: int, name: str) -> None:
    assert colour(day(cap, posted, pending)) == name
