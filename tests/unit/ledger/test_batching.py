"""Whether commands wait for each other, told from what a process has sent: a story for each kind of traffic."""

from paymaster.ledger.batching import (
    COMMANDS_A_SECOND_MIN,
    ROWS_WORTH_WAITING_FOR,
    WORTH_WAITING_FOR,
    LedgerTraffic,
)
from paymaster.messages import (
    CallRef,
    Candidate,
    Grant,
    Granted,
    Reserve,
    RetrySettings,
    Settle,
    Settled,
)
from paymaster.values.money import Price

PRICE = Price(input_nanos=1, output_nanos=1, source="test")
EXPIRES_AFTER_S = 100.0


class Worker:
    """A process whose calls are granted and settled at the times that a test says."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.traffic = LedgerTraffic(lambda: self.now_s)
        self.under_way = set[str]()

    def begin(self, *holds: str) -> None:
        self.traffic.sent([_reserve(hold) for hold in holds], [_granted(hold) for hold in holds])
        self.under_way.update(holds)

    def end(self, *holds: str) -> None:
        self.traffic.sent([_settle(hold) for hold in holds], [Settled(hold_id=hold) for hold in holds])
        self.under_way.difference_update(holds)

    def waits_for(self, *, calls: int, seconds: float, group: int, open_for_s: float) -> int:
        """What the last group waited for when so many calls began within so many seconds, in groups of that size."""
        groups = [[f"{self.now_s}-{n}" for n in range(start, start + group)] for start in range(0, calls, group)]
        pause_s = seconds / len(groups)
        ends = [(self.now_s + number * pause_s + open_for_s, holds) for number, holds in enumerate(groups)]
        for holds in groups:
            while ends and ends[0][0] <= self.now_s:
                self.end(*ends.pop(0)[1])
            self.begin(*holds)
            self.now_s += pause_s
        return self.traffic.worth_waiting_for([_reserve(f"next-{n}") for n in range(group)])

    def rushes(self) -> None:
        """A hundred calls at once, of a second each, until now; all have ended."""
        assert self.waits_for(calls=400, seconds=4, group=5, open_for_s=1) == WORTH_WAITING_FOR
        self.end(*self.under_way)


def _settle(hold_id: str) -> Settle:
    return Settle(hold_id=hold_id, cost_nanos=1)


def _reserve(hold_id: str) -> Reserve:
    return Reserve(
        hold_id=hold_id,
        call=CallRef(workflow_id=f"call/{hold_id}", run_id=hold_id),
        budget="acme",
        candidates=(Candidate(service="s", model="m", max_output_tokens=1, price=PRICE),),
        input_bytes=1,
        on_exhausted="wait",
        deadline_at_ms=1,
        asked_at_ms=1,
    )


def _granted(hold_id: str) -> Granted:
    return Granted(
        grant=Grant(
            hold_id=hold_id,
            budget="acme",
            service="s",
            model="m",
            price=PRICE,
            max_output_tokens=1,
            bound_nanos=1,
            granted_at_ms=0,
            expires_at_ms=int(EXPIRES_AFTER_S * 1_000),
            epoch="e",
            timeout_ms=1,
            retry=RetrySettings(),
            max_retry_after_ms=1,
            max_unconfirmed=1,
        )
    )


def test_one_call_after_the_other_never_waits_however_fast_they_are() -> None:
    """Nobody would come while it waits."""
    worker = Worker()
    for number in range(1_000):
        assert worker.traffic.worth_waiting_for([_reserve("next")]) == 1
        worker.begin(f"h{number}")
        worker.now_s += 0.001
        assert worker.traffic.worth_waiting_for([_reserve("next")]) == 1
        worker.end(f"h{number}")
        worker.now_s += 0.001


def test_many_quick_calls_at_once_wait_for_each_other() -> None:
    assert Worker().waits_for(calls=400, seconds=4, group=5, open_for_s=1) == WORTH_WAITING_FOR


def test_many_calls_that_take_long_do_not_wait() -> None:
    """Five hundred open calls of a minute each: eight begin in a second, and in half a second hardly four come."""
    assert Worker().waits_for(calls=500, seconds=60, group=1, open_for_s=60) == 1


def test_few_calls_at_once_do_not_wait_for_more_than_there_are() -> None:
    """Eight at once send a hundred commands a second, and twenty-four wait for no more than there are."""
    assert Worker().waits_for(calls=400, seconds=4, group=2, open_for_s=0.08) == 1
    assert Worker().waits_for(calls=600, seconds=6, group=4, open_for_s=0.2) == 24


def test_when_the_rush_is_over_nobody_waits() -> None:
    """A second later too little comes, and after five nobody knows that there were many."""
    worker = Worker()
    assert worker.waits_for(calls=400, seconds=4, group=5, open_for_s=1) == WORTH_WAITING_FOR
    worker.now_s += 1
    worker.begin("late")
    assert worker.traffic.worth_waiting_for([_reserve("next")]) == 1


def test_calls_that_another_process_settled_are_forgotten_when_their_holds_expire() -> None:
    """Else a worker that lost its calls to another one would count them for ever."""
    worker = Worker()
    for number in range(50):
        worker.begin(f"elsewhere-{number}")
    worker.now_s += EXPIRES_AFTER_S
    for number in range(COMMANDS_A_SECOND_MIN):
        worker.begin(f"h{number}")
        worker.now_s += 0.001
        worker.end(f"h{number}")
        worker.now_s += 0.001
    assert worker.traffic.worth_waiting_for([_reserve("next")]) == 1


def test_the_last_of_a_rush_wait_for_none_but_those_under_way() -> None:
    """Three begin and two end, and five have not ended yet; when those wait as well, all go at once."""
    worker = Worker()
    worker.rushes()
    worker.begin(*"abcdefg")
    waiting = [_reserve("1"), _reserve("2"), _reserve("3"), _settle("a"), _settle("b")]
    assert worker.traffic.worth_waiting_for(waiting) == len(waiting) + 5
    waiting += [_settle(hold) for hold in "cdefg"]
    assert worker.traffic.worth_waiting_for(waiting) == len(waiting)


def test_the_end_of_a_parked_call_counts_for_itself_alone() -> None:
    """Its grant came otherwise, so that its hold was never seen to begin."""
    worker = Worker()
    worker.rushes()
    worker.begin("a")
    assert worker.traffic.worth_waiting_for([_settle("parked"), _settle("elsewhere")]) == 3


def test_rows_wait_only_where_commands_wait_for_the_most() -> None:
    worker = Worker()
    assert worker.traffic.rows_worth_waiting_for([]) == 1
    assert worker.waits_for(calls=600, seconds=6, group=4, open_for_s=0.2) == 24
    assert worker.traffic.rows_worth_waiting_for([]) == 1
    worker.waits_for(calls=400, seconds=4, group=5, open_for_s=1)
    assert worker.traffic.rows_worth_waiting_for([]) == ROWS_WORTH_WAITING_FOR


def test_the_last_rows_of_a_rush_wait_for_no_more_than_come() -> None:
    worker = Worker()
    worker.rushes()
    worker.begin(*"abcd")
    assert worker.traffic.rows_worth_waiting_for([]) == 4
    assert worker.traffic.rows_worth_waiting_for([_settle("a"), _reserve("e")]) == 3
    assert worker.traffic.rows_worth_waiting_for([_settle(hold) for hold in "abcd"]) == 1
