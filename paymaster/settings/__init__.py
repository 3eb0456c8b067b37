"""The configuration: `paymaster.toml`, overridden by environment variables `PAYMASTER__…`.

It fails at start, with every problem in one message, the key's path and the fix; and it shows no secret, not even in
that message.

An environment variable names a key by its path with `__` between the parts: `PAYMASTER__DATABASE__URL` is
`database.url`. Our own words are lower-cased. Names of services and routes are lower-cased too, and their `_` becomes
`-`, which few shells allow in a variable: `PAYMASTER__SERVICES__MY_PROXY__TIMEOUT` is `services.my-proxy.timeout`.
Names of models and budgets are taken as they are written. What a shell cannot spell goes into JSON, one level up:
`PAYMASTER__BUDGETS='{"acme/content": {"cap_usd": {"day": "5"}}}'`. A value that begins with `{` or `[` is JSON, every
other value is text. Tables are merged with those of the file, lists replace them, and `null` in JSON takes a key away.

`PAYMASTER_CONFIG` and `PAYMASTER_KEY_…` have one underscore after PAYMASTER and are never read as settings.
"""

from paymaster.settings.kinds import (
    AdminName,
    Api,
    AtLeastOne,
    AzureName,
    BudgetPath,
    Candidates,
    Duration,
    Fraction,
    KeyName,
    LedgerName,
    ModelName,
    PublicKey,
    RouteName,
    SecretText,
    ServiceName,
    format_duration,
    parse_duration,
    split_candidate,
)
from paymaster.settings.load import (
    CONFIG_FILE_DEFAULT,
    load_settings,
    load_settings_if_any,
)
from paymaster.settings.problems import (
    ConfigurationError,
)
from paymaster.settings.tables import (
    AccountSettings,
    AdminSettings,
    AlertsSettings,
    AzureSettings,
    BreakerSettings,
    BudgetSettings,
    CodecSettings,
    DatabaseSettings,
    EncryptionSettings,
    KeysSettings,
    LedgerSettings,
    LogSettings,
    ModelSettings,
    PriceSettings,
    RetryPolicySettings,
    ServiceSettings,
    Settings,
    TelemetrySettings,
    WorkerSettings,
)

__all__ = [
    "CONFIG_FILE_DEFAULT",
    "AccountSettings",
    "AdminName",
    "AdminSettings",
    "AlertsSettings",
    "Api",
    "AtLeastOne",
    "AzureName",
    "AzureSettings",
    "BreakerSettings",
    "BudgetPath",
    "BudgetSettings",
    "Candidates",
    "CodecSettings",
    "ConfigurationError",
    "DatabaseSettings",
    "Duration",
    "EncryptionSettings",
    "Fraction",
    "KeyName",
    "KeysSettings",
    "LedgerName",
    "LedgerSettings",
    "LogSettings",
    "ModelName",
    "ModelSettings",
    "PriceSettings",
    "PublicKey",
    "RetryPolicySettings",
    "RouteName",
    "SecretText",
    "ServiceName",
    "ServiceSettings",
    "Settings",
    "TelemetrySettings",
    "WorkerSettings",
    "format_duration",
    "load_settings",
    "load_settings_if_any",
    "parse_duration",
    "split_candidate",
]
