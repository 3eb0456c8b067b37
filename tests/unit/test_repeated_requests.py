"""Equal requests on purpose are two calls; one that its SDK sends once more is one."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from paymaster.repeated_requests import EQUALS_MAX, REQUESTS_MAX, RepeatedRequests


def numbered(before: int) -> str:
    return f"call-{before}"


def test_equal_requests_are_two_one_after_the_other_and_at_once() -> None:
    requests = RepeatedRequests()
    first = requests.begin("a", 0, numbered)
    assert (first, requests.begin("a", 0, numbered)) == ("call-0", "call-1")
    requests.end("a", first, failed=False)
    assert requests.begin("a", 0, numbered) == "call-2"
    assert requests.begin("b", 0, numbered) == "call-0"


def test_a_request_that_is_sent_once_more_is_one() -> None:
    requests = RepeatedRequests()
    for repeats in range(4):
        call_id = requests.begin("a", repeats, numbered)
        assert call_id == "call-0"
        requests.end("a", call_id, failed=True)


def test_two_that_are_both_sent_once_more_stay_two() -> None:
    requests = RepeatedRequests()
    both = {requests.begin("a", 0, numbered), requests.begin("a", 0, numbered)}
    for call_id in both:
        requests.end("a", call_id, failed=True)
    assert {requests.begin("a", 1, numbered), requests.begin("a", 1, numbered)} == both


def test_one_that_is_still_waited_for_is_not_sent_once_more() -> None:
    requests = RepeatedRequests()
    assert requests.begin("a", 0, numbered) == "call-0"
    assert requests.begin("a", 1, numbered) == "call-1"


def test_a_repeat_whose_first_sending_nobody_knows_is_the_first() -> None:
    """After a worker's death the SDK of the next attempt begins anew."""
    assert RepeatedRequests().begin("a", 2, numbered) == "call-0"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.booleans()), max_size=30))
def test_whatever_is_sent_each_request_has_one_call(asked: list[tuple[str, int, bool]]) -> None:
    """A request is sent up to so many times, until it is answered or given up, and equal ones follow it."""
    requests, ids, numbers = RepeatedRequests(), set[str](), count()
    for digest, sendings, answered in asked:
        mine: set[str] = set()
        for repeats in range(sendings):
            call_id = requests.begin(digest, repeats, lambda _: str(next(numbers)))
            requests.end(digest, call_id, failed=not answered or repeats < sendings - 1)
            mine.add(call_id)
        assert len(mine) == 1
        ids |= mine
    assert len(ids) == len(asked)


def test_what_is_remembered_is_bounded() -> None:
    """Also of equal requests, whose number goes on."""
    requests = RepeatedRequests()
    for number in range(3 * EQUALS_MAX):
        call_id = requests.begin("a", 0, numbered)
        assert call_id == f"call-{number}"
        requests.end("a", call_id, failed=True)
    assert requests.remembered == EQUALS_MAX
    for number in range(REQUESTS_MAX + 10):
        requests.begin(f"b{number}", 0, numbered)
    assert requests.remembered == REQUESTS_MAX
