"""The configuration: `paymaster.toml`, overridden by environment variables `PAYMASTER__…`.

It fails at start, with every problem in one message, the key's path and the fix; and it shows no secret, not even in
that message.
"""

from paymaster.settings.console import ConsoleKeySettings, ConsoleProxySettings, ConsoleRole, ConsoleSettings
from paymaster.settings.gateway import GatewaySettings
from paymaster.settings.gateway_clients import GatewayClientSettings, JwtSettings
from paymaster.settings.kinds import (
    AdminName,
    Api,
    AtLeastOne,
    AzureName,
    BudgetPath,
    BudgetTable,
    Duration,
    Fraction,
    KeyName,
    LedgerName,
    ModelName,
    PublicKey,
    RouteName,
    SecretText,
    ServiceName,
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
from paymaster.settings.routes import RouteSettings
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
from paymaster.values.durations import format_duration, parse_duration

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
    "BudgetTable",
    "CodecSettings",
    "ConfigurationError",
    "ConsoleKeySettings",
    "ConsoleProxySettings",
    "ConsoleRole",
    "ConsoleSettings",
    "DatabaseSettings",
    "Duration",
    "EncryptionSettings",
    "Fraction",
    "GatewayClientSettings",
    "GatewaySettings",
    "JwtSettings",
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
    "RouteSettings",
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
