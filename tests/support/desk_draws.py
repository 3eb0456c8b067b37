"""What the machine of the desk does in some draws, as a digest; `python desk_draws.py` prints it."""

from collections.abc import Callable
from hashlib import sha256

from desk_facts import T
from desk_machine import DeskMachine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from searches import alike_whatever_is_imported

from paymaster.admission.desk import Desk


def digest() -> str:
    """Of all that two desks answer in some draws of a few steps."""
    answers = sha256()

    class Told(DeskMachine):
        def both(self, do: Callable[[Desk], T]) -> T:
            answer = super().both(do)
            answers.update(f"{self.clock_ms} {answer!r}\n".encode())
            return answer

    search = settings(
        max_examples=30,
        stateful_step_count=4,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )

    @settings(search, max_examples=300)
    @given(st.integers(0, 254))  # how often the machine leaves rules out is drawn like this
    def numbers(number: int) -> None:
        answers.update(f"{number}\n".encode())

    with alike_whatever_is_imported():
        run_state_machine_as_test(Told, settings=search)
        numbers()
    return answers.hexdigest()


if __name__ == "__main__":
    print(digest())
