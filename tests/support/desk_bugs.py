"""Bugs that are seeded into the desk: the machine must find each of them."""

from collections.abc import Sequence

import pytest

from paymaster.admission import routing
from paymaster.admission.accounts import Account, Balance
from paymaster.admission.book_changes import Shortfall
from paymaster.admission.books import Ledger
from paymaster.admission.desk import Desk
from paymaster.admission.holds import Hold
from paymaster.messages import (
    AccountConfig,
    Candidate,
    Grant,
    Reserve,
)


def ignore_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    shortfall = Ledger.shortfall

    def wrong(self: Ledger, accounts: tuple[str, ...], amount_nanos: int) -> Shortfall | None:
        lines = [balance for key in accounts for balance in self.accounts[key].balances.values()]
        pending = [balance.pending_nanos for balance in lines]
        for balance in lines:
            balance.pending_nanos = 0
        found = shortfall(self, accounts, amount_nanos)
        for balance, before in zip(lines, pending, strict=True):
            balance.pending_nanos = before
        return found

    monkeypatch.setattr(Ledger, "shortfall", wrong)


def change_what_post_frees(monkeypatch: pytest.MonkeyPatch, times: int, *, only_voids: bool) -> None:
    post = Ledger.post

    def wrong(self: Ledger, hold_id: str, cost_nanos: int, *, confirmed: bool) -> object:
        lines = [b for key in self.holds[hold_id].accounts for b in self.accounts[key].balances.values()]
        pending = [balance.pending_nanos for balance in lines]
        posted = post(self, hold_id, cost_nanos, confirmed=confirmed)
        for balance, before in zip(lines, pending, strict=True):
            if cost_nanos == 0 or not only_voids:
                balance.pending_nanos = before - times * (before - balance.pending_nanos)
        return posted

    monkeypatch.setattr(Ledger, "post", wrong)


def post_without_freeing(monkeypatch: pytest.MonkeyPatch) -> None:
    change_what_post_frees(monkeypatch, 0, only_voids=False)


def free_voided_holds_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    change_what_post_frees(monkeypatch, 2, only_voids=True)


def charge_only_one_account(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Ledger.hold

    def wrong(self: Ledger, wanted: Hold) -> list[Balance]:
        wanted.accounts = wanted.accounts[:1]
        return hold(self, wanted)

    monkeypatch.setattr(Ledger, "hold", wrong)


def charge_only_the_first_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Ledger.charged_accounts

    def wrong(self: Ledger, counted: Reserve | Grant, service: str) -> tuple[str, ...]:
        return accounts(self, counted.model_copy(update={"further_budgets": ()}), service)

    monkeypatch.setattr(Ledger, "charged_accounts", wrong)


def enforce_what_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    configure = Ledger.configure

    def wrong(self: Ledger, key: str, config: AccountConfig, *, all_of_them: bool = False) -> object:
        return configure(self, key, config.model_copy(update={"enforce": True}), all_of_them=all_of_them)

    monkeypatch.setattr(Ledger, "configure", wrong)


def forget_ended_ids_at_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Desk.load

    def wrong(dumped: str) -> Desk:
        desk = load(dumped)
        desk.state.ended.clear()
        return desk

    monkeypatch.setattr(Desk, "load", wrong)


def call_the_first_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(candidates: Sequence[Candidate], *_: object) -> int:
        return 0

    monkeypatch.setattr(routing, "least_used", wrong)


def forget_that_money_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: Account) -> int:
        return 1_000_000

    monkeypatch.setattr(Account, "unspent_millionths", wrong)


BROKEN = [
    pytest.param(ignore_pending, "over its cap"),
    pytest.param(post_without_freeing, "pending in|notice"),
    pytest.param(free_voided_holds_twice, "pending in|notice"),
    pytest.param(charge_only_one_account, "pending in|over its cap"),
    pytest.param(charge_only_the_first_budget, "pending in|over its cap|of accounts"),
    pytest.param(enforce_what_is_watched, "cut and restored|denied|no other fitted|must be granted"),
    pytest.param(forget_ended_ids_at_a_cut, "cut and restored"),
    pytest.param(call_the_first_of_a_pool, "used less"),
    pytest.param(forget_that_money_is_short, "an earlier candidate fitted|parked though it fits|must be granted"),
]
"""Bugs to be seeded, with what the machine says of each."""
