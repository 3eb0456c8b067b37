"""What a call is told that its money is short for: every cap in the way, and what would let exactly this call pass."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from paymaster.admission.accounts import Balance
from paymaster.admission.book_changes import Shortfall
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import COUNTED_MARGIN_PERCENT, Gate
from paymaster.admission.routing import Obstacle, bound_nanos, name_of
from paymaster.admission.signed_commands import utc
from paymaster.admission.standing import notice_of
from paymaster.messages import BudgetNotice, Candidate, DeskConfig, Reserve, Window
from paymaster.values.cut import cut
from paymaster.values.limits import DETAIL_BYTES_MAX, IN_THE_WAY_MAX
from paymaster.values.money import NANOS_MAX, format_usd

MONEY_SHORT = frozenset(("bound_above_cap", "cap_reached", "run_budget_exhausted", "money_held"))
"""The reasons of obstacles that are about money."""
_MORE_OF_RUN = {"run_calls_exhausted": "--calls N", "run_time_over": "--lasts TIME"}
"""By the reason, what gives a run more."""
_CANDIDATES_SHOWN_MAX = 5
_BUDGETS_SHOWN_MAX = 5
_CAPS_SHOWN_MAX = 5
"""Caps with their figures; of further ones the names."""
_COMMANDS_MAX = 3
"""Caps that are raised by a command each; of more, by how much all of them."""


class Explained(NamedTuple):
    """Why a call is denied, in words and as fields."""

    detail: str
    in_the_way: tuple[BudgetNotice, ...]
    way_out: str = ""
    """The end of the words: what lets the call pass."""


class _Short(NamedTuple):
    """A candidate whose bound does not fit everywhere."""

    candidate: Candidate
    margin_percent: int
    """Of a count of its tokens."""
    bound_nanos: int
    caps: list[Shortfall]
    """The nearest budget's first, the service's last."""

    @property
    def missing_nanos(self) -> list[int]:
        """By how much each of the caps must be raised."""
        balances = [each.balance for each in self.caps]
        return [b.posted_nanos + b.pending_nanos + self.bound_nanos - (b.cap_nanos or 0) for b in balances]


def explained(
    request: Reserve,
    candidates: Iterable[Candidate],
    others: Sequence[str],
    ledger: Ledger,
    gates: Mapping[str, Gate],
    *,
    signs: bool,
) -> Explained:
    """`candidates` are those that money is short for, `others` the words for what is in the way of the rest. `signs`:
    commands of admins need a signature."""
    shorts = [short for candidate in candidates if (short := _short(request, candidate, ledger, gates)).caps]
    words = list(dict.fromkeys(others))
    if not shorts:
        return Explained(cut("; ".join(words), DETAIL_BYTES_MAX), ())
    caps = {(each.balance.account, each.balance.window): each for short in shorts for each in short.caps}
    notices = [notice_of(each.balance, ledger) for each in sorted(caps.values(), key=_is_of_service)]
    help_ = _help(request, min(shorts, key=_needs), signs=signs)
    facts = "; ".join([*_costs(shorts), *_figures(notices), *words])
    return Explained(
        cut(facts, DETAIL_BYTES_MAX - len(help_.encode())) + help_,
        tuple(notices[:IN_THE_WAY_MAX]),
        help_,
    )


def least_short(
    request: Reserve, candidates: Iterable[Candidate], ledger: Ledger, gates: Mapping[str, Gate]
) -> tuple[int, tuple[tuple[str, Window], ...]]:
    """Of the candidates that money is short for, what the one that needs least can cost, and the caps in its way; zero
    and none when there are no such caps."""
    shorts = [short for candidate in candidates if (short := _short(request, candidate, ledger, gates)).caps]
    if not shorts:
        return 0, ()
    least = min(shorts, key=_needs)
    return least.bound_nanos, tuple((each.balance.account, each.balance.window) for each in least.caps)


def with_way_out(obstacle: Obstacle, request: Reserve, config: DeskConfig) -> Obstacle:
    """With what to do about it in its words, where routing does not know that."""
    way_out = ""
    if obstacle.reason in _MORE_OF_RUN and obstacle.account is not None:
        run, more = obstacle.account.removeprefix("run:"), _MORE_OF_RUN[obstacle.reason]
        signature = _signature(signs=config.admin.require_signature)
        anew = "" if obstacle.until_ms is None else f", and at {utc(obstacle.until_ms)} it has calls anew"
        way_out = f'; `paymaster runs raise {run} {more} --reason "…"{signature}` gives it more{anew}'
    elif obstacle.reason == "unknown_budget":
        known = list(islice(config.budgets, _BUDGETS_SHOWN_MAX))
        more = ", …" if len(config.budgets) > len(known) else ""
        way_out = f" and restart the worker, or `paymaster config apply`; there are: {', '.join(known) or 'none'}{more}"
        for budget in request.budgets:
            if f"{budget}/*" in config.budgets and obstacle.detail.startswith(f"budget {budget!r}:"):
                way_out = f'; [budgets."{budget}/*"] stands for the names below it, such as {budget}/NAME'
    return obstacle._replace(detail=obstacle.detail + way_out) if way_out else obstacle


def _short(request: Reserve, candidate: Candidate, ledger: Ledger, gates: Mapping[str, Gate]) -> _Short:
    gate = None if candidate.purchase else gates[candidate.service]
    margin_percent = COUNTED_MARGIN_PERCENT if gate is None else gate.counted_margin_percent
    bound = bound_nanos(request, candidate, margin_percent)
    accounts = ledger.charged_accounts(request, candidate.service)
    return _Short(candidate, margin_percent, bound, sorted(ledger.shortfalls(accounts, bound), key=_is_of_service))


def _needs(short: _Short) -> tuple[int, int]:
    return len(short.caps), sum(short.missing_nanos)


def _is_of_service(shortfall: Shortfall) -> bool:
    return shortfall.balance.account.startswith("service:")


def _costs(shorts: Sequence[_Short]) -> list[str]:
    said = [
        f"{name_of(each)}: {'it' if each.purchase else 'the call'} can cost up to {format_usd(bound_nanos)}"
        for each, _, bound_nanos, _ in shorts[:_CANDIDATES_SHOWN_MAX]
    ]
    more = len(shorts) - len(said)
    return [*said, f"and {more} more candidates"] if more else said


def _figures(notices: Sequence[BudgetNotice]) -> list[str]:
    said: list[str] = []
    for notice in notices[:_CAPS_SHOWN_MAX]:
        until = "" if notice.ends_at_ms is None else f" until {utc(notice.ends_at_ms)}"
        spent = f"{format_usd(notice.posted_nanos)} spent and {format_usd(notice.pending_nanos)} held"
        said.append(f"{notice.account} has a cap of {format_usd(notice.cap_nanos)} ({notice.window}{until}), {spent}")
    more = [f"{notice.account} ({notice.window})" for notice in notices[_CAPS_SHOWN_MAX:]]
    return [*said, f"and so have {', '.join(more)}"] if more else said


def _help(request: Reserve, short: _Short, *, signs: bool) -> str:
    """What lets the call pass by the candidate that needs least."""
    ways: list[str] = []
    if any(each.kind == "impossible" for each in short.caps) and (less := _less_that_fits(request, short)):
        ways.append(less)
    raised = [(each.balance.cap_nanos or 0) + by for each, by in zip(short.caps, short.missing_nanos, strict=True)]
    if max(raised) <= NANOS_MAX:  # more than that no cap can be
        ways.append(_raises(short, signs=signs))
    return f". To let it pass: {', or '.join(ways)}" if ways else ""


def _raises(short: _Short, *, signs: bool) -> str:
    if len(short.caps) > _COMMANDS_MAX:
        return f"raise each of these caps by {format_usd(max(short.missing_nanos))}"
    signature = _signature(signs=signs)
    most: dict[str, int] = {}  # of a run all caps are raised at once
    for each, by in zip(short.caps, short.missing_nanos, strict=True):
        most[_raise(each.balance)] = max(by, most.get(_raise(each.balance), 0))
    commands = [
        f'{command} --by {format_usd(by)[1:].replace(",", "")} --reason "…"{signature}' for command, by in most.items()
    ]
    return f"`{' && '.join(commands)}`"


def _signature(*, signs: bool) -> str:
    return " --sign-with FILE" if signs else ""


def _raise(balance: Balance) -> str:
    kind, _, path = balance.account.partition(":")
    if kind == "run":
        return f"paymaster runs raise {path}"
    return f"paymaster budget raise {path if kind == 'budget' else balance.account} --window {balance.window}"


def _less_that_fits(request: Reserve, short: _Short) -> str | None:
    """What to ask for instead, as there is room for it now."""
    room_nanos = short.bound_nanos - max(short.missing_nanos)
    if short.candidate.purchase:
        return f"buy for at most {format_usd(room_nanos)} (up_to)" if room_nanos > 0 else None
    tokens = _tokens_that_fit(request, short, room_nanos)
    return f"ask for at most {tokens:,} output tokens (max_output_tokens)" if tokens else None


def _tokens_that_fit(request: Reserve, short: _Short, room_nanos: int) -> int:
    """The most output for which there is room now; 0 where the prompt alone is too dear."""

    def bound(tokens: int) -> int:
        candidate = short.candidate.model_copy(update={"max_output_tokens": tokens})
        return bound_nanos(request, candidate, short.margin_percent)

    return bisect_right(range(1, short.candidate.max_output_tokens), room_nanos, key=bound)
