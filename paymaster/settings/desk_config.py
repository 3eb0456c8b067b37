"""The part of the configuration that the ledger decides with, as the message that reaches it."""

from datetime import timedelta
from hashlib import sha256

from paymaster.messages import (
    LIMITS,
    AccountConfig,
    AdminConfig,
    ApproverConfig,
    DeskConfig,
    LimitName,
    RetrySettings,
    RunawayTerms,
    RunTerms,
    ServiceConfig,
    config_too_large,
)
from paymaster.settings import AccountSettings, BudgetSettings, ConfigurationError, ServiceSettings, Settings
from paymaster.settings.approvals import ApproverSettings
from paymaster.settings.runs import PerRunSettings, RunawaySettings
from paymaster.settings.time_zones import offsets_of
from paymaster.values.budget_path import is_template
from paymaster.values.time_zones import UTC_NAME
from paymaster.values.windows import Window

_RENEWS: dict[str, Window] = {"1h": "hour", "1d": "day", "1w": "week"}
"""How the file writes windows in which runs are renewed."""


def desk_config(settings: Settings) -> DeskConfig:
    """What the ledger needs of the settings, with a digest that does not depend on how values are written.

    Raises ConfigurationError for one that the ledger could not keep.
    """
    config = DeskConfig(
        digest="",
        budgets={path: _budget(path, budget) for path, budget in sorted(settings.budgets.items())},
        services={name: _service(service) for name, service in sorted(settings.services.items())},
        time_zones={zone: offsets_of(zone) for zone in sorted(_zones(settings))},
        hold_expires_after_ms=_ms(settings.ledger.hold_expires_after),
        max_parked=settings.ledger.max_parked,
        approvers={name: _approver(each) for name, each in sorted(settings.approvals.items())},
        admin=AdminConfig(
            require_signature=settings.admin.require_signature, keys=dict(sorted(settings.admin.keys.items()))
        ),
    )
    if problem := config_too_large(config):
        raise ConfigurationError([f"budgets: {problem}"])
    return config.model_copy(update={"digest": sha256(config.model_dump_json().encode()).hexdigest()})


def _account(account: AccountSettings) -> AccountConfig:
    limits: dict[LimitName, int | None] = {name: getattr(account, name) for name in LIMITS}
    caps = dict(sorted(account.cap_usd.items()))
    return AccountConfig(caps_nanos=caps, alert_at=account.alert_at, **limits)


def _budget(path: str, budget: BudgetSettings) -> AccountConfig:
    """Of the many accounts of a template no threshold is told that nobody asked for."""
    account = _account(budget).model_copy(
        update={
            "time_zone": budget.time_zone,
            "enforce": budget.enforce,
            "per_run": None if budget.per_run is None else _per_run(budget.per_run),
            "runaway": None if budget.runaway is None else _runaway(budget.runaway),
        }
    )
    if is_template(path) and "alert_at" not in budget.model_fields_set:
        return account.model_copy(update={"alert_at": ()})
    return account


def _per_run(limits: PerRunSettings) -> RunTerms:
    lasts_ms = None if limits.lasts is None else _ms(limits.lasts)
    renews = None if limits.renews is None else _RENEWS[limits.renews]
    return RunTerms(usd_nanos=limits.usd, calls=limits.calls, lasts_ms=lasts_ms, renews=renews)


def _runaway(limits: RunawaySettings) -> RunawayTerms:
    return RunawayTerms(
        identical_calls=limits.identical_calls,
        calls_per_minute=limits.calls_per_minute,
        usd_nanos_per_minute=limits.usd_per_minute,
    )


def _approver(approver: ApproverSettings) -> ApproverConfig:
    return ApproverConfig(
        budgets=approver.budgets,
        per_raise_nanos=approver.usd_per_raise,
        per_day_nanos=approver.usd_per_day,
        offers_nanos=approver.offers,
        key=approver.public_key or "",
    )


def _zones(settings: Settings) -> set[str]:
    return {budget.time_zone for budget in settings.budgets.values()} - {UTC_NAME}


def _service(service: ServiceSettings) -> ServiceConfig:
    retry = service.retry
    return ServiceConfig(
        **dict(_account(service)),
        breaker_failures=service.breaker.failures,
        breaker_cooldown_ms=_ms(service.breaker.cooldown),
        timeout_ms=_ms(service.timeout),
        retry=RetrySettings(
            initial_interval_ms=_ms(retry.initial_interval),
            backoff_coefficient=retry.backoff_coefficient,
            maximum_interval_ms=_ms(retry.maximum_interval),
            maximum_attempts=retry.maximum_attempts,
        ),
        max_retry_after_ms=_ms(service.max_retry_after),
        max_unconfirmed=service.max_unconfirmed,
    )


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
