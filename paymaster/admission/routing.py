"""Which candidate of a route a call may use now, and, where none, what is in the way."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from paymaster.admission.accounts import Account
from paymaster.admission.book_changes import Shortfall
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import COUNTED_MARGIN_PERCENT, Gate
from paymaster.admission.runs import Run, RunOver
from paymaster.admission.sharing import least_used
from paymaster.admission.token_counts import BYTES_PER_TOKEN, INPUT_OVERHEAD_TOKENS
from paymaster.messages import Candidate, Grant, Reserve, Window
from paymaster.values.budget_path import budget_ancestors, budgets_charged
from paymaster.values.money import TOKENS_PER_PRICE, format_usd

BYTES_PER_TOKEN_MAX = 8
"""A prompt is only called too long for a model when it would be even at this many bytes per token (English text has
about 4.5). Between this and the truth the service itself says so, unbilled, and the call falls back."""

_MONEY: dict[str, str] = {
    "bound_above_cap": "impossible",
    "cap_reached": "exhausted",
    "run_budget_exhausted": "exhausted",
    "money_held": "held",
}
"""Reasons that are about money, and the kinds of shortfalls that they come from."""

ObstacleKind = Literal["transient", "exhausted", "breaker_open", "impossible"]


class Obstacle(NamedTuple):
    """Why one candidate can't be called now."""

    kind: ObstacleKind
    """transient: it clears by itself. exhausted: money must come from an admin or a new window. breaker_open: the
    service keeps failing. impossible: waiting would not help."""
    reason: str
    """A word for programs."""
    detail: str
    account: str | None = None
    """Worth another look when something is freed in this account; if `impossible`, when its cap is raised."""
    until_ms: int | None = None
    """Worth another look at this time."""
    window: Window | None = None
    helped_by_count: bool = False
    """Money is in the way, and would not be, or not for as long, if the request had few tokens for its bytes."""


NOT_SHORT = "no_candidate"
"""The reason for which a candidate is passed over that is for when the money is short, which it is not."""
_NO_MONEY = frozenset({"cap_reached", "run_budget_exhausted", "bound_above_cap"})
"""Reasons that money on hold cannot change, even if all of it comes back."""
_Bracket = list[int]


class Choice(NamedTuple):
    candidate: Candidate
    accounts: tuple[str, ...]
    bound_nanos: int
    tokens: int
    """The estimate for the rate limits."""


def choose(
    request: Reserve,
    ledger: Ledger,
    gates: Mapping[str, Gate],
    now_ms: int,
    claimed: Callable[[tuple[str, ...]], str | None] | None,
) -> Choice | list[Obstacle]:
    """Of the first bracket in which a candidate fits now, the one that is used least; or one obstacle for each
    candidate.

    `claimed` names an account that a call further ahead in the queue has claimed; None: nobody claims any.
    """
    look = _Look(request, ledger, gates, now_ms, claimed)
    first, when_short = _brackets(request, ledger)
    choice = look.choice_of(first)
    if choice is None and when_short and look.lacks_money():
        choice = look.choice_of(when_short)
    if choice is not None:
        return choice
    return [look.found.get(n) or _not_short(each, request, ledger) for n, each in enumerate(request.candidates)]


def _brackets(request: Reserve, ledger: Ledger) -> tuple[list[_Bracket], list[_Bracket]]:
    """The candidates that come into question, by their numbers and in order, and those for when the others lack money.

    Those in one bracket share the load.
    """
    if not any(each.shares or each.short_below is not None for each in request.candidates):
        return [[number] for number in range(len(request.candidates))], []
    ordinary, cheaper, when_short = list[_Bracket](), list[_Bracket](), list[_Bracket]()
    before: tuple[_Bracket, int | None] | None = None
    for number, candidate in enumerate(request.candidates):
        below = candidate.short_below
        if candidate.shares and before is not None and before[1] == below:
            before[0].append(number)
            continue
        before = [number], below
        if below is None:
            ordinary.append(before[0])
        elif any(ledger.accounts[key].unspent_millionths() < below for key in budgets_of(request, candidate, ledger)):
            cheaper.append(before[0])
        else:
            when_short.append(before[0])
    return cheaper + ordinary, when_short


def budgets_of(request: Reserve, candidate: Candidate, ledger: Ledger) -> Iterable[str]:
    """The accounts that a call of the candidate charges, but for its service: what is left there makes money short."""
    accounts = ledger.charged_accounts(request, candidate.service)
    return (key for key in accounts if not key.startswith("service:"))


class _Look:
    """One look at the candidates of a call, of which some come into question, in an order."""

    def __init__(
        self,
        request: Reserve,
        ledger: Ledger,
        gates: Mapping[str, Gate],
        now_ms: int,
        claimed: Callable[[tuple[str, ...]], str | None] | None,
    ) -> None:
        self._request, self._ledger, self._gates, self._now_ms = request, ledger, gates, now_ms
        self._claimed = claimed
        self.found: dict[int, Obstacle] = {}
        """By number, what is in the way of the candidates that were looked at."""

    def choice_of(self, brackets: list[_Bracket]) -> Choice | None:
        for bracket in brackets:
            choice = self._choice(bracket[0]) if len(bracket) == 1 else self._shared(bracket)
            if choice is not None:
                return choice
        return None

    def _shared(self, bracket: _Bracket) -> Choice | None:
        fitting = [choice for number in bracket if (choice := self._choice(number)) is not None]
        members = [choice.candidate for choice in fitting]
        return fitting[least_used(members, self._request.hold_id, self._ledger, self._now_ms)] if fitting else None

    def lacks_money(self) -> bool:
        """Whether what is unspent has no room for any of those that were looked at and are possible."""
        reasons = {each.reason for each in self.found.values() if each.kind != "impossible" or each.reason in _NO_MONEY}
        return bool(reasons) and reasons <= _NO_MONEY

    def _choice(self, number: int) -> Choice | None:
        candidate = self._request.candidates[number]
        found = _consider(candidate, self._request, self._ledger, self._gates, self._now_ms)
        if isinstance(found, Choice):
            account = self._claimed(found.accounts) if self._claimed is not None else None
            if account is None:
                return found
            detail = f"{name_of(candidate)}: a call that has waited longer comes first in {account}"
            found = Obstacle("transient", "claimed", detail, account)
        self.found[number] = found
        return None


def _consider(
    candidate: Candidate, request: Reserve, ledger: Ledger, gates: Mapping[str, Gate], now_ms: int
) -> Choice | Obstacle:
    """What can never be comes first, then what its run may, the money, and what clears by itself: docs/budgets.md."""
    accounts = ledger.charged_accounts(request, candidate.service)
    blocked = _impossible(candidate, request, ledger, accounts) or _loading(accounts, ledger)
    if blocked is not None:
        return blocked
    gate = None if candidate.purchase else gates[candidate.service]
    bound = bound_nanos(request, candidate, COUNTED_MARGIN_PERCENT if gate is None else gate.counted_margin_percent)
    blocked = _lacks_money(candidate, request, ledger, accounts, bound, bound, now_ms)
    if blocked is not None:
        return blocked
    if gate is None:  # a purchase: the limits are those of calls to services
        return Choice(candidate, accounts, bound, tokens=0)
    blocked = _shut(candidate.service, gate, now_ms) or _model_paused(candidate, gate, now_ms)
    if blocked is not None:
        return blocked
    tokens = tokens_estimated(request, candidate)
    limited = ledger.full_or_wait_ms(accounts, tokens, now_ms)
    if limited is not None:
        account, wait_ms = limited
        if wait_ms is None:
            return Obstacle("transient", "max_concurrent", f"{account} is at its concurrency limit", account)
        until = now_ms + wait_ms
        return Obstacle(
            "transient", "rate_limit", f"{account}: its rate limit leaves room in {wait_ms} ms", account, until
        )
    return Choice(candidate, accounts, bound, tokens)


def _lacks_money(
    candidate: Candidate,
    request: Reserve,
    ledger: Ledger,
    accounts: tuple[str, ...],
    needed: int,
    bound: int,
    now_ms: int,
) -> Obstacle | None:
    """Why the money that it needs is not there; `bound` is what people read that it can cost. What never fits comes
    before what its run has used up, which may be raised."""
    shortfall = ledger.shortfall(accounts, needed)
    if shortfall is None or shortfall.kind != "impossible":
        over = _run_over(request, ledger, accounts, now_ms)
        if over is not None:
            return over
    return None if shortfall is None else _short(candidate, shortfall, bound, ledger.end_ms(shortfall.balance))


def _run_over(request: Reserve, ledger: Ledger, accounts: tuple[str, ...], now_ms: int) -> Obstacle | None:
    """Why its run gets nothing more, whatever money is left: it was ended, or the nearest part is used up or held."""
    found: Obstacle | None = None
    if request.run is None:
        return None
    for key in accounts:
        account, run = ledger.accounts[key], ledger.accounts[key].run
        if run is None or (run.watched and not run.ended_by):
            continue
        why = run.held or _runaway(request, account, run, now_ms)
        if why and not run.ended_by:
            found = found or Obstacle("transient", "runaway", why, key)
            continue
        over = run.over(now_ms, another_call=not request.granted_before)
        if over is None:
            continue
        if over == "run_ended":
            return Obstacle("impossible", over, f"{key} was ended by {run.ended_by}", key)
        found = found or _used_up(key, run, over, now_ms)
    return found


def _used_up(key: str, run: Run, over: RunOver, now_ms: int) -> Obstacle:
    """Its calls, or its time."""
    if over == "run_calls_exhausted" and (period := run.used_up(now_ms)) is not None:
        ends_ms = period.ends_ms(now_ms)
        detail = f"{key} has used up the {period.calls} calls of this {period.window}"
        return Obstacle("exhausted", over, detail, key, ends_ms, period.window)
    detail = f"{key} has used up {f'{run.calls} calls' if over == 'run_calls_exhausted' else 'its time'}"
    return Obstacle("exhausted", over, detail, key, window="total")


def _runaway(request: Reserve, account: Account, run: Run, now_ms: int) -> str | None:
    """Why this call makes its run a runaway; a further attempt of a call does not."""
    if request.granted_before:
        return None
    return run.looks_like_a_runaway(request.digest, now_ms, account.balances["minute"].posted_nanos)


def bound_nanos(request: Reserve, candidate: Candidate, counted_margin_percent: int = COUNTED_MARGIN_PERCENT) -> int:
    """The most that the candidate can cost, which a count of its tokens never raises. It must have a price."""
    tokens_max = request.input_bytes
    if candidate.counted_tokens is not None:
        tokens_max = min(tokens_max, candidate.counted_tokens * (100 + counted_margin_percent) // 100)
    return _bound_nanos(candidate, tokens_max)


def _bound_nanos(candidate: Candidate, tokens_of_text: int) -> int:
    assert candidate.price is not None
    input_tokens_max = tokens_of_text + INPUT_OVERHEAD_TOKENS + candidate.media_tokens
    return candidate.price.bound_nanos(input_tokens_max, candidate.max_output_tokens)


def tokens_estimated(request: Reserve, candidate: Candidate) -> int:
    """What the rate limits are charged with before the call."""
    counted = candidate.counted_tokens
    tokens_of_text = request.input_bytes // BYTES_PER_TOKEN if counted is None else counted
    return tokens_of_text + candidate.media_tokens + candidate.max_output_tokens


def may_be_counted(candidate: Candidate) -> bool:
    """Whether its tokens may be counted, and were not."""
    return candidate.countable and candidate.counted_tokens is None


def least_bound_nanos(request: Reserve, candidate: Candidate, counted_margin_percent: int) -> int:
    """The bound that nothing makes smaller: of a candidate that may be counted, with as few tokens as its bytes can
    be."""
    if may_be_counted(candidate):
        return _bound_nanos(candidate, request.input_bytes // BYTES_PER_TOKEN_MAX)
    return bound_nanos(request, candidate, counted_margin_percent)


def until_counted(
    candidate: Candidate,
    obstacle: Obstacle,
    request: Reserve,
    ledger: Ledger,
    gates: Mapping[str, Gate],
    now_ms: int,
) -> Obstacle:
    """What is in the way of a candidate as long as its tokens are not counted, where money is in the way of its bound.

    Where even the fewest tokens do not fit, that is in the way; and where its service is to be left alone, so that
    nobody may count, that is.
    """
    kind = _MONEY.get(obstacle.reason)
    if kind is None or not may_be_counted(candidate):
        return obstacle
    accounts, gate = ledger.charged_accounts(request, candidate.service), gates[candidate.service]
    margin = gate.counted_margin_percent
    least, bound = least_bound_nanos(request, candidate, margin), bound_nanos(request, candidate, margin)
    blocked = _lacks_money(candidate, request, ledger, accounts, least, bound, now_ms)
    if (shut := _shut(candidate.service, gate, now_ms)) is not None:
        return blocked or shut
    if blocked is not None and (blocked.reason == "run_ended" or _MONEY.get(blocked.reason) == kind):
        return blocked
    return obstacle._replace(helped_by_count=True)


def percent_lacked(grant: Grant, cost_nanos: int) -> int:
    """How much more of its counted tokens, in percent, would have made the grant's bound as large as the bill."""
    price_of_count = grant.price.dearest_input_nanos * (grant.counted_tokens or 0)
    over = (cost_nanos - grant.bound_nanos) * TOKENS_PER_PRICE * 100
    return 100 if price_of_count == 0 else -(-over // price_of_count)


def _impossible(candidate: Candidate, request: Reserve, ledger: Ledger, accounts: tuple[str, ...]) -> Obstacle | None:
    name = name_of(candidate)
    is_service = f"service:{candidate.service}" in ledger.accounts
    if candidate.purchase and is_service:
        detail = f"{name} is a service of the configuration: name what is bought otherwise"
        return Obstacle("impossible", "bad_purchase", detail)
    if not candidate.purchase and not is_service:
        detail = f"{name}: the ledger has no service {candidate.service!r}; restart a worker that has it"
        return Obstacle("impossible", "unknown_service", detail)
    if candidate.price is None:
        detail = (
            f'{name}: no price is known; add price = {{ input = "…", output = "…" }} (USD per million tokens) '
            f'under [services.{candidate.service}.models."{candidate.model}"]'
        )
        return Obstacle("impossible", "no_price", detail)
    if candidate.refused is not None:
        return Obstacle("impossible", "no_bound", f"{name}: {candidate.refused}")
    unknown = _unknown_budget(request, ledger, accounts)
    if unknown is not None:
        detail = f'budget {unknown!r}: neither it nor an ancestor is configured; add [budgets."{unknown}"]'
        return Obstacle("impossible", "unknown_budget", detail)
    tokens_min = request.input_bytes // BYTES_PER_TOKEN_MAX + candidate.max_output_tokens
    if candidate.context_tokens is not None and tokens_min > candidate.context_tokens:
        detail = f"{name}: at least {tokens_min} tokens do not fit its context of {candidate.context_tokens}"
        return Obstacle("impossible", "context_too_small", detail)
    return None


def _loading(accounts: tuple[str, ...], ledger: Ledger) -> Obstacle | None:
    account = ledger.is_loading(accounts)
    if account is None:
        return None
    return Obstacle("transient", "loading", f"{account}: what was spent before is being loaded", account)


def _not_short(candidate: Candidate, request: Reserve, ledger: Ledger) -> Obstacle:
    accounts = ledger.charged_accounts(request, candidate.service)
    detail = f"{name_of(candidate)}: it is for when the money gets short, which it is not"
    unknown = _impossible(candidate, request, ledger, accounts) or _loading(accounts, ledger)
    return unknown or Obstacle("impossible", NOT_SHORT, detail)


def _unknown_budget(request: Reserve, ledger: Ledger, accounts: tuple[str, ...]) -> str | None:
    """The first of the request's budgets that nothing would count against."""
    if not request.further_budgets:
        return None if any(key.startswith("budget:") for key in accounts) else request.budget
    counted = {path for path in budgets_charged(request.budgets) if f"budget:{path}" in ledger.accounts}
    return next((budget for budget in request.budgets if counted.isdisjoint(budget_ancestors(budget))), None)


def _short(candidate: Candidate, shortfall: Shortfall, bound: int, ends_ms: int | None) -> Obstacle:
    kind, balance = shortfall
    cap = f"{balance.account} has a cap of {format_usd(balance.cap_nanos or 0)} ({balance.window})"
    in_the_way = f"{format_usd(balance.posted_nanos)} spent and {format_usd(balance.pending_nanos)} held"
    needed = f"the call can cost up to {format_usd(bound)}"
    if kind == "impossible":
        detail = f"{name_of(candidate)}: {cap}, and {needed}"
        return Obstacle("impossible", "bound_above_cap", detail, balance.account)
    detail = f"{name_of(candidate)}: {cap}; {in_the_way}; {needed}"
    if kind == "exhausted":
        reason = "run_budget_exhausted" if balance.account.startswith("run:") else "cap_reached"
        return Obstacle("exhausted", reason, detail, balance.account, ends_ms, balance.window)
    return Obstacle("transient", "money_held", detail, balance.account, ends_ms, balance.window)


def _shut(service: str, gate: Gate, now_ms: int) -> Obstacle | None:
    account = f"service:{service}"
    match gate.shut(now_ms):
        case None:
            return None
        case "paused" if gate.paused_by is not None:
            return Obstacle("transient", "paused", f"{service} is paused by {gate.paused_by}", account)
        case "paused":
            wait_s = (gate.paused_until_ms - now_ms + 999) // 1000
            detail = f"{service} asked to be left alone for another {wait_s} s"
            return Obstacle("transient", "paused", detail, account, gate.paused_until_ms)
        case "breaker_open":
            detail = f"{service} failed {gate.breaker.failures} times in a row"
            return Obstacle("breaker_open", "breaker_open", detail, account, gate.breaker.open_until_ms)
        case "probing":
            return Obstacle("transient", "probing", f"{service} failed; one call is probing it", account)


def _model_paused(candidate: Candidate, gate: Gate, now_ms: int) -> Obstacle | None:
    until_ms = gate.models_paused_until_ms.get(candidate.model, 0)
    if until_ms <= now_ms:
        return None
    detail = f"{name_of(candidate)} has reached a limit of its own for another {(until_ms - now_ms + 999) // 1000} s"
    return Obstacle("transient", "model_paused", detail, f"service:{candidate.service}", until_ms)


def name_of(candidate: Candidate) -> str:
    """What people read of it."""
    return candidate.service if candidate.purchase else f"{candidate.service}/{candidate.model}"
