"""What a set of accounts consists of: its balances and its limits, looked up once."""

from collections.abc import Mapping
from typing import NamedTuple

from paymaster.admission.accounts import Account, Balance
from paymaster.admission.limiter import Limiter


class Lines(NamedTuple):
    """The balances and limits of some accounts."""

    all: tuple[Balance, ...]
    capped: tuple[Balance, ...]
    """Those whose caps bind."""
    watched: tuple[Balance, ...]
    """Those whose caps are watched only."""
    limits: tuple[tuple[str, Limiter], ...]
    """Of the accounts that have any."""
    binding_limits: tuple[tuple[str, Limiter], ...]


def lines_of(keys: tuple[str, ...], accounts: Mapping[str, Account]) -> Lines:
    every = tuple(balance for key in keys for balance in accounts[key].balances.values())
    capped = [balance for balance in every if balance.cap_nanos is not None]
    limits = tuple((key, accounts[key].limiter) for key in keys if accounts[key].limiter.limits)
    return Lines(
        every,
        tuple(balance for balance in capped if accounts[balance.account].enforced),
        tuple(balance for balance in capped if not accounts[balance.account].enforced),
        limits,
        tuple(each for each in limits if accounts[each[0]].enforced),
    )
