"""Calls at a desk whose bytes could cost more than their tokens."""

from desk_kit import USD, Site, candidate

from paymaster.messages import Answer, Candidate, Grant, Granted
from paymaster.values.money import Price

BYTES = 20_000
A_TENTH_OF_A_CENT = Price(input_nanos=1_000 * USD, output_nanos=0, source="test")
"""For a token of input: 20,000 bytes could cost $21.03, and 5,000 tokens $6.13 with their margin; the cap is $10."""


def texts(name: str = "s", counted: int | None = None, price: Price | None = A_TENTH_OF_A_CENT) -> Candidate:
    return candidate(name, price=price).model_copy(
        update={"countable": counted is None, "counted_tokens": counted, "max_output_tokens": 1}
    )


def ask(site: Site, *candidates: Candidate, hold_id: str | None = None, **asked: object) -> Answer:
    request = site.request(*candidates, hold_id=hold_id).model_copy(update={"input_bytes": BYTES, **asked})
    return site.desk.handle(request, site.now_ms)


def granted(answer: Answer) -> Grant:
    assert isinstance(answer, Granted), answer
    return answer.grant
