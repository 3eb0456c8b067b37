"""Which of the candidates that share the load, and have room, is called."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from zlib import crc32

from paymaster.admission.books import Ledger
from paymaster.messages import Candidate


def least_used(candidates: Sequence[Candidate], hold_id: str, ledger: Ledger, now_ms: int) -> int:
    """The number of the one whose service is used least for its weight; among equals a draw by their weights.

    The use of a service is the part that is used of its limits, or where one of the services has no limit, the number
    of its calls at once. The draw follows from the hold's id: the same desk decides the same.
    """
    weights = Counter[str]()
    for candidate in candidates:
        weights[candidate.service] += candidate.weight
    use = {service: use / weights[service] for service, use in _use(weights, ledger, now_ms).items()}
    least = min(use.values())
    drawn = crc32(hold_id.encode()) % sum(weight for service, weight in weights.items() if use[service] == least)
    for number, candidate in enumerate(candidates):
        if use[candidate.service] == least:
            drawn -= candidate.weight
            if drawn < 0:
                return number
    raise AssertionError("the weights add up to what was drawn from")


def _use(services: Counter[str], ledger: Ledger, now_ms: int) -> dict[str, Fraction]:
    parts = {each: ledger.accounts[f"service:{each}"].limiter.fullness(now_ms) for each in services}
    of_limits = {service: part for service, part in parts.items() if part is not None}
    return of_limits if len(of_limits) == len(parts) else {each: Fraction(ledger.running_at[each]) for each in services}
