"""Who waits for what: of the parked calls that wait in an account, the first one for which something has changed.

A parked call has one obstacle for each of its candidates. Each is filed under its account and kind with the number that
decides when it clears (money, tokens, a time), so that when something changes in an account, those for whom that makes
no difference are not looked at. Whoever is looked at is filed anew; so each look finds the next one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from paymaster.admission.accounts import UNCAPPED, Account
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import COUNTED_MARGIN_PERCENT, Gate
from paymaster.admission.first_fit import FirstFit, Place
from paymaster.admission.parked_call import COUNTING, COUNTS_LATE, TO_COUNT, ParkedCall
from paymaster.admission.routing import NOT_SHORT, budgets_of, least_bound_nanos, tokens_estimated
from paymaster.admission.runs import Run

Kind = Literal[
    "held",
    "exhausted",
    "impossible",
    "limited",
    "probing",
    "breaker_open",
    "model_paused",
    "loading",
    "claimed",
    "counting",
    "to_count",
    "full",
    "run_over",
    "runaway",
    "has_money",
    "not_short",
    "short",
]
"""What an obstacle waits for, and the need that it is filed with.

held, exhausted, impossible: money on hold, money that is spent, a higher cap; the bound. limited: a place, a rate or
the end of a pause; the tokens. model_paused: the end of its model's pause; that time. breaker_open: a service that
works; when the call has waited for long enough. loading, probing, claimed: 0. counting: that it has counted its
tokens; how long that is waited for. to_count: that fewer calls count by its service; 0. full: room for this account,
which it needs; 0. run_over: time for its run, 0, or calls, too, 1, also of its next period. runaway: that its run goes
on; 0. has_money: no obstacle, but the highest bound of a call that may lose its money in this account to others.
not_short: that less of a cap is unspent, for a candidate for when the money is short; the part below which it is.
short: that so much is unspent again, and those candidates are none any more; that part.
"""

_KINDS: dict[str, Kind] = {
    "money_held": "held",
    "cap_reached": "exhausted",
    "bound_above_cap": "impossible",
    "paused": "limited",
    "model_paused": "model_paused",
    "max_concurrent": "limited",
    "rate_limit": "limited",
    "probing": "probing",
    "breaker_open": "breaker_open",
    "loading": "loading",
    "claimed": "claimed",
    COUNTING: "counting",
    COUNTS_LATE: "counting",
    TO_COUNT: "to_count",
    "accounts_full": "full",
    "run_budget_exhausted": "exhausted",
    "run_calls_exhausted": "run_over",
    "run_time_over": "run_over",
    "runaway": "runaway",
}
_BY_BOUND = frozenset[Kind](("held", "exhausted", "impossible"))
_BY_SPENDING: tuple[Kind, ...] = ("held", "exhausted")
"""They may fit when a window ends."""
_HAS_LOST = frozenset[Kind](
    ("exhausted", "impossible", "loading", "counting", "to_count", "full", "run_over", "runaway")
)
"""Who is filed so has no money here that others could take."""
_BY_GATE = {"limited": "paused", "probing": "probing", "breaker_open": "breaker_open"}
"""How the gate of a service is shut for those that are filed so."""

_BY_TIME = frozenset[str]((*_BY_GATE, "model_paused", "counting", "run_over", "short"))
"""Who is filed so waits for a time, or for the gate of a service, or for a window's end."""

Entries = dict[tuple[str, Kind], int]


class Waits:
    def __init__(
        self,
        calls: Iterable[ParkedCall],
        ledger: Ledger,
        gates: Mapping[str, Gate],
        first_claim: Callable[[str], Place | None],
        may_count: Callable[[str, int], bool],
    ) -> None:
        """`calls` are in order. `first_claim` names the first place for which an account is kept; `may_count` says
        whether one more call may count by the service of an account, at a time."""
        self._ledger, self._gates = ledger, gates
        self._first_claim, self._may_count = first_claim, may_count
        self._entries: dict[Place, Entries] = {}
        self._files: dict[str, dict[Kind, FirstFit]] = {}
        """By account."""
        listed: dict[tuple[str, Kind], tuple[list[Place], list[int]]] = {}
        for call in calls:
            place = call.place()
            self._entries[place] = entries = self._entries_of(call)
            for filed_under, need in entries.items():
                places, needs = listed.setdefault(filed_under, ([], []))
                places.append(place)
                needs.append(need)
        for (key, kind), (places, needs) in listed.items():
            self._files.setdefault(key, {})[kind] = FirstFit(places, needs)

    def accounts(self) -> Iterable[str]:
        """In which somebody waits, or has money to lose."""
        return self._files.keys()

    def file(self, call: ParkedCall) -> None:
        """Files the call by what it waits for now."""
        self._change(call.place(), self._entries_of(call))

    def remove(self, call: ParkedCall) -> None:
        self._change(call.place(), {})

    def short_in(self, call: ParkedCall) -> list[str]:
        """The accounts in which money is short now for a candidate that is for that."""
        below = call.short_below()
        if below is None:
            return []
        keys = budgets_of(call.reserve, call.reserve.candidates[0], self._ledger)
        return [key for key in keys if self._ledger.accounts[key].unspent_millionths() < below]

    def first(self, key: str, now_ms: int, *, may_lose: bool = True) -> Place | None:
        """The first place in the account for which something has changed since its call was looked at.

        Without `may_lose`: something that it waits for.
        """
        files, account = self._files.get(key), self._ledger.accounts.get(key)
        if not files:
            return None
        if account is None or account.loading:
            full = files.get("full")
            is_helped = full is not None and (account is not None or self._ledger.may_have_room(now_ms))
            return full.first if full is not None and is_helped else None
        first: Place | None = None
        for kind, entries in files.items():
            if kind == "has_money" and not may_lose:
                continue
            place = self._first_of(kind, entries, account, now_ms)
            if place is not None and (first is None or place < first):
                first = place
        return first

    def next_ms(self, key: str, now_ms: int) -> int | None:
        """When something may change in the account by itself for those that wait there."""
        files, account = self._files.get(key), self._ledger.accounts.get(key)
        if files and account is None and "full" in files and self._ledger.may_have_room_ms > now_ms:
            return self._ledger.may_have_room_ms
        if not files or account is None or account.loading:
            return None
        spending = [files[kind].highest or 0 for kind in _BY_SPENDING if kind in files]
        zone = self._ledger.calendars.zone(account.time_zone)
        first_ms = account.next_end_ms(max(spending), now_ms, zone) if spending else None
        if files.keys().isdisjoint(_BY_TIME):
            return first_ms
        times: list[int | None] = [first_ms]
        if "short" in files:
            times.append(account.short_until_ms(files["short"].highest or 0, now_ms, zone))
        if "limited" in files and not account.limiter.is_full:
            times.append(now_ms + account.limiter.wait_ms(files["limited"].lowest or 0, now_ms))
        if "model_paused" in files:
            times.append(files["model_paused"].lowest)
        if "counting" in files:
            times.append(files["counting"].lowest)
        if "run_over" in files and account.run is not None:
            times.append(account.run.renews_ms(now_ms))
        gate = self._gate(key)
        if gate is not None:
            times += [gate.paused_until_ms, gate.breaker.open_until_ms]
        return min((at_ms for at_ms in times if at_ms is not None and at_ms > now_ms), default=None)

    def _first_of(self, kind: Kind, entries: FirstFit, account: Account, now_ms: int) -> Place | None:
        match kind:
            case "held":
                return entries.first_at_most(account.headroom_nanos())
            case "exhausted":
                return entries.first_at_most(account.unspent_nanos())
            case "impossible":
                return entries.first_at_most(account.lowest_cap_nanos())
            case "has_money":  # a bound of 0 always fits
                return entries.first_above(max(0, account.unspent_nanos()))
            case "not_short":
                return entries.first_above(account.unspent_millionths())
            case "short":
                return entries.first_at_most(account.unspent_millionths())
            case "loading":
                return entries.first
            case "claimed":
                first, claim = entries.first, self._first_claim(account.key)
                return first if first is None or claim is None or first <= claim else None
            case "counting":
                return entries.first_at_most(now_ms)
            case "to_count":
                gate = self._gate(account.key)
                is_shut = gate is None or gate.shut(now_ms) is not None
                return entries.first if is_shut or self._may_count(account.key, now_ms) else None
            case "run_over":
                return self._first_of_run(entries, account.run, now_ms)
            case "runaway":
                return None if account.run is not None and account.run.held else entries.first
            case "full":  # somebody else found room for the account
                return entries.first
            case "model_paused":  # also when an admin ended all pauses
                gate = self._gate(account.key)
                return entries.first_at_most(now_ms) if gate and gate.models_paused_until_ms else entries.first
            case "limited" | "probing" | "breaker_open":
                return self._first_by_gate(kind, entries, account, now_ms)

    def _first_of_run(self, entries: FirstFit, run: Run | None, now_ms: int) -> Place | None:
        if run is None or run.over(now_ms, another_call=True) is None:
            return entries.first
        return None if run.over(now_ms, another_call=False) else entries.first_at_most(0)

    def _first_by_gate(self, kind: Kind, entries: FirstFit, account: Account, now_ms: int) -> Place | None:
        gate = self._gate(account.key)
        shut = None if gate is None else gate.shut(now_ms)
        if shut is None and kind == "limited":
            room = account.limiter.room(now_ms)
            return entries.first if room is None else entries.first_at_most(room)
        if shut != _BY_GATE[kind]:
            return entries.first
        return entries.first_at_most(now_ms) if kind == "breaker_open" else None

    def _gate(self, key: str) -> Gate | None:
        return self._gates.get(key.removeprefix("service:")) if key.startswith("service:") else None

    def _change(self, place: Place, to: Entries) -> None:
        entries = self._entries.pop(place, {})
        if to:
            self._entries[place] = to
        for (key, kind), need in entries.items():
            if to.get((key, kind)) != need:
                files = self._files[key]
                files[kind].remove(place)
                if not files[kind]:
                    del files[kind]
                    if not files:
                        del self._files[key]
        for (key, kind), need in to.items():
            if entries.get((key, kind)) != need:
                self._files.setdefault(key, {}).setdefault(kind, FirstFit()).add(place, need)

    def _entries_of(self, call: ParkedCall) -> Entries:
        request, below = call.reserve, call.short_below()
        entries: Entries = {} if below is None else {(key, "short"): below for key in call.short_in()}
        for candidate, (reason, account) in zip(request.candidates, call.waits, strict=False):
            if reason == NOT_SHORT and candidate.short_below is not None:
                for key in budgets_of(request, candidate, self._ledger):
                    entries[key, "not_short"] = max(candidate.short_below, entries.get((key, "not_short"), 0))
                continue
            kind = _KINDS.get(reason)
            if kind is None or account is None:
                continue  # nothing that happens in an account helps it
            gate = self._gates.get(candidate.service)
            margin = COUNTED_MARGIN_PERCENT if gate is None else gate.counted_margin_percent
            # It may have no price: nobody looked further than for room.
            bound = 0 if kind == "full" else least_bound_nanos(request, candidate, margin)
            if kind in _BY_BOUND:
                need = bound
            elif kind == "limited":
                need = tokens_estimated(request, candidate)
            elif kind == "model_paused":
                need = 0 if gate is None else gate.models_paused_until_ms.get(candidate.model, 0)
            elif kind == "breaker_open":
                need = self._cooled_down_at_ms(call)
            elif kind == "counting":
                need = call.counts_until_ms or 0
            elif kind == "run_over":
                need = int(not request.granted_before)
            else:
                need = 0
            filed_under = account, kind
            if filed_under not in entries or need < entries[filed_under]:
                entries[filed_under] = need
            if kind not in _HAS_LOST:
                for key in self._ledger.charged_accounts(request, candidate.service):
                    if bound > entries.get((key, "has_money"), -1):
                        entries[key, "has_money"] = bound
        return entries

    def _cooled_down_at_ms(self, call: ParkedCall) -> int:
        """When it will have waited for a whole cooldown in which no service worked. Not while one is being probed: the
        end of the probe is what it waits for then."""
        if call.open_since_ms is None or any(reason == "probing" for reason, _ in call.waits):
            return UNCAPPED
        return call.open_since_ms + call.cooldown_ms(self._gates)
