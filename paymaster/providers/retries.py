"""How long a failed attempt waits for the next one under the same hold."""

from datetime import timedelta

from paymaster.messages import RetrySettings
from paymaster.values.retries import JITTER


def retry_delay(retry: RetrySettings, attempt: int, asked_ms: int | None, chance: float) -> timedelta:
    """What the service asked for, else what its policy says after so many attempts; and up to a fifth more.

    `asked_ms`: None or 0 when the service asked for nothing. `chance`: from 0 to 1, drawn anew for each wait.
    """
    by_policy_ms = min(
        retry.initial_interval_ms * retry.backoff_coefficient ** (attempt - 1), retry.maximum_interval_ms
    )
    return timedelta(milliseconds=(asked_ms or by_policy_ms) * (1 + JITTER * chance))
