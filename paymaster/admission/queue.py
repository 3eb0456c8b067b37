"""The parked calls: in which order they are served, who is looked at when something changes, and when one is due."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain

from paymaster.admission.books import Ledger
from paymaster.admission.breaker import Gate
from paymaster.admission.changed_calls import ChangedCalls
from paymaster.admission.claims import Claims
from paymaster.admission.counting import Counting
from paymaster.admission.first_fit import FIRST, Place
from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.routing import Obstacle
from paymaster.admission.timers import NEVER_MS, Timers
from paymaster.admission.waits import Waits
from paymaster.values.budget_path import is_within

_EVERYBODY = ""
"""In a round, instead of an account: the calls that are looked at whatever they wait for."""


class ParkedQueue:
    def __init__(self, calls: dict[str, ParkedCall], ledger: Ledger, gates: Mapping[str, Gate], now_ms: int) -> None:
        """`calls`, by hold id, is the state; everything else here follows from it, the books and the gates."""
        self._calls, self._ledger, self._gates = calls, ledger, gates
        by_place = sorted((call.place(), hold_id) for hold_id, call in calls.items())
        self._by_place = {place: calls[hold_id] for place, hold_id in by_place}
        self._order = list(self._by_place.values())
        self.candidates = sum(len(call.reserve.candidates) for call in self._order)
        """Of all calls here."""
        self._waiting_in = Counter(chain.from_iterable([call.waits_for for call in self._order]))
        self.counting = Counting(self._order, gates)
        self._deadlines = Timers((hold_id, call.reserve.deadline_at_ms) for hold_id, call in calls.items())
        self._claims_due = Timers(
            (hold_id, at_ms) for hold_id, call in calls.items() if (at_ms := call.claims_at_ms()) is not None
        )
        self.claims = Claims()
        self.changed = ChangedCalls()
        self.file_again(now_ms)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[ParkedCall]:
        """In order; calls may be removed meanwhile."""
        return iter(tuple(self._order))

    def get(self, hold_id: str) -> ParkedCall | None:
        return self._calls.get(hold_id)

    def first(self, most: int) -> list[ParkedCall]:
        """So many at most, in order."""
        return self._order[:most]

    def waiting_in(self, account: str) -> int:
        """How many wait for something in the account."""
        return self._waiting_in[account]

    def add(self, call: ParkedCall, obstacles: list[Obstacle], now_ms: int) -> None:
        self._calls[call.reserve.hold_id] = self._by_place[call.place()] = call
        insort(self._order, call, key=ParkedCall.place)
        self.candidates += len(call.reserve.candidates)
        self._deadlines.set(call.reserve.hold_id, call.reserve.deadline_at_ms)
        self.note(call, obstacles, now_ms)

    def remove(self, call: ParkedCall) -> None:
        hold_id = call.reserve.hold_id
        del self._calls[hold_id], self._by_place[call.place()]
        self.changed.mark(hold_id)
        del self._order[bisect_left(self._order, call.place(), key=ParkedCall.place)]
        self.candidates -= len(call.reserve.candidates)
        self._waiting_in.subtract(call.waits_for)
        self.counting.ends(call)
        self._ledger.mark(sorted(call.waits_for))
        self._deadlines.set(hold_id, None)
        self._claims_due.set(hold_id, None)
        self._waits.remove(call)
        self.claims.end(call)

    def note(self, call: ParkedCall, obstacles: list[Obstacle], now_ms: int) -> None:
        """The call was looked at, and this is in its way."""
        before, said = call.waits_for, call.detail
        self._waiting_in.subtract(before)
        self.counting.ends(call)
        call.note(obstacles, now_ms, self._waits.short_in(call))
        self.counting.begins(call)
        if call.waits_for != before or call.detail != said:
            self.changed.mark(call.reserve.hold_id)
        self._waiting_in.update(call.waits_for)
        if call.waits_for != before:
            self._ledger.mark(sorted(call.waits_for ^ before))
        self._waits.file(call)
        claims_at_ms = call.claims_at_ms()
        self._claims_due.set(
            call.reserve.hold_id, None if claims_at_ms is None or claims_at_ms <= now_ms else claims_at_ms
        )
        for obstacle in obstacles:
            if obstacle.account is not None and obstacle.until_ms is not None:
                self._alarms.set(obstacle.account, min(obstacle.until_ms, self._alarms.get(obstacle.account)))
        for key in call.short_in():
            ends_ms = self._waits.next_ms(key, now_ms)
            if ends_ms is not None:
                self._alarms.set(key, min(ends_ms, self._alarms.get(key)))

    def file_again(self, now_ms: int) -> None:
        """After accounts were opened, or limits or breakers changed: the filing follows from them."""
        self._waits = Waits(self._order, self._ledger, self._gates, self.claims.first, self.counting.has_room)
        alarms = ((key, self._waits.next_ms(key, now_ms)) for key in self._waits.accounts())
        self._alarms = Timers((key, at_ms) for key, at_ms in alarms if at_ms is not None)

    def file_below(self, path: str) -> None:
        """Files those anew that are charged to this budget, which has an account since now."""
        for call in self._order:
            if any(is_within(budget, path) for budget in call.reserve.budgets):
                self._waits.file(call)

    # ------------------------------------------------------------ what is due

    def first_deadline_ms(self) -> int:
        """NEVER_MS if nobody waits."""
        return self._deadlines.first_ms()

    def change_ms(self) -> int:
        """When a call begins to claim, or something may change in an account by itself; NEVER_MS if never."""
        if not self._order:  # what is left of calls that have gone wakes nobody
            return NEVER_MS
        return min(self._claims_due.first_ms(), self._alarms.first_ms())

    def take_overdue(self, now_ms: int, most: int | None) -> list[ParkedCall]:
        """Calls whose deadline has passed, in order; so many at most."""
        return sorted((self._calls[key] for key in self._deadlines.take_due(now_ms, most)), key=ParkedCall.place)

    def begin_claims(self, now_ms: int) -> None:
        """Those who have waited long enough claim from now on."""
        for hold_id in self._claims_due.take_due(now_ms):
            self.claims.claim(self._calls[hold_id], now_ms)

    def renew_claims(self, now_ms: int) -> None:
        """All who have waited long enough claim what they wait for."""
        self.claims.clear()
        for call in self._order:
            self.claims.claim(call, now_ms)

    def take_alarms(self, now_ms: int) -> list[str]:
        """Accounts in which something may have changed by itself."""
        return self._alarms.take_due(now_ms)

    # ------------------------------------------------------------ who is looked at

    def comes_first(self, place: Place, accounts: tuple[str, ...], freed: set[str], now_ms: int) -> str | None:
        """An account among these in which a call before this place comes first, or None.

        That is one that claims it, or, where something was freed, one that was not looked at yet.
        """
        claimed = self.claims.before(place, accounts)
        if claimed is not None or not freed:
            return claimed
        firsts = ((key, self._waits.first(key, now_ms, may_lose=False)) for key in accounts if key in freed)
        return next((key for key, first in firsts if first is not None and first < place), None)

    def round(self, freed: set[str], everybody_from: Place | None, now_ms: int) -> "Round":
        return Round(self, freed, everybody_from, now_ms)

    def at(self, place: Place) -> ParkedCall:
        return self._by_place[place]

    def first_changed(self, account: str, now_ms: int) -> Place | None:
        """The first place in the account for which something has changed since its call was looked at."""
        return self._waits.first(account, now_ms)

    def first_from(self, place: Place) -> Place | None:
        """The first place that is not before this one."""
        number = bisect_left(self._order, place, key=ParkedCall.place)
        return self._order[number].place() if number < len(self._order) else None

    def is_served(self, account: str, now_ms: int) -> None:
        """Nobody in the account is to be looked at: when may that change by itself?"""
        self._alarms.set(account, self._waits.next_ms(account, now_ms))


class Round:
    """One look, in the queue's order, at each call for which something has changed in the freed accounts.

    After a look the caller decides what becomes of the call, and files it anew or removes it, before it asks for the
    next. It may end before all were looked at: `freed` and `everybody_from` say what is left.
    """

    def __init__(self, queue: ParkedQueue, freed: set[str], everybody_from: Place | None, now_ms: int) -> None:
        self.freed, self.everybody_from = freed, everybody_from
        self._queue, self._now_ms = queue, now_ms
        # For each account, nobody before this place is to be looked at.
        self._heap: list[tuple[Place, str]] = [(FIRST, key) for key in freed]
        if everybody_from is not None:
            self._heap.append((everybody_from, _EVERYBODY))
        heapify(self._heap)

    def next(self) -> ParkedCall | None:
        """The next call to look at; None when there is none."""
        heap = self._heap
        while heap:
            place, key = heap[0]
            first = self._first(key, place)
            if first is None:
                heappop(heap)
                self._end(key)
                continue
            if first != place:
                heapreplace(heap, (first, key))
                if heap[0][1] != key:
                    continue
            if self.everybody_from is not None:
                self.everybody_from = max(self.everybody_from, (first[0], first[1] + 1))
            return self._queue.at(first)
        return None

    def free(self, accounts: frozenset[str]) -> None:
        """Something was freed in these accounts by what became of the call."""
        for key in accounts - self.freed:
            self.freed.add(key)
            heappush(self._heap, (FIRST, key))

    def _first(self, key: str, place: Place) -> Place | None:
        if key == _EVERYBODY:
            return self._queue.first_from(max(place, self.everybody_from or place))
        return self._queue.first_changed(key, self._now_ms)

    def _end(self, key: str) -> None:
        if key == _EVERYBODY:
            self.everybody_from = None
        else:
            self.freed.discard(key)
            self._queue.is_served(key, self._now_ms)
