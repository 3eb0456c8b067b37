"""The part of the configuration that the ledger decides with, as the message that reaches it."""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256

from paymaster.messages import AccountConfig, DeskConfig, RetrySettings, ServiceConfig, Window
from paymaster.settings import AccountSettings, ServiceSettings, Settings


def desk_config(settings: Settings) -> DeskConfig:
    """The same settings always give the same digest; how a value was written ("60s" or "1m") makes no difference."""
    config = DeskConfig(
        digest="",
        budgets={path: _account(budget) for path, budget in sorted(settings.budgets.items())},
        services={name: _service(service) for name, service in sorted(settings.services.items())},
        hold_expires_after_ms=_ms(settings.ledger.hold_expires_after),
        max_parked=settings.ledger.max_parked,
    )
    return config.model_copy(update={"digest": sha256(config.model_dump_json().encode()).hexdigest()})


def _account(account: AccountSettings) -> AccountConfig:
    return AccountConfig(caps_nanos=_sorted(account.cap_usd), alert_at=account.alert_at)


def _service(service: ServiceSettings) -> ServiceConfig:
    retry = service.retry
    return ServiceConfig(
        caps_nanos=_sorted(service.cap_usd),
        alert_at=service.alert_at,
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


def _sorted(caps: Mapping[Window, int]) -> dict[Window, int]:
    return dict(sorted(caps.items()))


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
