"""Bugs that are seeded into the desk: the machine must find each of them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from desk_aims import (
    APPROVALS,
    CAP,
    COUNTS,
    ENDED_RUNS,
    LIMITED_RUNS,
    LOOPS,
    NAMED,
    NAMES_OF_ADMINS,
    OTHER_LIMITS,
    POOLS,
    PRICES,
    PURCHASES,
    RENEWED_RUNS,
    ROLLING,
    RUNS,
    SHORT,
    USUAL,
)
from desk_facts import ACCOUNTS, WHOLE

from paymaster.admission import books, in_force, on_demand, parking, routing, waits
from paymaster.admission.account_rows import template_key
from paymaster.admission.accounts import Account, Balance
from paymaster.admission.approvals import Approvals
from paymaster.admission.book_changes import Shortfall
from paymaster.admission.books import Ledger
from paymaster.admission.desk import Desk
from paymaster.admission.first_fit import Place
from paymaster.admission.granting import Granting
from paymaster.admission.holds import Hold
from paymaster.admission.on_demand import OnDemand
from paymaster.admission.parking import Parking
from paymaster.admission.routing import Choice, Obstacle
from paymaster.admission.runs import Period, Run, RunOver, run_levels
from paymaster.admission.state import DeskState
from paymaster.messages import (
    AccountConfig,
    Answer,
    Approval,
    Candidate,
    CapState,
    Command,
    Grant,
    Granted,
    RaiseCap,
    Reserve,
    Window,
)
from paymaster.messages.base import CountsForBudgets
from paymaster.values.windows import STEPS_MS


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
        desk.state.earlier_ends.groups.clear()
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


# ---------------------------------------------------------------- accounts that nobody named


class _WithoutHolds:
    """A ledger that has none."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> object:
        return {} if name == "holds" else getattr(self._ledger, name)


def forget_what_has_money_on_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(state: DeskState, ledger: Ledger, *others: Any) -> OnDemand:
        return OnDemand(state, cast(Ledger, _WithoutHolds(ledger)), *others)

    monkeypatch.setattr(parking, "OnDemand", wrong)


def forget_what_an_admin_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "is_changed_by_admin", property(lambda account: False))


def forget_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "FORGOTTEN_AFTER_MINUTES", 2)


def come_back_with_nothing_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Ledger.loaded

    def wrong(self: Ledger, key: str, window: Window, posted_nanos: int, *at_ms: int) -> int:
        return loaded(self, key, window, 0 if self.accounts[key].fresh else posted_nanos, *at_ms)

    monkeypatch.setattr(Ledger, "loaded", wrong)


def ignore_caps_of_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    open_on_demand = Ledger.open_on_demand

    def wrong(self: Ledger, key: str, config: AccountConfig) -> Account:
        caps_nanos = {} if key.startswith("budget:") else config.caps_nanos
        return open_on_demand(self, key, config.model_copy(update={"caps_nanos": caps_nanos}))

    monkeypatch.setattr(Ledger, "open_on_demand", wrong)


def ignore_tables_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    named_accounts = in_force.named_accounts

    def wrong(configs: Mapping[str, AccountConfig]) -> dict[str, AccountConfig]:
        named = named_accounts(configs)
        return {key: config for key, config in named.items() if template_key(key) not in configs}

    monkeypatch.setattr(in_force, "named_accounts", wrong)


def make_accounts_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "ACCOUNTS_MAX", len(ACCOUNTS) + 2)
    monkeypatch.setattr(Ledger, "is_full", property(lambda ledger: False))


# ---------------------------------------------------------------- runs and prices


def count_attempts_as_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = Granting.grant

    def wrong(self: Granting, request: Reserve, choice: Choice) -> Granted:
        return grant(self, request.model_copy(update={"granted_before": False}), choice)

    monkeypatch.setattr(Granting, "grant", wrong)


def charge_a_part_without_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Ledger.charged_accounts

    def wrong(self: Ledger, counted: CountsForBudgets, service: str) -> tuple[str, ...]:
        found = accounts(self, counted, service)
        runs = [key for key in found if key.startswith("run:")]
        return tuple(key for key in found if key not in runs[1:])

    monkeypatch.setattr(Ledger, "charged_accounts", wrong)


def let_later_limits_replace_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Desk.handle

    def wrong(self: Desk, command: Command, now_ms: int) -> Answer:
        if isinstance(command, Reserve) and command.run is not None:
            for path, asked in run_levels(command.run, command.run_terms):
                account = self.ledger.accounts.get(f"run:{path}")
                if asked is not None and account is not None and account.run is not None:
                    account.run.asked = asked
        return handle(self, command, now_ms)

    monkeypatch.setattr(Desk, "handle", wrong)


def let_an_ended_run_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    over = Run.over

    def wrong(self: Run, now_ms: int, *, another_call: bool) -> RunOver | None:
        return None if self.ended_by else over(self, now_ms, another_call=another_call)

    monkeypatch.setattr(Run, "over", wrong)


def ignore_what_budgets_allow_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> list[AccountConfig]:
        return []

    monkeypatch.setattr(on_demand, "limiting_runs", wrong)
    monkeypatch.setattr(in_force, "limiting_runs", wrong)


def bind_by_the_price_of_the_call_before(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_nanos, latest = routing.bound_nanos, [("", WHOLE), ("", WHOLE)]
    """The hold ids of two calls, and their prices."""

    def wrong(request: Reserve, candidate: Candidate, *margin: int) -> int:
        if request.hold_id == "run-1/1":  # a machine begins, and knows nothing of the one before
            latest[:] = ("", WHOLE), (request.hold_id, candidate.price or WHOLE)
        elif request.hold_id != latest[1][0]:
            latest[:] = latest[1], (request.hold_id, candidate.price or WHOLE)
        return bound_nanos(request, candidate.model_copy(update={"price": latest[0][1]}), *margin)

    monkeypatch.setattr(routing, "bound_nanos", wrong)


def renew_runs_with_the_calls_they_made(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Period.begin

    def wrong(self: Period, start_ms: int) -> None:
        calls = self.calls
        begin(self, start_ms)
        self.calls = calls

    monkeypatch.setattr(Period, "begin", wrong)


# ---------------------------------------------------------------- approvals


def let_a_button_raise_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered for the sum of the day, and not by its nonce."""
    keep = Approvals.keep

    def wrong(self: Approvals, approval: Approval, by_nanos: int) -> None:
        keep(self, approval.model_copy(update={"nonce": f"{approval.nonce}, pressed"}), by_nanos)

    monkeypatch.setattr(Approvals, "keep", wrong)


def forget_what_was_raised_today(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_cap = Desk.raise_cap

    def wrong(self: Desk, change: RaiseCap, now_ms: int) -> CapState:
        for given in self.state.approved.values():
            given.nanos = 0
        return raise_cap(self, change, now_ms)

    monkeypatch.setattr(Desk, "raise_cap", wrong)


# ---------------------------------------------------------------- runaways, rolling windows, purchases, counts


def forget_what_runs_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Run, digest: str, now_ms: int) -> None:
        pass

    monkeypatch.setattr(Run, "asks_for", wrong)


def let_steps_leave_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = Balance.leave_steps_before

    def wrong(self: Balance, start_ms: int) -> None:
        leave(self, start_ms + STEPS_MS[self.window])

    monkeypatch.setattr(Balance, "leave_steps_before", wrong)


def give_purchases_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Ledger.hold

    def wrong(self: Ledger, wanted: Hold) -> list[Balance]:
        wanted.running = True
        return hold(self, wanted)

    monkeypatch.setattr(Ledger, "hold", wrong)


def take_counts_without_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_nanos = routing.bound_nanos

    def wrong(request: Reserve, candidate: Candidate, *_: int) -> int:
        return bound_nanos(request, candidate, 0)

    monkeypatch.setattr(routing, "bound_nanos", wrong)


def let_parked_calls_be_counted_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = Parking.choose

    def wrong(self: Parking, request: Reserve, place: Place) -> Choice | list[Obstacle]:
        found = choose(self, request, place)
        if isinstance(found, Choice) or self.queue.get(request.hold_id) is None:
            return found
        return [obstacle._replace(helped_by_count=False) for obstacle in found]

    monkeypatch.setattr(Parking, "choose", wrong)


def look_at_them_when_their_bytes_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "least_bound_nanos", routing.bound_nanos)


DECIDES = (
    "though it fits|though a candidate fits|can never fit|though waiting would help|only holds are in the way"
    "|though it may wait|nothing is used up"
    "|to count|is to fail and waits|took what was kept|was served before|an earlier candidate"
)
"""Of calls that are decided by other accounts, caps or limits than those that there are."""
BROKEN = [
    pytest.param(ignore_pending, "over its cap", CAP),
    pytest.param(post_without_freeing, "pending in|notice", CAP),
    pytest.param(free_voided_holds_twice, "pending in|notice", CAP),
    pytest.param(charge_only_one_account, "pending in|over its cap|got more calls", CAP),
    pytest.param(charge_only_the_first_budget, f"pending in|over its cap|before it was known|{DECIDES}", USUAL),
    pytest.param(enforce_what_is_watched, f"cut and restored|{DECIDES}", USUAL),
    pytest.param(forget_ended_ids_at_a_cut, "cut and restored", USUAL),
    pytest.param(call_the_first_of_a_pool, "used less", POOLS),
    pytest.param(forget_that_money_is_short, DECIDES, SHORT),
    pytest.param(forget_what_has_money_on_hold, "money on hold", NAMED),
    pytest.param(forget_what_an_admin_changed, "an admin or the configuration named it", NAMES_OF_ADMINS),
    pytest.param(forget_too_early, "and there was room", NAMED),
    pytest.param(come_back_with_nothing_spent, f"posted in|over its cap|the notice|{DECIDES}", NAMED),
    pytest.param(ignore_caps_of_templates, f"cap of|no cap|cut and restored|over its cap|not shown|{DECIDES}", NAMED),
    pytest.param(
        ignore_tables_of_names,
        f"cap of|no account|the most calls|the end of|named it|without an account|not shown|{DECIDES}",
        NAMED,
    ),
    pytest.param(make_accounts_without_room, "there is no room", NAMED),
    pytest.param(count_attempts_as_calls, f"calls of|{DECIDES}", RUNS),
    pytest.param(
        charge_a_part_without_its_run, f"pending in|calls|the end of|over its cap|after its time|{DECIDES}", RUNS
    ),
    pytest.param(
        let_later_limits_replace_the_first, f"other limits of its run|the most calls|cap of|{DECIDES}", OTHER_LIMITS
    ),
    pytest.param(let_an_ended_run_go_on, f"was ended and goes on|{DECIDES}", ENDED_RUNS),
    pytest.param(
        ignore_what_budgets_allow_each_run, f"without an account|cap of|calls|the end of|{DECIDES}", LIMITED_RUNS
    ),
    pytest.param(bind_by_the_price_of_the_call_before, f"the bound is|cut and restored|{DECIDES}", PRICES),
    pytest.param(renew_runs_with_the_calls_they_made, f"calls of|{DECIDES}", RENEWED_RUNS),
    pytest.param(let_a_button_raise_again, "raised what is not to be raised", APPROVALS),
    pytest.param(forget_what_was_raised_today, "raised what is not to be raised", APPROVALS),
    pytest.param(forget_what_runs_ask_for, "is a runaway and goes on", LOOPS),
    pytest.param(let_steps_leave_too_early, f"posted in|pending in|over its cap|the notice|{DECIDES}", ROLLING),
    pytest.param(give_purchases_a_place, f"calls at once|{DECIDES}", PURCHASES),
    pytest.param(take_counts_without_a_margin, f"the bound is|{DECIDES}", COUNTS),
    pytest.param(let_parked_calls_be_counted_by_nobody, DECIDES, COUNTS),
    pytest.param(look_at_them_when_their_bytes_fit, f"cut and restored|{DECIDES}", COUNTS),
]
"""Bugs to be seeded, with what the machine says of each, and what it draws to find it."""
