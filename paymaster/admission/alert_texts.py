"""The words of alerts: a sentence each, with what to do where somebody has to."""

from collections.abc import Sequence
from datetime import UTC, datetime

from paymaster.admission.accounts import Balance
from paymaster.admission.book_changes import LetThrough
from paymaster.admission.breaker import Breaker
from paymaster.admission.clock import DOUBT_MS
from paymaster.admission.signed_commands import utc
from paymaster.messages import (
    AdminMessage,
    EndRun,
    Grant,
    PauseService,
    RaiseCap,
    RaiseRun,
    ResumeRun,
    ResumeService,
    SetCap,
    Settle,
    UnsetCap,
    Window,
)
from paymaster.messages.spending import Foreseen, Unusual
from paymaster.values.limits import RUNS_KEPT_MAX, STATE_BYTES_MAX
from paymaster.values.money import format_usd

APPLY = "`paymaster config diff` shows it, `paymaster config apply` does it"
OTHERS_SHOWN_MAX = 10
"""Names of other ledgers in a sentence."""

SEVERAL_BUDGETS_NEED_RULES = (
    "the ledger still runs by the rules of version 0.1.0, by which a call has one budget: `paymaster upgrade`, when no "
    "older worker runs any more"
)
RUNS_NEED_RULES = (
    "the ledger still runs by the rules of version 0.1.0, which know no limits of a run: `paymaster upgrade`, when no "
    "older worker runs any more"
)
POOLS_NEED_RULES = (
    "the ledger still runs by the rules of version 0.1.0, which know neither pools nor when_short of a route: "
    "`paymaster upgrade`, when no older worker runs any more"
)

PURCHASES_NEED_RULES = (
    "the ledger still runs by the rules of version 0.1.0, which know no purchases: `paymaster upgrade`, when no older "
    "worker runs any more"
)

# ---------------------------------------------------------------- money


def threshold(balance: Balance, part: float, ends_ms: int | None) -> str:
    name, cap_nanos = _named(balance.account), balance.cap_nanos or 0
    figures = f"{_figures(balance)}{_until(ends_ms)}"
    if balance.posted_nanos < cap_nanos:
        return f"{name} has spent {part:.0%} of its {balance.window} cap: {figures}"
    state = "has used up" if balance.posted_nanos == cap_nanos else "is over"
    return f"{name} {state} its {balance.window} cap: {figures}. More: {_raise(balance.account, balance.window)}"


def foreseen(balance: Balance, foreseen: Foreseen, ends_ms: int | None) -> str:
    """`ends_ms` None: the window has no end, or goes on by itself."""
    by = "as it was spent in the last four weeks" if foreseen.by_pattern else "at this rate"
    before = "" if ends_ms is None else f", before it ends at {_minute(ends_ms)}"
    return (
        f"{_named(balance.account)}: {by} its {balance.window} cap is used up by {_minute(foreseen.used_up_at_ms)}"
        f"{before}; {_figures(balance)} are spent. More: {_raise(balance.account, balance.window)}"
    )


def unusual(unusual: Unusual) -> str:
    kind, _, name = unusual.account.partition(":")
    on = ", ".join(f"{each.what} {each.name} ({_about_usd(each.nanos)})" for each in unusual.spent_on)
    asked = {
        "run": f"`paymaster runs end {name} --reason …` ends it",
        "service": f"`paymaster services pause {name} --reason …` sends nothing more to it",
    }
    usage = f"`paymaster usage --budget {name} --since 1h --by model,run` has more"
    return (
        f"{name if kind == 'budget' else f'{kind} {name}'} spent {_about_usd(unusual.nanos)} in the last hour; at this "
        f"time of the week {_about_usd(unusual.usual_nanos)} are usual{f'. Mostly: {on}' if on else ''}. "
        f"{asked.get(kind, usage)}"
    )


def exhausted(account: str, window: Window, detail: str, ends_ms: int | None) -> str:
    """`detail`: which call had no room."""
    return f"{detail}; the cap stands{_until(ends_ms) or ' for ever'}, or {_raise(account, window)}"


def calls_are_parked(detail: str) -> str:
    """The words of a ledger by the rules of 0.1.0."""
    return f"calls are parked: {detail}"


def calls_wait(balance: Balance, calls: int, denied_at_ms: int, ends_ms: int | None, way_out: str) -> str:
    """`denied_at_ms`: when the call that waits does so no longer. `way_out`: a sentence with what lets it pass."""
    wait = "1 call waits" if calls == 1 else f"{calls:,} calls wait"
    held = f", and {format_usd(balance.pending_nanos)} held" if balance.pending_nanos else ""
    return (
        f"{wait} for {_named(balance.account)}: {_figures(balance)} of its {balance.window} cap{held}"
        f"{_until(ends_ms)}; the first is denied at {utc(denied_at_ms)}{way_out}"
    )


def cap_changed(change: RaiseCap | SetCap | UnsetCap, before_nanos: int | None, after_nanos: int | None) -> str:
    before, after = ("no cap" if nanos is None else format_usd(nanos) for nanos in (before_nanos, after_nanos))
    lapses = ", until the window ends" if isinstance(change, RaiseCap) and change.until_window_end else ""
    return f"{by_whom(change)} changed the {change.window} cap of {_named(change.account)}: {before} → {after}{lapses}"


def let_through(balance: Balance, grant: Grant) -> str:
    cap = f"its cap of {format_usd(balance.cap_nanos or 0)} ({balance.window})"
    return (
        f"{balance.account} is watched only: {cap} has no room for a call of {grant.budget} that can cost "
        f"{format_usd(grant.bound_nanos)}, which goes on; so will others"
    )


def would_have_held_up(ended: LetThrough) -> str:
    over = f"its cap of {format_usd(ended.cap_nanos)} would have held up {ended.calls:,} calls"
    when = f"the {ended.window} that ended" if ended.ended else f"this {ended.window}, until others needed its room"
    return f"{ended.account} is watched only: in {when}, {over}"


def overage(grant: Grant, cost_nanos: int, counted_margin_percent: int) -> str:
    over = format_usd(cost_nanos - grant.bound_nanos)
    text = f"{grant.service}/{grant.model} billed {over} more than the bound of {grant.hold_id}"
    if grant.counted_tokens is None:
        return text
    return (
        f"{text}, whose {grant.counted_tokens:,} tokens of input were counted; from now on counted bounds of "
        f'{grant.service} add {counted_margin_percent} % to the count (`bound = "bytes"` ends counting there)'
    )


def unconfirmed(grant: Grant, nanos: int, attempt: str | None) -> str:
    resolve = f"`paymaster unconfirmed resolve {attempt} --cost USD`" if attempt else "`paymaster unconfirmed list`"
    return (
        f"nobody knows whether {grant.service}/{grant.model} billed a call of {grant.budget}; {format_usd(nanos)} stay "
        f"charged until somebody says what it did cost: {resolve}"
    )


def unknown_hold(command: Settle) -> str:
    return f"a settlement of {format_usd(command.cost_nanos)} for the unknown hold {command.hold_id}; reconcile"


def price_fell(said: str, grant: Grant) -> str:
    return f"a price fell by more than half: {said}, says a worker ({grant.price.source}); {grant.hold_id}"


def price_changed(said: str, grant: Grant) -> str:
    return f"a price changed: {said}, says a worker ({grant.price.source}); {grant.hold_id}"


# ---------------------------------------------------------------- what is stored


def spending_missing(nanos: int, window: Window, account: str, other_accounts: int) -> str:
    more = f" and {other_accounts} other accounts" if other_accounts else ""
    return (
        f"the database has {format_usd(nanos)} ({window}) less of {account}{more} than the ledger "
        "posted: was it put back to an earlier time? What was posted stays. `paymaster reconcile` shows it; if the "
        f"rows are right: `paymaster reconcile --accept-lower {account if not more else 'all'} --reason …`"
    )


def ledger_behind(stored_ms: int, known_ms: int) -> str:
    return (
        f"the database has rows of calls until {utc(stored_ms)}, and the ledger granted none after "
        f"{utc(known_ms)}: Temporal was put back to an earlier time, or another ledger of this name writes there. "
        "What was spent is read again"
    )


def lower_accepted(by: str, account: str) -> str:
    return f"{by} accepts what the database says was spent: {account}"


def spend_corrected(by: str, hold_id: str, from_usd: str, to_usd: str) -> str:
    return f"{by} corrects {hold_id} from ${from_usd} to ${to_usd}"


# ---------------------------------------------------------------- services


def service_paused(change: PauseService) -> str:
    return (
        f"{by_whom(change)} paused {change.service}: its calls fall back, or wait until "
        f"`paymaster services resume {change.service} --reason …`"
    )


def service_resumed(change: ResumeService, paused_by: str | None) -> str:
    was = f"; it was paused by {paused_by}" if paused_by else ""
    return f"{by_whom(change)} lets calls go to {change.service} again{was}"


def breaker_opened(service: str, breaker: Breaker) -> str:
    return f"{service} failed {breaker.failures} times in a row; no calls for {breaker.cooldown_ms // 1000} s"


def breaker_closed(service: str) -> str:
    return f"{service} works again"


# ---------------------------------------------------------------- the ledger itself


def more_refused(count: int) -> str:
    return f"and {count} more messages were refused within a minute; `paymaster budget show` has the latest"


def state_size(size: int, accounts: int, holds: int, parked: int, ended: int) -> str:
    return (
        f"the ledger's state has {size // 1024} KiB of {STATE_BYTES_MAX // 1024}: {accounts} accounts, {holds} holds, "
        f"{parked} parked calls, {ended} ended holds; see docs/limits.md"
    )


def run_raised(change: RaiseRun) -> str:
    more = [
        f"{change.by} USD" if change.by is not None else "",
        f"{change.calls} calls" if change.calls else "",
        f"{change.lasts_ms / 1000:g} s" if change.lasts_ms else "",
    ]
    return f"{by_whom(change)} gave run {change.run} {', '.join(filter(None, more))} more"


def other_limits(run: str, *, signs: bool) -> str:
    """`signs`: commands of admins need a signature."""
    signature = " --sign-with FILE" if signs else ""
    return (
        f"run:{run} has had other limits since its first call: ask for those again, or for none; carve a part of it "
        f"(`name=`); name another run (`run=`); or let an admin give it more (`paymaster runs raise {run}{signature}`)"
    )


def run_resumed(change: ResumeRun) -> str:
    return f"{by_whom(change)} let run {change.run} go on"


def runaway(run: str, why: str) -> str:
    return (
        f"run {run} is held: {why}. `paymaster runs resume {run}` lets it go on, `paymaster runs end {run}` ends it "
        "(both with --reason)"
    )


def runaway_forgotten(run: str) -> str:
    return (
        f"run {run} is held no more: the ledger keeps {RUNS_KEPT_MAX:,} runs that are held or were ended, and of those "
        f"held it was unused for longest. `paymaster runs end {run}` lets no call of it begin (with --reason)"
    )


def runaway_watched(run: str, why: str) -> str:
    return f"run {run} would be held, and goes on because its budget is watched only: {why}"


def run_ended(change: EndRun) -> str:
    return f"{by_whom(change)} ended run {change.run}: none of its calls gets a grant any more"


def first_of_template(text: str, template: str) -> str:
    return f"{text} (the first account of {template} in this hour; of others nothing is said)"


def calls_parked(count: int) -> str:
    return f"{count} calls are parked"


def answers_waiting(count: int) -> str:
    return f"{count} answers to calls could not be delivered yet"


def candidates_parked(count: int) -> str:
    return f"the parked calls have {count} candidates together"


def old_form_too_large() -> str:
    return (
        "the ledger's state had become more than Temporal takes in the form of version 0.1.0: it goes on by newer "
        "rules, and no worker of 0.1.0 can serve it any more"
    )


def clock_ahead(before_ms: int, now_ms: int) -> str:
    return (
        f"the ledger's time went from {utc(before_ms)} to {utc(now_ms)} at once, though something was due "
        f"in between: either no worker ran, or the Temporal server's clock jumped. Holds and parked calls "
        f"whose time is over have {DOUBT_MS // 60_000} minutes more. If the clock is wrong, put it right, then "
        "`paymaster clock take --reason …`"
    )


def clock_back(before_ms: int, to_ms: int) -> str:
    return (
        f"the ledger's time goes back from {utc(before_ms)} to {utc(to_ms)}, as the Temporal server's clock "
        "did. What was spent meanwhile counts now; raises that lapsed with a window meanwhile must be given again"
    )


# ---------------------------------------------------------------- the configuration


def config_not_signed(digest: str, detail: str) -> str:
    return f"a configuration ({digest[:12]}) was not applied: {detail}"


def config_changed(who: str, changed: str) -> str:
    return f"the configuration was changed{_by(who)}: {changed}"


def config_kept(who: str, kept: str) -> str:
    return f"the file brought{_by(who)} would remove what stays in force: {kept}. {APPLY}"


def old_config_kept(who: str) -> str:
    by = f" ({who})" if who else ""
    return f"the ledger began anew with an old configuration{by}; the newer one that is stored is in force"


def unsigned_config_kept() -> str:
    return "the ledger began anew with an unsigned configuration that changes money; the stored one is in force"


def stored_config_kept(why: str) -> str:
    return f"the stored configuration is in force: {why}"


def empty_books(ledger: str, others: Sequence[str]) -> str:
    """What a changed `ledger.name` does."""
    names = ", ".join(others[:OTHERS_SHOWN_MAX]) + (" …" if len(others) > OTHERS_SHOWN_MAX else "")
    return (
        f"nothing is stored of ledger {ledger!r}, and something of: {names}. Its books begin empty, with every cap "
        "unspent: right for a new ledger, wrong where another ledger.name was meant"
    )


def books_anew() -> str:
    """What of a ledger that was terminated or lost is not stored."""
    return (
        "the ledger began anew from what is stored: spending, caps of admins and the configuration are as they were. "
        "What admins did besides is forgotten: services that they paused are called again, and runs that they ended or "
        "that were held as runaways go on. Give these commands again where they are still wanted"
    )


def by_whom(change: AdminMessage) -> str:
    """Who gave a command, and why."""
    return f"{change.who or 'an admin'}{f' ({change.reason})' if change.reason else ''}"


def _named(account: str) -> str:
    return account.removeprefix("budget:")


def _figures(balance: Balance) -> str:
    return f"{_about_usd(balance.posted_nanos)} of {format_usd(balance.cap_nanos or 0)}"


def _about_usd(nanos: int) -> str:
    """Cut to cents, or to three digits of less than ten cents."""
    unit = 10 ** max(0, min(7, len(str(nanos)) - 3))
    return format_usd(nanos // unit * unit)


def _minute(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _until(ends_ms: int | None) -> str:
    return "" if ends_ms is None else f" until {utc(ends_ms)}"


def _raise(account: str, window: Window) -> str:
    if account.startswith("run:"):
        return f"`paymaster runs raise {account.removeprefix('run:')} --by USD --reason …`"
    return f"`paymaster budget raise {_named(account)} --window {window} --by USD --reason …`"


def _by(who: str) -> str:
    return f" by {who}" if who else ""
