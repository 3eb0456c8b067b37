"""What the numbers and names of a message may be that anybody can forge who may signal or update the ledger or a call.

Everything that a configuration file, a request or a provider can legally say is within. The check is made at the door
and not by the messages' types, because a ledger must also be able to load a state in which something else got earlier.
"""

from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel

from paymaster.messages import (
    AccountConfig,
    AdminMessage,
    ApproverConfig,
    AskStanding,
    AttemptReport,
    AttemptReports,
    BacklogBatch,
    CallRef,
    Candidate,
    Command,
    CommandBatch,
    DeskConfig,
    Grant,
    LLMRequest,
    ParkedAnswer,
    PieceEnded,
    Reserve,
    RetrySettings,
    RunTerms,
    ServiceConfig,
    Settle,
    StatusRequest,
    StoredRows,
    UsageRecord,
    Void,
    Withdrawn,
    json_bytes,
)
from paymaster.messages.purchases import PurchaseBegin, PurchaseEnd, PurchaseRequest
from paymaster.messages.spending import Foreseen, SpendingReport, Unusual
from paymaster.values.cost_lines import CostLine
from paymaster.values.json_reading import check_levels, check_values
from paymaster.values.limits import (
    ADMIN_MESSAGE_BYTES_MAX,
    ALERT_PARTS_MAX,
    BUDGETS_OF_CALL_MAX,
    CANDIDATES_MAX,
    CANDIDATES_OF_UPDATE_MAX,
    COMMANDS_MAX,
    COST_LINES_MAX,
    COUNT_MAX,
    DURATION_MS_MAX,
    ID_CHARACTERS_MAX,
    MODEL_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    OFFERS_MAX,
    REFUSED_CHARACTERS_MAX,
    REQUEST_BYTES_MAX,
    RESERVE_BYTES_MAX,
    SERVICES_MAX,
    TIERS_MAX,
    TIME_MS_MAX,
    WEIGHT_MAX,
)
from paymaster.values.money import NANOS_MAX, Price
from paymaster.values.run_path import check_run_path
from paymaster.values.time_zones import UTC_NAME, Offsets
from paymaster.values.windows import RENEWAL_WINDOWS

_OF_ANYBODY = (
    AttemptReports,
    BacklogBatch,
    CommandBatch,
    LLMRequest,
    ParkedAnswer,
    PieceEnded,
    PurchaseBegin,
    PurchaseEnd,
    PurchaseRequest,
    SpendingReport,
    StatusRequest,
    StoredRows,
    Withdrawn,
)
"""What is sent to workflows, beside the messages of admins and configurations."""
_ATTEMPTS_MAX = 1_000
_BOUND_NANOS_MAX = NANOS_MAX * 10**9
"""The most that an attempt can cost is larger than what any column stores when its model has a senseless price."""


def may_come_from_anybody(kind: type[BaseModel]) -> bool:
    """Whether whoever may signal or update a workflow can send it such a message. Configurations are not among them:
    `read_configure` reads those."""
    return issubclass(kind, (AdminMessage, *_OF_ANYBODY))


def check_text(text: bytes, kind: type[BaseModel]) -> None:
    """Raises ValueError for JSON that is too large to be read as a message of this kind.

    While 2 MB are read nothing else in the process runs: they can hold a million values, each of which may be an error.
    The levels of commands are left to the reader's own limit, since none of their fields passes on what it has.
    """
    if issubclass(kind, AdminMessage):
        _within("bytes of the message", len(text), 0, ADMIN_MESSAGE_BYTES_MAX)
    elif issubclass(kind, _OF_ANYBODY):
        check_values(text)
    else:
        return
    if kind is not CommandBatch:
        check_levels(text)


def check_config(config: DeskConfig) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _text("digest", config.digest, ID_CHARACTERS_MAX)
    _within("hold_expires_after_ms", config.hold_expires_after_ms, 1, DURATION_MS_MAX)
    _within("max_parked", config.max_parked, 1, COUNT_MAX)
    _within("the number of services", len(config.services), 0, SERVICES_MAX)
    for path, account in config.budgets.items():
        _text("a budget's path", path, NAME_CHARACTERS_MAX)
        _check_account(f"budget {path}", account)
        if account.time_zone != UTC_NAME and account.time_zone not in config.time_zones:
            raise ValueError(f"budget {path}: {account.time_zone} is not among the time zones")
    for name, service in config.services.items():
        _text("a service's name", name, NAME_CHARACTERS_MAX)
        _check_account(f"service {name}", service)
        _check_service(f"service {name}", service)
    if UTC_NAME in config.time_zones:
        raise ValueError(f"{UTC_NAME} is a time zone of itself")
    for name, offsets in config.time_zones.items():
        _check_zone(name, offsets)
    _within("the number of admins", len(config.admin.keys), 0, SERVICES_MAX)
    for name, key in config.admin.keys.items():
        _text("an admin's name", name, NAME_CHARACTERS_MAX)
        _text("an admin's key", key, NAME_CHARACTERS_MAX)
    _within("the number of approvers", len(config.approvers), 0, SERVICES_MAX)
    for name, approver in config.approvers.items():
        _check_approver(name, approver)


def _check_approver(name: str, approver: ApproverConfig) -> None:
    _text("an approver's name", name, NAME_CHARACTERS_MAX)
    _text("an approver's key", approver.key, NAME_CHARACTERS_MAX)
    _within("the number of an approver's budgets", len(approver.budgets), 1, SERVICES_MAX)
    _names(*approver.budgets)
    _within("the number of an approver's offers", len(approver.offers_nanos), 0, OFFERS_MAX)
    for nanos in (approver.per_raise_nanos, approver.per_day_nanos, *approver.offers_nanos):
        _within("what an approver may raise by", nanos, 1, NANOS_MAX)


def _check_zone(name: str, offsets: Offsets) -> None:
    _text("a time zone's name", name, NAME_CHARACTERS_MAX)
    _within("the changes of a time zone", len(offsets), 1, COUNT_MAX)
    for minute, ahead in offsets:
        _within("a minute of a time zone", minute, 0, TIME_MS_MAX // 60_000)
        _within("minutes ahead of UTC", ahead, -24 * 60, 24 * 60)
    if any(before >= after for (before, _), (after, _) in pairwise(offsets)):
        raise ValueError(f"the changes of {name} are not in the order of time")


def check_batch(batch: CommandBatch) -> None:
    """Raises ValueError, with what to do, for an update of more commands or candidates than one activation takes."""
    if (commands := len(batch.commands)) > COMMANDS_MAX:
        raise ValueError(f"{commands} commands in one update, and there may be {COMMANDS_MAX}: send them in several")
    _text("sender", batch.sender, ID_CHARACTERS_MAX)
    candidates = sum(len(command.candidates) for command in batch.commands if isinstance(command, Reserve))
    if candidates > CANDIDATES_OF_UPDATE_MAX:
        raise ValueError(
            f"{candidates} candidates of calls in one update, and there may be {CANDIDATES_OF_UPDATE_MAX}: "
            "send them in several"
        )


def check_command(command: Command) -> int | None:
    """How many bytes a question for a hold has as a message, since that has to be known here; of others None.

    Raises ValueError with the field, what it has and what it may have.
    """
    if not isinstance(command, AskStanding):
        _text("hold_id", command.hold_id, ID_CHARACTERS_MAX)
    match command:
        case AskStanding():
            _check_budgets(command.budgets)
        case Void():
            pass
        case Settle():
            _within("cost_nanos", command.cost_nanos, 0, _BOUND_NANOS_MAX)
            _within_or_none("tokens", command.tokens, 0, COUNT_MAX)
            _within("failures", command.failures, 0, COUNT_MAX)
            _text("epoch", command.epoch, ID_CHARACTERS_MAX)
            if command.corrects is not None:
                _check_run(command.corrects.run, ())
        case Reserve():
            return _check_reserve(command)
    return None


def check_stored_rows(stored: StoredRows) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _within("latest_granted_ms", stored.latest_granted_ms, 0, TIME_MS_MAX)


def check_report(report: AttemptReport) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _text("hold_id", report.hold_id, ID_CHARACTERS_MAX)
    _text("service", report.service, NAME_CHARACTERS_MAX)
    _text("model", report.model or "", NAME_CHARACTERS_MAX)
    _within_or_none("pause_ms", report.pause_ms, 0, DURATION_MS_MAX)
    _text("error_class", report.error_class or "", NAME_CHARACTERS_MAX)


def check_foreseen(foreseen: Foreseen) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _text("account", foreseen.account, NAME_CHARACTERS_MAX)
    _within("used_up_at_ms", foreseen.used_up_at_ms, 0, TIME_MS_MAX)


def check_unusual(unusual: Unusual) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _text("account", unusual.account, NAME_CHARACTERS_MAX)
    _within("nanos", unusual.nanos, 0, _BOUND_NANOS_MAX)
    _within("usual_nanos", unusual.usual_nanos, 0, _BOUND_NANOS_MAX)
    for each in unusual.spent_on:
        _text("name", each.name, NAME_CHARACTERS_MAX)
        _within("nanos", each.nanos, 0, _BOUND_NANOS_MAX)


def check_grant(grant: Grant) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _text("hold_id", grant.hold_id, ID_CHARACTERS_MAX)
    _names(grant.service, grant.model)
    _check_budgets(grant.budgets)
    _check_run(grant.run, ())
    _text("epoch", grant.epoch, ID_CHARACTERS_MAX)
    _check_price(grant.price)
    _within("max_output_tokens", grant.max_output_tokens, 1, COUNT_MAX)
    _within("bound_nanos", grant.bound_nanos, 0, _BOUND_NANOS_MAX)
    _within("granted_at_ms", grant.granted_at_ms, 0, TIME_MS_MAX)
    _within("expires_at_ms", grant.expires_at_ms, grant.granted_at_ms, grant.granted_at_ms + DURATION_MS_MAX)
    _within("timeout_ms", grant.timeout_ms, 1, DURATION_MS_MAX)
    _check_retry("grant", grant.retry)
    _within("max_retry_after_ms", grant.max_retry_after_ms, 0, DURATION_MS_MAX)
    _within("max_unconfirmed", grant.max_unconfirmed, 0, COUNT_MAX)
    _within_or_none("counted_tokens", grant.counted_tokens, 0, COUNT_MAX)


def check_record(record: UsageRecord) -> None:
    """Raises ValueError with the field, what it has and what it may have."""
    _check_call(record.call)
    check_grant(record.grant)
    _within("the number of attempts", len(record.attempts), 0, _ATTEMPTS_MAX)
    for attempt in record.attempts:
        _within("number", attempt.number, 0, COUNT_MAX)
        _within("started_at_ms", attempt.started_at_ms, 0, TIME_MS_MAX)
        _within("duration_ms", attempt.duration_ms, 0, DURATION_MS_MAX)
        _within_or_none("http_status", attempt.http_status, 0, 999)
        _within_or_none("cost_nanos", attempt.cost_nanos, 0, _BOUND_NANOS_MAX)
        if attempt.usage is not None:
            for name, count in attempt.usage:
                _within_or_none(name, count, 0, COUNT_MAX)
        _check_lines(attempt.paid_for or ())


def _check_lines(lines: Sequence[CostLine]) -> None:
    _within("the number of lines of a cost", len(lines), 0, COST_LINES_MAX)
    for line in lines:
        _names(line.kind, line.model or "")
        _within("the quantity of a line", line.quantity, 0, COUNT_MAX)
        _within_or_none("unit_price_nanos", line.unit_price_nanos, 0, _BOUND_NANOS_MAX)
        _within("the cost of a line", line.cost_nanos, -_BOUND_NANOS_MAX, _BOUND_NANOS_MAX)


def _check_account(name: str, account: AccountConfig) -> None:
    for window, cap in account.caps_nanos.items():
        _within(f"{name}: cap of the {window}", cap, 0, NANOS_MAX)
    _within(f"{name}: the number of alert_at", len(account.alert_at), 0, ALERT_PARTS_MAX)
    for part in account.alert_at:
        _within(f"{name}: alert_at", part, 0, 1)
    for limit, most in account.limits().items():
        _within_or_none(f"{name}: {limit}", most, 1, COUNT_MAX)
    if account.per_run is not None:
        _check_terms(f"{name}: per_run", account.per_run)
    if account.runaway is not None:
        for limit, most in account.runaway:
            _within_or_none(f"{name}: runaway {limit}", most, 1, NANOS_MAX)


def _check_service(name: str, service: ServiceConfig) -> None:
    _within(f"{name}: breaker_failures", service.breaker_failures, 1, COUNT_MAX)
    _within(f"{name}: breaker_cooldown_ms", service.breaker_cooldown_ms, 1, DURATION_MS_MAX)
    _within(f"{name}: timeout_ms", service.timeout_ms, 1, DURATION_MS_MAX)
    _check_retry(name, service.retry)
    _within(f"{name}: max_retry_after_ms", service.max_retry_after_ms, 0, DURATION_MS_MAX)
    _within(f"{name}: max_unconfirmed", service.max_unconfirmed, 0, COUNT_MAX)


def _check_retry(name: str, retry: RetrySettings) -> None:
    _within(f"{name}: initial_interval_ms", retry.initial_interval_ms, 1, DURATION_MS_MAX)
    _within(f"{name}: backoff_coefficient", retry.backoff_coefficient, 1, 100)
    _within(f"{name}: maximum_interval_ms", retry.maximum_interval_ms, 1, DURATION_MS_MAX)
    _within(f"{name}: maximum_attempts", retry.maximum_attempts, 1, 100)


def _check_reserve(command: Reserve) -> int:
    _check_call(command.call)
    _check_budgets(command.budgets)
    _check_run(command.run, command.run_terms)
    _text("digest", command.digest, ID_CHARACTERS_MAX)
    _within("input_bytes", command.input_bytes, 0, 100 * REQUEST_BYTES_MAX)
    _within("deadline_at_ms", command.deadline_at_ms, 0, TIME_MS_MAX)
    _within("asked_at_ms", command.asked_at_ms, 0, TIME_MS_MAX)
    _within("priority", command.priority, -100, 100)
    _within("the number of candidates", len(command.candidates), 0, CANDIDATES_MAX)
    for candidate in command.candidates:
        _check_candidate(candidate)
    _check_purchase(command.candidates)
    if (size := json_bytes(command)) > RESERVE_BYTES_MAX:
        count = len(command.candidates)
        raise ValueError(
            f"the question of a call, with the prices of its {count} candidates, has {size:,} bytes and may have "
            f"{RESERVE_BYTES_MAX:,}: give its route fewer candidates"
        )
    return size


def _check_purchase(candidates: Sequence[Candidate]) -> None:
    if not any(candidate.purchase for candidate in candidates):
        return
    [*others, only] = candidates
    counts = only.countable or only.counted_tokens is not None
    if others or counts or only.shares or only.short_below is not None:
        raise ValueError("a purchase has no other candidate, and no tokens to count")


def is_within_bounds(candidate: Candidate) -> bool:
    try:
        _check_candidate(candidate)
    except ValueError:
        return False
    return True


def _check_candidate(candidate: Candidate) -> None:
    _names(candidate.service)
    _text("a model", candidate.model, MODEL_CHARACTERS_MAX)
    _within("max_output_tokens", candidate.max_output_tokens, 1, COUNT_MAX)
    _within_or_none("context_tokens", candidate.context_tokens, 1, COUNT_MAX)
    _within("media_tokens", candidate.media_tokens, 0, COUNT_MAX)
    _within_or_none("counted_tokens", candidate.counted_tokens, 0, COUNT_MAX)
    _text("refused", candidate.refused or "", REFUSED_CHARACTERS_MAX)
    _within("weight", candidate.weight, 1, WEIGHT_MAX)
    _within_or_none("short_below", candidate.short_below, 0, 1_000_000)
    if candidate.price is not None:
        _check_price(candidate.price)


def _check_price(price: Price) -> None:
    _text("a price's source", price.source, NAME_CHARACTERS_MAX)
    _within("the number of a price's tiers", len(price.tiers), 0, TIERS_MAX)
    _within("request_nanos", price.request_nanos, 0, NANOS_MAX)
    for rates in (price, *price.tiers):
        _within("a price's input_nanos", rates.input_nanos, 0, NANOS_MAX)
        _within("a price's output_nanos", rates.output_nanos, 0, NANOS_MAX)
        _within_or_none("a price's cached_input_nanos", rates.cached_input_nanos, 0, NANOS_MAX)
        _within_or_none("a price's cache_write_nanos", rates.cache_write_nanos, 0, NANOS_MAX)
    for tier in price.tiers:
        _within("above_input_tokens", tier.above_input_tokens, 0, COUNT_MAX)


def _check_call(call: CallRef) -> None:
    _text("workflow_id", call.workflow_id, NAME_CHARACTERS_MAX)
    _text("run_id", call.run_id, ID_CHARACTERS_MAX)


def _check_budgets(budgets: Sequence[str]) -> None:
    _within("the number of budgets", len(budgets), 1, BUDGETS_OF_CALL_MAX)
    for budget in budgets:
        _text("a budget", budget, NAME_CHARACTERS_MAX)


def _check_run(run: str | None, terms: Sequence[RunTerms | None]) -> None:
    if run is not None:
        check_run_path(run)
    _within("the number of run_terms", len(terms), 0, 0 if run is None else run.count("/") + 1)
    for each in terms:
        if each is not None:
            _check_terms("run_terms", each)
            if each.renews is not None:
                raise ValueError("run_terms: only what a budget allows each run is renewed")


def _check_terms(name: str, terms: RunTerms) -> None:
    _within_or_none(f"{name}: usd_nanos", terms.usd_nanos, 0, NANOS_MAX)
    _within_or_none(f"{name}: calls", terms.calls, 0, COUNT_MAX)
    _within_or_none(f"{name}: lasts_ms", terms.lasts_ms, 1, DURATION_MS_MAX)
    if terms.renews not in (None, *RENEWAL_WINDOWS):
        raise ValueError(f"{name}: renews is {terms.renews} and may be {', '.join(RENEWAL_WINDOWS)}")


def _names(*names: str) -> None:
    for name in names:
        _text("a name", name, NAME_CHARACTERS_MAX)


def _text(name: str, text: str, characters_max: int) -> None:
    if len(text) > characters_max:
        raise ValueError(f"{name} has {len(text):,} characters and may have {characters_max:,}")


def _within(name: str, number: float, smallest: int, largest: int) -> None:
    if not smallest <= number <= largest:  # also false for NaN
        text = str(number) if abs(number) < 10**30 else "far out"
        raise ValueError(f"{name[:200]} is {text} and may be from {smallest} to {largest}")


def _within_or_none(name: str, number: int | None, smallest: int, largest: int) -> None:
    if number is not None:
        _within(name, number, smallest, largest)
