"""Which candidate of a route a call may use now, and, where none, what is in the way."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from paymaster.admission.ledger import Ledger, window_end_ms
from paymaster.messages import Candidate, Reserve
from paymaster.money import format_usd

INPUT_OVERHEAD_TOKENS = 1_024
"""Input tokens never exceeded the request's bytes plus this in 1,259 of 1,260 recorded text-only calls to 12 hosts; the
one exception searched the web by itself. The largest overhead seen over the bytes was 629 (a hidden system prompt)."""
BYTES_PER_TOKEN_MAX = 8
"""A prompt is only called too long for a model when it would be even at this many bytes per token (English text has
about 4.5). Between this and the truth the service itself says so, unbilled, and the call falls back."""

ObstacleKind = Literal["never", "gone", "busy"]


class Obstacle(NamedTuple):
    """Why one candidate can't be called now."""

    kind: ObstacleKind
    """never: waiting would not help. gone: money must come from an admin or a new window. busy: it clears by itself."""
    reason: str
    """A word for programs."""
    detail: str
    account: str | None = None
    """Worth another look when something is freed in this account."""
    until_ms: int | None = None
    """Worth another look at this time."""


class Choice(NamedTuple):
    candidate: Candidate
    accounts: tuple[str, ...]
    bound_nanos: int


def choose(
    request: Reserve,
    ledger: Ledger,
    now_ms: int,
    is_claimed: Callable[[tuple[str, ...]], str | None],
) -> Choice | list[Obstacle]:
    """The first candidate that fits now, or one obstacle for each candidate.

    `is_claimed` names an account that a call further ahead in the queue has claimed, or None.
    """
    obstacles: list[Obstacle] = []
    for candidate in request.candidates:
        found = _consider(candidate, request, ledger, now_ms, is_claimed)
        if isinstance(found, Choice):
            return found
        obstacles.append(found)
    return obstacles


def _consider(
    candidate: Candidate,
    request: Reserve,
    ledger: Ledger,
    now_ms: int,
    is_claimed: Callable[[tuple[str, ...]], str | None],
) -> Choice | Obstacle:
    name = f"{candidate.service}/{candidate.model}"
    if f"service:{candidate.service}" not in ledger.accounts:
        return Obstacle(
            "never",
            "unknown_service",
            f"{name}: the ledger has no service {candidate.service!r}; restart a worker with it",
        )
    if candidate.price is None:
        return Obstacle(
            "never",
            "no_price",
            f'{name}: no price is known; add price = {{ input = "…", output = "…" }} (USD per million tokens) '
            f'under [services.{candidate.service}.models."{candidate.model}"]',
        )
    accounts = ledger.charged_accounts(request.budget, candidate.service)
    if accounts is None:
        return Obstacle(
            "never",
            "unknown_budget",
            f'budget {request.budget!r}: neither it nor an ancestor is configured; add [budgets."{request.budget}"]',
        )
    tokens_min = request.input_bytes // BYTES_PER_TOKEN_MAX + candidate.max_output_tokens
    if candidate.context_tokens is not None and tokens_min > candidate.context_tokens:
        return Obstacle(
            "never",
            "context_too_small",
            f"{name}: at least {tokens_min} tokens do not fit its context of {candidate.context_tokens}",
        )
    bound = candidate.price.bound_nanos(request.input_bytes + INPUT_OVERHEAD_TOKENS, candidate.max_output_tokens)
    shortfall = ledger.shortfall(accounts, bound)
    if shortfall is not None:
        kind, balance = shortfall
        what = f"{name}: {balance.account} has a cap of {format_usd(balance.cap_nanos or 0)} ({balance.window})"
        if kind == "never":
            return Obstacle("never", "bound_above_cap", f"{what}, and the call can cost up to {format_usd(bound)}")
        in_the_way = f"{format_usd(balance.posted_nanos)} spent and {format_usd(balance.pending_nanos)} held"
        detail = f"{what}; {in_the_way}; the call can cost up to {format_usd(bound)}"
        if kind == "gone":
            return Obstacle("gone", "cap_reached", detail, balance.account, window_end_ms(balance.window, now_ms))
        return Obstacle("busy", "money_held", detail, balance.account, window_end_ms(balance.window, now_ms))
    claimed = is_claimed(accounts)
    if claimed is not None:
        return Obstacle("busy", "claimed", f"{name}: a larger call has waited longer for {claimed}", claimed)
    return Choice(candidate, accounts, bound)
