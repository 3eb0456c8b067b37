"""When operators are told of something. What is said is in alert_texts, and what becomes of it in outbox."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from paymaster.admission import alert_texts
from paymaster.admission.account_rows import template_key
from paymaster.admission.accounts import Balance
from paymaster.admission.approvals import offer_of
from paymaster.admission.book_changes import Crossed, LetThrough
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import Breaker
from paymaster.admission.configuration import in_words
from paymaster.admission.holds import Hold
from paymaster.admission.outbox import Outbox
from paymaster.admission.price_changes import price_changes, price_differences, rates_of
from paymaster.admission.routing import Obstacle
from paymaster.admission.state import DeskState
from paymaster.messages import KEY_SOURCE_DOWN, AttemptReport, Grant, RaiseOffer, Settle, Window
from paymaster.messages.spending import Foreseen, Unusual
from paymaster.values.limits import PRICES_MAX, REFUSED_ALERTS_A_MINUTE, STATE_BYTES_ALERT
from paymaster.values.money import AT_CHOICE
from paymaster.values.windows import ALL_WINDOWS, window_start_ms


class Missing(NamedTuple):
    """What the books have in a window of an account, and no stored row."""

    nanos: int
    account: str
    window: Window


class AlertPolicy:
    def __init__(self, state: DeskState, ledger: Ledger, outbox: Outbox) -> None:
        self._state, self._ledger, self._outbox = state, ledger, outbox

    # ------------------------------------------------------------ calls

    def obstacles(self, obstacles: Iterable[Obstacle], waits_for: Obstacle | None = None) -> None:
        """Once a window each: a cap is reached. Once for ever: a model has no price. `waits_for`: what the call is
        parked for, of which `parked` tells."""
        awaited = waits_for and (waits_for.account, waits_for.window)
        for obstacle in obstacles:
            if obstacle.kind == "exhausted" and obstacle.account and obstacle.window:
                if (obstacle.account, obstacle.window) == awaited:
                    continue
                text = obstacle.detail
                if self._state.rules >= 2:
                    text = alert_texts.exhausted(obstacle.account, obstacle.window, text, obstacle.until_ms)
                self._in_window("exhausted", obstacle.account, obstacle.window, text)
            elif obstacle.reason == "no_price":
                self._outbox.alert_once(self._state.now_ms, "no_price", obstacle.detail, obstacle.detail)

    def parked(self, deciding: Obstacle, calls: int, denied_at_ms: int, way_out: Callable[[], str]) -> None:
        """Once a window: so many calls wait for money that is spent; the one that began to at most until
        `denied_at_ms`. `way_out`: what lets it pass, in a sentence."""
        if deciding.kind != "exhausted" or not deciding.account or not deciding.window:
            return
        balance = self._ledger.accounts[deciding.account].balances[deciding.window]
        if "parked" in balance.alerted:
            return
        text = alert_texts.calls_are_parked(deciding.detail)
        if self._state.rules >= 2:
            balance.alerted |= {"exhausted"}
            text = alert_texts.calls_wait(balance, calls, denied_at_ms, deciding.until_ms, way_out())
        self._in_window("parked", deciding.account, deciding.window, text, offered=True)

    def let_through(self, over: Iterable[Balance], grant: Grant) -> None:
        """Once a window: a cap that is watched only has no room for a call, which goes on."""
        for balance in over:
            self._in_window("watched", balance.account, balance.window, alert_texts.let_through(balance, grant))

    def watched(self, ended: Iterable[LetThrough]) -> None:
        """How many calls it were, when the window has ended."""
        for each in ended:
            text = alert_texts.would_have_held_up(each)
            self._outbox.alert(self._state.now_ms, "watched", text, each.account, each.window)

    def queue_full(self, text: str) -> None:
        """Once a minute."""
        now_ms = self._state.now_ms
        self._outbox.alert_once(now_ms, "queue_full", text, str(now_ms // 60_000))

    def accounts_full(self, text: str) -> None:
        """Once a minute: calls wait because their budgets' accounts have no room."""
        now_ms = self._state.now_ms
        self._outbox.alert_once(now_ms, "accounts_full", text, str(now_ms // 60_000))

    def run_changed(self, text: str, account: str) -> None:
        """An admin gave a run more, or ended it."""
        self._outbox.alert(self._state.now_ms, "run_changed", text, account)

    def runaway(self, run: str, why: str, *, enforced: bool) -> None:
        """A run does what one in a loop does: each time that it is held, or once where it is watched only."""
        if enforced:
            self._outbox.alert(self._state.now_ms, "runaway", alert_texts.runaway(run, why), f"run:{run}")
        else:
            self._outbox.alert_once(
                self._state.now_ms, "watched", alert_texts.runaway_watched(run, why), f"runaway {run}"
            )

    def runaway_forgotten(self, run: str) -> None:
        """A held run made room for others."""
        self._outbox.alert(self._state.now_ms, "runaway", alert_texts.runaway_forgotten(run), f"run:{run}")

    def price(self, grant: Grant) -> None:
        """A price decides as much as a cap, and each worker has its own: every change is told, once a day each.

        A price that the call has chosen (`service_tier`) says nothing of the others.
        """
        if AT_CHOICE in grant.price.source:
            return
        prices, name = self._state.prices, f"{grant.service}/{grant.model}"
        now, before = rates_of(grant.price), prices.get(name)
        if now == before:
            return
        if before is None and len(prices) >= PRICES_MAX:
            del prices[next(iter(prices))]
        prices[name] = now
        changes = [] if before is None else price_changes(before, now)
        if before is not None and changes:
            fell = any(change.by_more_than_half for change in changes)
            said = in_words(price_differences({name: before}, {name: now}))
            text = alert_texts.price_fell(said, grant) if fell else alert_texts.price_changed(said, grant)
            self._once_a_day("price_fell" if fell else "price_changed", text, f"{name} {before} {now}")

    def settlement(self, command: Settle, hold: Hold) -> None:
        grant = hold.grant
        if command.cost_nanos > grant.bound_nanos:
            gate = self._state.gates.get(grant.service)
            margin_percent = 0 if gate is None else gate.counted_margin_percent  # of a purchase nothing is counted
            text = alert_texts.overage(grant, command.cost_nanos, margin_percent)
            self._outbox.alert(self._state.now_ms, "overage", text, f"budget:{grant.budget}")
        if not command.confirmed:
            self.unconfirmed(grant, command.cost_nanos, command.unknown_attempt)

    def unconfirmed(self, grant: Grant, nanos: int, attempt: str | None) -> None:
        text = alert_texts.unconfirmed(grant, nanos, attempt)
        self._outbox.alert(self._state.now_ms, "unconfirmed", text, f"budget:{grant.budget}")

    def thresholds(self, crossed: Sequence[Crossed]) -> None:
        """One for each balance: of parts that are reached together, the highest. 0.1.0 told each of them."""
        if self._state.rules >= 2:
            crossed = list(
                {
                    (each.balance.account, each.balance.window): each
                    for each in sorted(crossed, key=lambda each: each.part)
                }.values()
            )
        for balance, part in crossed:
            zone, now_ms = self._ledger.accounts[balance.account].time_zone, self._state.now_ms
            text = alert_texts.threshold(balance, part, self._ledger.calendars.end_ms(zone, balance.window, now_ms))
            self._outbox.alert(self._state.now_ms, "threshold", text, balance.account, balance.window)

    def seen(self, seen: Foreseen | Unusual) -> None:
        """What a worker reads in the stored rows; ledgers of 0.1.0 say nothing of it."""
        if self._state.rules < 2:
            return
        match seen:
            case Foreseen():
                self._foreseen(seen)
            case Unusual():
                # Once an hour for each account.
                about = f"{seen.account} {window_start_ms('hour', self._state.now_ms)}"
                text = alert_texts.unusual(seen)
                self._outbox.alert_once(self._state.now_ms, "anomaly", text, about, seen.account)

    def _foreseen(self, foreseen: Foreseen) -> None:
        """Once a window: a cap will be used up before it ends. Of a rolling window, which never does, once a day."""
        state, account = self._state, self._ledger.accounts.get(foreseen.account)
        balance = None if account is None else account.balances.get(foreseen.window)
        if balance is None or balance.cap_nanos is None or balance.posted_nanos >= balance.cap_nanos:
            return
        ends_ms = None if balance.steps is not None else self._ledger.end_ms(balance)
        text = alert_texts.foreseen(balance, foreseen, ends_ms)
        if balance.steps is None:
            self._in_window("forecast", foreseen.account, foreseen.window, text, offered=True)
            return
        about = f"{foreseen.account} {foreseen.window} {window_start_ms('day', state.now_ms)}"
        self._outbox.alert_once(state.now_ms, "forecast", text, about, foreseen.account, foreseen.window)

    def unknown_hold(self, command: Settle) -> None:
        self._outbox.alert(self._state.now_ms, "unknown_hold", alert_texts.unknown_hold(command))

    # ------------------------------------------------------------ services

    def attempt(self, report: AttemptReport) -> None:
        """What a failed attempt says about its service; every call may say so, and once a day is enough."""
        if report.alert is not None:
            what = "key_source_down" if report.error_class == KEY_SOURCE_DOWN else "service_refuses"
            self._once_a_day(what, report.alert, f"{report.service} {report.error_class}")

    def breaker_opened(self, service: str, breaker: Breaker) -> None:
        text = alert_texts.breaker_opened(service, breaker)
        self._outbox.alert(self._state.now_ms, "breaker_opened", text, f"service:{service}")

    def breaker_closed(self, service: str) -> None:
        text = alert_texts.breaker_closed(service)
        self._outbox.alert(self._state.now_ms, "breaker_closed", text, f"service:{service}")

    # ------------------------------------------------------------ what is stored

    def missing(self, missing: Sequence[Missing]) -> None:
        """One alert, whatever was lost: it hits most accounts at once."""
        if missing:
            most = max(missing, key=lambda each: (each.nanos, each.account, ALL_WINDOWS.index(each.window)))
            others = len({each.account for each in missing}) - 1
            text = alert_texts.spending_missing(most.nanos, most.window, most.account, others)
            self._outbox.alert(self._state.now_ms, "spending_missing", text, most.account, most.window)

    def behind(self, stored_ms: int, known_ms: int) -> None:
        self._outbox.alert(self._state.now_ms, "ledger_behind", alert_texts.ledger_behind(stored_ms, known_ms))

    def corrected(self, text: str) -> None:
        if self._state.rules >= 2:  # no worker of 0.1.0 has to store it
            self._outbox.alert(self._state.now_ms, "spending_corrected", text)

    # ------------------------------------------------------------ the ledger itself

    def refused(self, text: str) -> None:
        """A message that could not be applied; the first ones of a minute."""
        state = self._state
        state.refused_this_minute += 1
        if state.refused_this_minute <= REFUSED_ALERTS_A_MINUTE or state.rules == 1:
            self._outbox.alert(state.now_ms, "refused_message", text)

    def minute_ended(self) -> None:
        """What was refused in it beyond those that were told one by one."""
        state = self._state
        more = state.refused_this_minute - REFUSED_ALERTS_A_MINUTE
        if more > 0 and state.rules > 1:
            self._outbox.alert(state.now_ms, "refused_message", alert_texts.more_refused(more))
        state.refused_this_minute = 0

    def config_not_signed(self, digest: str, detail: str) -> None:
        text = alert_texts.config_not_signed(digest, detail)
        self._outbox.alert_once(self._state.now_ms, "refused_message", text, digest)

    def state_size(self, size: int) -> None:
        state = self._state
        if size >= STATE_BYTES_ALERT:
            accounts, holds = len(self._ledger.accounts), len(self._ledger.holds)
            ended = len(state.ended) + state.earlier_ends.number
            text = alert_texts.state_size(size, accounts, holds, len(state.parked), ended)
            about = str(window_start_ms("day", state.now_ms))
            self._outbox.alert_once(state.now_ms, "state_size", text, about)

    def old_form_too_large(self) -> None:
        self._outbox.alert(self._state.now_ms, "state_size", alert_texts.old_form_too_large())

    def clock_ahead(self, now_ms: int) -> None:
        self._outbox.alert(now_ms, "clock_jumped", alert_texts.clock_ahead(self._state.now_ms, now_ms))

    def clock_back(self, before_ms: int, to_ms: int) -> None:
        self._outbox.alert(to_ms, "clock_jumped", alert_texts.clock_back(before_ms, to_ms))

    def _in_window(
        self,
        what: Literal["exhausted", "parked", "watched", "forecast"],
        account: str,
        window: Window,
        text: str,
        *,
        offered: bool = False,
    ) -> None:
        """`offered`: approvers may raise the cap."""
        balance = self._ledger.accounts[account].balances[window]
        if what in balance.alerted:
            return
        balance.alerted |= {what}
        offer = self._offer(balance) if offered else None
        if not self._ledger.accounts[account].is_on_demand:
            self._outbox.alert(self._state.now_ms, what, text, account, window, offer)
            return
        template = template_key(account)
        about = f"{template} {window_start_ms('hour', self._state.now_ms)}"
        text = alert_texts.first_of_template(text, template)
        of = (None, None) if offer is None else (account, window)
        self._outbox.alert_once(self._state.now_ms, what, text, about, *of, offer)

    def _offer(self, balance: Balance) -> RaiseOffer | None:
        state, zone = self._state, self._ledger.accounts[balance.account].time_zone
        if state.rules < 2 or not state.config.approvers:
            return None
        return offer_of(state.config, balance, self._ledger.calendars.end_ms(zone, balance.window, state.now_ms))

    def _once_a_day(
        self, what: Literal["price_fell", "price_changed", "key_source_down", "service_refuses"], text: str, about: str
    ) -> None:
        today = window_start_ms("day", self._state.now_ms)
        self._outbox.alert_once(self._state.now_ms, what, text, f"{about} {today}")
