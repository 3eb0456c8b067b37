"""What a desk must decide, by the sums of its model: who fits, who waits for what, who comes first.

Written without the desk's code, which it is compared with (tests/unit/admission/test_desk_machine.py), but for two of
its times: after how long a call claims, and for how long ends are remembered.
"""

from collections.abc import Iterable
from fractions import Fraction

from desk_facts import (
    HOLD_EXPIRES_AFTER_MS,
    SERVICES,
    Verdict,
    Waiting,
    bound_of,
    charged,
    charged_by,
    levels,
    window_name,
)
from desk_sums import Sums

from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.admission.settling import REMEMBER_ENDED_MS
from paymaster.messages import Candidate, Reserve


class Model(Sums):
    """What must be true of the books and the queue."""

    # ------------------------------------------------------------ decisions

    def brackets(self, request: Reserve) -> list[list[int]]:
        """The numbers of the candidates in the order of preference; those in one list share the load."""
        candidates = request.candidates
        brackets: list[list[int]] = []
        for number, candidate in enumerate(candidates):
            if candidate.shares and number and candidates[number - 1].short_below == candidate.short_below:
                brackets[-1].append(number)
            else:
                brackets.append([number])
        return sorted(brackets, key=lambda bracket: not self.is_first(request, candidates[bracket[0]]))

    def is_first(self, request: Reserve, candidate: Candidate) -> bool:
        """Whether it is one for when the money is short, and so little is unspent."""
        below = Fraction(-1 if candidate.short_below is None else candidate.short_below, 1_000_000)
        capped = self.capped(charged_by(request))
        parts = [Fraction(cap - self.posted(a, w), cap) if cap else Fraction(0) for a, w, cap in capped]
        return candidate.short_below is not None and any(part < below for part in parts)

    def lacks_money(self, request: Reserve) -> bool:
        """Whether what is unspent has no room for those that are asked before the ones for when money is short."""
        asked = [c for c in request.candidates if c.short_below is None or self.is_first(request, c)]
        verdicts = [(each, self.verdict_on(request, each, self.bound(request, each))) for each in asked]
        possible = [verdict for _, verdict in verdicts if verdict != "never"]
        too_large = any(
            self.bound(request, candidate) > cap
            for candidate, verdict in verdicts
            if verdict == "never" and candidate.price is not None and candidate.service in SERVICES
            for _, _, cap in self.capped(charged(request.budgets, candidate.service, request.run))
        )
        return set(possible) <= {"gone"} and (bool(possible) or too_large)

    def before_money(self, request: Reserve, candidate: Candidate) -> Verdict:
        """What is in the way of a candidate, whatever it can cost."""
        accounts = charged(request.budgets, candidate.service, request.run)
        if not all(all(budget.split("/")) for budget in request.budgets):
            return "never"
        if (verdict := self.before_all(request)) != "fits":
            return verdict
        if candidate.price is None or (candidate.service in SERVICES) == candidate.purchase:
            return "never"
        if any(self.open.isdisjoint(charged((budget,))) for budget in request.budgets):
            # Until everything stored is known, there may be such a budget.
            return "never" if self.began else "held"
        if not self.loading.isdisjoint(self.open.intersection(accounts)):
            return "held"
        is_spare = candidate.short_below is not None and not self.is_first(request, candidate)
        if is_spare and not self.lacks_money(request):
            return "never"
        return "fits"

    def money(self, request: Reserve, candidate: Candidate, bound: int) -> Verdict:
        """What the caps say of so much."""
        accounts = charged(request.budgets, candidate.service, request.run)
        capped = [(self.posted(a, w), self.pending(a, w), cap) for a, w, cap in self.capped(accounts)]
        if any(bound > cap for _, _, cap in capped):
            return "never"
        if any(posted + bound > cap for posted, _, cap in capped):
            return "gone"
        return "held" if any(posted + pending + bound > cap for posted, pending, cap in capped) else "fits"

    def of_run(self, request: Reserve) -> Verdict:
        """What its run says, whatever money there is."""
        if any(self.parts[path].ended for path in levels(request.run) if path in self.parts):
            return "never"
        if any(self.is_runaway(path, request) for path in levels(request.run)):
            return "stopped"
        return "gone" if self.run_is_over(request) else "fits"

    def verdict(self, request: Reserve, candidate: Candidate) -> Verdict:
        bound = self.bound(request, candidate)
        if self.is_countable(candidate) and self.is_shut(candidate.service):  # nobody can tell what it costs
            bound = bound_of(request, candidate, request.input_bytes // 8)
        return self.verdict_on(request, candidate, bound)

    def verdict_on(self, request: Reserve, candidate: Candidate, bound: int) -> Verdict:
        """If it can cost so much."""
        if (verdict := self.before_money(request, candidate)) != "fits":
            return verdict
        money = self.money(request, candidate, bound)
        if money == "never" or (verdict := self.of_run(request)) == "fits":
            verdict = money
        if verdict != "fits" or candidate.purchase:
            return verdict
        gate = self.gates[candidate.service]
        if self.is_paused(candidate.service):
            return "held"
        if gate.open_until_ms is not None and self.now_ms < gate.open_until_ms:
            return "open"
        accounts = charged(request.budgets, candidate.service, request.run)
        if any(self.running(a) >= most for a, most in self.limited([a for a in accounts if a in self.open])):
            return "held"
        return "fits" if gate.open_until_ms is None else "perhaps"

    def helps_to_count(self, request: Reserve, candidate: Candidate) -> bool:
        """Whether money is in its way, and is not, or not for as long, if the request has a token for eight bytes."""
        return self.may_help_to_count(request, candidate) and not self.is_shut(candidate.service)

    def fits_if_counted(self, request: Reserve, candidate: Candidate, arrival: int) -> bool:
        """Whether nothing but money is in its way, and that is not if the request has a token for eight bytes."""
        if not self.helps_to_count(request, candidate) or self.may_be_claimed(request, candidate, arrival):
            return False
        return self.verdict_on(request, candidate, bound_of(request, candidate, request.input_bytes // 8)) == "fits"

    def may_help_to_count(self, request: Reserve, candidate: Candidate) -> bool:
        """Likewise, also if only the desk knows whether a call is probing its service."""
        if not self.is_countable(candidate) or self.before_money(request, candidate) != "fits":
            return False
        open_until_ms = self.gates[candidate.service].open_until_ms
        if self.is_paused(candidate.service) or (open_until_ms is not None and self.now_ms < open_until_ms):
            return False
        found = self.money(request, candidate, self.bound(request, candidate))
        if found == "fits" or (found != "never" and self.of_run(request) != "fits"):
            return False
        return found != self.money(request, candidate, bound_of(request, candidate, request.input_bytes // 8))

    def is_countable(self, candidate: Candidate) -> bool:
        return candidate.countable and candidate.counted_tokens is None and not candidate.purchase

    def is_paused(self, service: str) -> bool:
        gate = self.gates[service]
        return gate.paused_by is not None or (gate.paused_until_ms or 0) > self.now_ms

    def is_shut(self, service: str) -> bool:
        """Or may be: only the desk knows whether a call is probing it."""
        return self.is_paused(service) or self.gates[service].open_until_ms is not None

    def verdicts(self, request: Reserve) -> list[Verdict]:
        return [self.verdict(request, candidate) for candidate in request.candidates]

    def busy_candidates(self, request: Reserve) -> list[Candidate]:
        return [c for c in request.candidates if self.verdict(request, c) in ("held", "fits", "perhaps")]

    def is_stopped(self, request: Reserve) -> bool:
        return "stopped" in self.verdicts(request)

    def may_be_shut(self, request: Reserve) -> bool:
        """Whether the desk may have seen only open breakers, before somebody behind took money that it needs, too."""
        gates = [self.gates[c.service] for c in self.busy_candidates(request) if not c.purchase]
        return bool(gates) and all(
            gate.open_until_ms is not None and self.now_ms < gate.open_until_ms for gate in gates
        )

    def is_in_the_way_of(self, ahead: Waiting, other: Candidate, request: Reserve, candidate: Candidate) -> bool:
        """Whether this call could take money that the one ahead needs for its own candidate."""
        both_bounds = self.bound(ahead.request, other) + self.bound(request, candidate)
        wanted = charged(request.budgets, candidate.service, request.run)
        return any(
            self.posted(account, window) + self.pending(account, window) + both_bounds > cap
            for account, window, cap in self.capped(charged(ahead.request.budgets, other.service, ahead.request.run))
            if account in wanted
        )

    def may_be_claimed(self, request: Reserve, candidate: Candidate, arrival: int) -> bool:
        """Whether a call ahead has waited so long for holds that what it needs may be kept for it."""
        wanted = charged(request.budgets, candidate.service, request.run)
        return any(
            self.is_in_the_way_of(ahead, other, request, candidate) or not ahead.claims.isdisjoint(wanted)
            for ahead in self.queue
            if ahead.is_ahead_of(request, arrival) and self.now_ms >= ahead.parked_at_ms + CLAIM_AFTER_MS
            for other in self.busy_candidates(ahead.request)
        )

    def use(self, request: Reserve, numbers: Iterable[int]) -> dict[int, Fraction]:
        """How much these candidates, which share the load, are used for the weight of their services."""
        of = {number: request.candidates[number] for number in numbers}
        limited = all(f"service:{candidate.service}" in self.file.concurrent_max for candidate in of.values())
        return {
            number: Fraction(
                self.running(f"service:{candidate.service}"),
                (self.file.concurrent_max[f"service:{candidate.service}"] if limited else 1)
                * sum(other.weight for other in of.values() if other.service == candidate.service),
            )
            for number, candidate in of.items()
        }

    def open_candidates(self, request: Reserve, arrival: int) -> list[int]:
        """Those that fit now and that nobody ahead can have claimed."""
        return [
            number
            for number, candidate in enumerate(request.candidates)
            if self.verdict(request, candidate) == "fits" and not self.may_be_claimed(request, candidate, arrival)
        ]

    def is_recent(self, at_ms: int) -> bool:
        return self.now_ms - at_ms < REMEMBER_ENDED_MS

    def may_be_forgotten(self, asked_at_ms: int) -> bool:
        """Whether an id of this time may have ended, and nobody knows any more how: long ago, or while the clock was
        ahead. For some minutes a clock may be behind the time to which it was put back."""
        return not self.is_recent(asked_at_ms) or asked_at_ms < self.returned_ms

    def go_back(self, to_ms: int) -> None:
        """The clock was ahead: what happened meanwhile happened now, and what was forgotten meanwhile stays so."""
        for (_, window), cap in self.changed.items():
            now, then = window_name(window, self.now_ms), window_name(window, to_ms)
            cap.lapsing = [(then, by) for name, by in cap.lapsing if name == now]
        for hold in self.holds.values():
            expires_at_ms = min(hold.grant.expires_at_ms, to_ms + HOLD_EXPIRES_AFTER_MS)
            granted_at_ms = min(hold.grant.granted_at_ms, to_ms)
            hold.grant = hold.grant.model_copy(update={"granted_at_ms": granted_at_ms, "expires_at_ms": expires_at_ms})
            hold.ended_at_ms = self._ended_ms(hold.ended_at_ms, to_ms)
        for waiting in self.queue:
            ahead_ms = max(0, waiting.request.asked_at_ms - to_ms)
            deadline_at_ms = waiting.request.deadline_at_ms - ahead_ms
            times = {"deadline_at_ms": deadline_at_ms, "asked_at_ms": min(waiting.request.asked_at_ms, to_ms)}
            waiting.request = waiting.request.model_copy(update=times)
            waiting.parked_at_ms = min(waiting.parked_at_ms, to_ms)
            waiting.busy_since_ms = None if waiting.busy_since_ms is None else min(waiting.busy_since_ms, to_ms)
        self.over = {hold_id: (self._ended_ms(at_ms, to_ms), denied) for hold_id, (at_ms, denied) in self.over.items()}
        for part in self.parts.values():
            part.granted_ms = tuple(min(at_ms, to_ms) for at_ms in part.granted_ms)
            part.asked_for = [(digest, min(at_ms, to_ms)) for digest, at_ms in part.asked_for]
            part.more_in = {
                (window, window_name(window, to_ms)): more
                for (window, name), more in part.more_in.items()
                if name == window_name(window, self.now_ms)
            }
        for given in self.given:
            given.at_ms = min(given.at_ms, to_ms)
        self.used_ms = {account: min(at_ms, to_ms) for account, at_ms in self.used_ms.items()}
        self.let_through_ms = {place: min(at_ms, to_ms) for place, at_ms in self.let_through_ms.items()}
        self.now_ms = self.returned_ms = to_ms
        self.earlier_ms = min(self.earlier_ms, to_ms)
        self.loading = set(self.open)

    def _ended_ms(self, at_ms: int, to_ms: int) -> int:
        return min(at_ms, to_ms) if self.is_recent(at_ms) else 0
