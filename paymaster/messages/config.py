"""The configuration that the desk decides with, and how it is carried when it is large."""

from typing import Annotated, Literal, get_args

from pydantic import (
    TypeAdapter,
)

from paymaster.messages.base import Message, added
from paymaster.messages.packing import packs
from paymaster.messages.runs import RunawayTerms, RunTerms
from paymaster.values.limits import BUDGETS_MAX, CONFIG_BYTES_MAX, CONFIG_PACKED_BYTES_MAX, CONFIG_PLAIN_BYTES_MAX
from paymaster.values.packed import pack
from paymaster.values.time_zones import Offsets
from paymaster.values.windows import Window


class RetrySettings(Message):
    """Temporal's RetryPolicy for one service."""

    initial_interval_ms: int = 1_000
    backoff_coefficient: float = 2.0
    maximum_interval_ms: int = 30_000
    maximum_attempts: int = 5


LimitName = Literal["requests_per_minute", "tokens_per_minute", "max_concurrent"]
"""The kinds of rate limits: fields of an account's configuration, here and in `settings/tables`."""
LIMITS: tuple[LimitName, ...] = get_args(LimitName)


class AccountConfig(Message):
    caps_nanos: dict[Window, int] = {}
    alert_at: tuple[float, ...] = (0.5, 0.8, 0.95)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    """Calls at once. None, here as above: no limit."""
    time_zone: str = added("UTC")
    """Of `time_zones`, or UTC: where its days, weeks and months begin."""
    enforce: bool = added(True)
    """False: its caps and limits are watched only, and hold up no call."""
    per_run: RunTerms | None = added(None)
    """Of a budget: the most that each run may take of it, and of those below it. None: no limit."""
    runaway: RunawayTerms | None = added(None)
    """Of a budget: when each run that it pays for is held. None: never."""

    @property
    def limits_runs(self) -> bool:
        return self.per_run is not None or self.runaway is not None

    def limits(self) -> dict[LimitName, int | None]:
        return {name: getattr(self, name) for name in LIMITS}


class ServiceConfig(AccountConfig):
    breaker_failures: int = 5
    breaker_cooldown_ms: int = 30_000
    timeout_ms: int = 120_000
    retry: RetrySettings = RetrySettings()
    max_retry_after_ms: int = 60_000
    max_unconfirmed: int = 1


class AdminConfig(Message):
    """Who may change caps."""

    require_signature: bool = False
    keys: dict[str, str] = {}
    """Public Ed25519 keys in base64, by the name of their owner."""


class ApproverConfig(Message):
    """What an approver may raise, by buttons and links of alerts and in the console."""

    budgets: tuple[str, ...]
    """And those below them."""
    per_raise_nanos: int
    per_day_nanos: int
    """From midnight to midnight in UTC."""
    offers_nanos: tuple[int, ...]
    """The raises that alerts offer."""
    key: str = added("")
    """Public Ed25519 key in base64. Empty: raises of this approver are not signed."""


class DeskConfig(Message):
    """What the worker's configuration file says about admission. Applied once for each digest."""

    digest: str
    budgets: dict[str, AccountConfig] = {}
    services: dict[str, ServiceConfig] = {}
    hold_expires_after_ms: int = 900_000
    max_parked: int = 2_000
    admin: AdminConfig = AdminConfig()
    time_zones: dict[str, Offsets] = added({})
    """By name, those that budgets have, but for UTC."""
    approvers: dict[str, ApproverConfig] = added({})
    """By name."""


def config_too_large(config: DeskConfig) -> str | None:
    """What to do about a configuration that no message can carry. None: one can."""
    if len(config.budgets) > BUDGETS_MAX:
        return f"there are {len(config.budgets)} budgets, and a ledger keeps at most {BUDGETS_MAX}: use several ledgers"
    text = config.model_dump_json().encode()
    if len(text) <= CONFIG_PLAIN_BYTES_MAX:
        return None
    packed = len(pack(text))
    if len(text) <= CONFIG_BYTES_MAX and packed <= CONFIG_PACKED_BYTES_MAX:
        return None
    return (
        f"the budgets and services are {len(text)} bytes, {packed} compressed, and at most {CONFIG_BYTES_MAX} and "
        f"{CONFIG_PACKED_BYTES_MAX} can be sent: configure fewer budgets"
    )


CarriedConfig = Annotated[
    DeskConfig, *packs(TypeAdapter(DeskConfig), plain_bytes_max=CONFIG_PLAIN_BYTES_MAX, bytes_max=CONFIG_BYTES_MAX)
]
"""A configuration in a message; as JSON, compressed where it is large."""
