"""The wait before the next attempt: the service's wish or the policy's, and spread."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages import RetrySettings
from paymaster.providers.retries import retry_delay
from paymaster.settings import RetryPolicySettings, ServiceSettings
from paymaster.values.retries import JITTER

POLICY = RetrySettings(initial_interval_ms=500, backoff_coefficient=3.0, maximum_interval_ms=10_000)


def delays_s(asked_ms: int | None = None, chance: float = 0.0) -> list[float]:
    return [retry_delay(POLICY, attempt, asked_ms, chance).total_seconds() for attempt in (1, 2, 3, 4, 100)]


def test_each_wait_is_a_multiple_of_the_one_before_up_to_the_longest() -> None:
    assert delays_s() == [0.5, 1.5, 4.5, 10, 10]


def test_the_service_is_given_the_time_that_it_asked_for() -> None:
    """Also more than the policy's longest; when it asks for nothing, the policy decides."""
    assert delays_s(asked_ms=42_000) == [42] * 5
    assert delays_s(asked_ms=0) == delays_s()


@given(attempt=st.integers(1, 100), asked_ms=st.none() | st.integers(0, 60_000), chance=st.floats(0, 1))
def test_calls_that_failed_together_come_back_spread_and_none_too_early(
    attempt: int, asked_ms: int | None, chance: float
) -> None:
    earliest = retry_delay(POLICY, attempt, asked_ms, 0)
    assert earliest <= retry_delay(POLICY, attempt, asked_ms, chance) <= earliest * (1 + JITTER)


def test_a_policy_that_grows_beyond_all_numbers_is_still_one() -> None:
    policy = RetrySettings(initial_interval_ms=366 * 86_400_000, backoff_coefficient=100.0, maximum_interval_ms=1_000)
    assert retry_delay(policy, 100, None, 0) == timedelta(seconds=1)


def test_the_worst_case_of_a_service_has_room_for_the_longest_waits() -> None:
    service = ServiceSettings(
        api="openai",
        base_url="https://api.example.com/v1",
        timeout=timedelta(seconds=10),
        max_retry_after=timedelta(seconds=60),
        retry=RetryPolicySettings(maximum_attempts=3),
    )
    longest = retry_delay(RetrySettings(), 1, 60_000, 1)
    assert service.worst_case() == 3 * timedelta(seconds=10) + 2 * longest
