"""How fast the money of a window is spent, and when its cap will be reached; from the ledger's status alone, so that it
is there when the database is not."""

from typing import TYPE_CHECKING

from paymaster.values.windows import window_start_ms

if TYPE_CHECKING:  # commands import this before they know whether they need the messages
    from paymaster.messages import WindowStatus

_HOUR_MS = 3_600_000


def available_nanos(window: "WindowStatus") -> int | None:
    """What is neither posted nor held. Below zero after a bill above its bound, and when a cap was lowered. None: no
    cap."""
    if window.cap_nanos is None:
        return None
    return window.cap_nanos - window.posted_nanos - window.pending_nanos


def burn_nanos_per_hour(window: "WindowStatus", now_ms: int) -> int | None:
    """What is spent in an hour, on average since the window began. None: it has no beginning, or has just begun."""
    if window.ends_at_ms is None:
        return None
    # A ledger of an older version says only when it ends.
    began_ms = window.began_at_ms or window_start_ms(window.window, window.ends_at_ms - 1)
    elapsed_ms = min(now_ms, window.ends_at_ms) - began_ms
    return None if elapsed_ms <= 0 else window.posted_nanos * _HOUR_MS // elapsed_ms


def cap_reached_at_ms(window: "WindowStatus", now_ms: int) -> int | None:
    """When nothing will be left if it goes on like this; now, when nothing is. None: not before the window ends."""
    left, rate = available_nanos(window), burn_nanos_per_hour(window, now_ms)
    if left is None:
        return None
    if left <= 0:
        return now_ms
    if not rate or window.ends_at_ms is None:
        return None
    reached_ms = now_ms + left * _HOUR_MS // rate
    return reached_ms if reached_ms < window.ends_at_ms else None
