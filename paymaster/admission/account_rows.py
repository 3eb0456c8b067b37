"""The accounts as rows that are small and quick to read: 10,000 budgets are 50,000 balances.

A row is a key, the balances of the windows in their order, and what else differs from a new account under the
configuration. A balance is the money that is posted, or, where anything else differs, its fields that do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from paymaster.admission.accounts import Account, Balance, first_ahead, next_threshold
from paymaster.admission.limiter import Limiter
from paymaster.admission.runs import Run
from paymaster.messages import AccountConfig, DeskConfig, Window
from paymaster.values.budget_path import is_template, template_of
from paymaster.values.money import NANOS_MAX
from paymaster.values.windows import WINDOWS

Row = Sequence[Any]
"""Key, balances, other fields."""

_NOTHING = frozenset[str]()
_ALERTED = {"posted_nanos", "alerted"}
"""Of a balance, what is written where no more than an alert differs."""
_LIMITER = TypeAdapter(Limiter)
_RUN = TypeAdapter(Run)
_BALANCE_ROW = TypeAdapter(Balance)
_NEW = AccountConfig(alert_at=())
"""What the configuration says of an account that it does not name."""


def account_configs(config: DeskConfig) -> dict[str, AccountConfig]:
    """What a configuration says of accounts, by their keys; those of templates end in `*`."""
    return {f"budget:{path}": account for path, account in config.budgets.items()} | {
        f"service:{name}": account for name, account in config.services.items()
    }


def config_of(key: str, configs: Mapping[str, AccountConfig]) -> AccountConfig | None:
    """What these say of an account: by its own name, or by a template."""
    return configs.get(key) or configs.get(template_key(key))


def limiting_runs(keys: Iterable[str], configs: Mapping[str, AccountConfig]) -> list[AccountConfig]:
    """Of these accounts of budgets, what is configured of those that limit runs."""
    found = (config_of(key, configs) for key in keys)
    return [config for config in found if config is not None and config.limits_runs]


def template_key(key: str) -> str:
    """The key of the template that would stand for this account."""
    kind, _, name = key.partition(":")
    return f"{kind}:{template_of(name)}"


def named_accounts(configs: Mapping[str, AccountConfig]) -> dict[str, AccountConfig]:
    """Those that are there before anybody uses them: all but templates."""
    return {key: config for key, config in configs.items() if not is_template(key.partition(":")[2])}


def account_rows(accounts: Mapping[str, Account], config: DeskConfig) -> list[Row]:
    configs = account_configs(config)
    return [_row(account, config_of(key, configs) or _NEW) for key, account in accounts.items()]


def accounts_of(rows: Sequence[Row], config: DeskConfig, windows: Sequence[Window]) -> dict[str, Account]:
    """`windows`: of which each row has a balance, in this order."""
    configs = account_configs(config)
    return {row[0]: _account(row, config_of(row[0], configs) or _NEW, windows) for row in rows}


def _row(account: Account, config: AccountConfig) -> Row:
    caps = config.caps_nanos
    balances = [_balance_row(account.balances[window], caps.get(window), account.alert_at) for window in WINDOWS]
    other: dict[str, Any] = {}
    if account.alert_at != config.alert_at:
        other["alert_at"] = account.alert_at
    if account.limiter != _NO_LIMITER:
        other["limiter"] = asdict(account.limiter)
    if rolling := account.rolling():
        other["rolling"] = [_BALANCE_ROW.dump_python(each, mode="json") for each in rolling]
    if account.run is not None:
        other["run"] = _RUN.dump_python(account.run, mode="json", exclude_defaults=True)
    other |= {name: value for name, new in _ACCOUNT if (value := getattr(account, name)) != new}
    return [account.key, balances, other] if other else [account.key, balances]


def _account(row: Row, config: AccountConfig, windows: Sequence[Window]) -> Account:
    key, caps = row[0], config.caps_nanos
    other: dict[str, Any] = row[2] if len(row) > 2 else {}
    alert_at = tuple(other["alert_at"]) if "alert_at" in other else config.alert_at
    first_part = first_ahead(alert_at, _NOTHING)
    balances: dict[Window, Balance] = {}
    # Most balances are made here, by position and with the sum of `next_threshold`: there are 50,000.
    for window, each in zip(windows, row[1], strict=True):
        cap = caps.get(window)
        if each.__class__ is int:
            posted, alerted, part = each, _NOTHING, first_part
        elif each.keys() == _ALERTED:
            posted, alerted = each["posted_nanos"], _alerted(*each["alerted"])
            part = first_ahead(alert_at, alerted)
        else:
            balances[window] = _balance(key, window, each, cap, alert_at)
            continue
        threshold = 0 if cap is None or not posted else NANOS_MAX if part is None else int(part * cap)
        balances[window] = Balance(key, window, cap, cap, 0, False, posted, 0, alerted, threshold)
    account = Account(key, alert_at, balances, time_zone=config.time_zone, enforced=config.enforce)
    for name, value in other.items():
        if name == "limiter":
            account.limiter = _LIMITER.validate_python(value)
        elif name == "rolling":
            for each in map(_BALANCE_ROW.validate_python, value):
                account.balances[each.window] = each
        elif name == "run":
            account.run = _RUN.validate_python(value)
            account.enforced = not account.run.watched
        elif name != "alert_at":
            setattr(account, name, value)
    return account


def _balance_row(balance: Balance, cap: int | None, alert_at: tuple[float, ...]) -> int | dict[str, Any]:
    differs: dict[str, Any] = {name: value for name, new in _BALANCE if (value := getattr(balance, name)) != new}
    if balance.alerted:
        differs["alerted"] = sorted(balance.alerted)
    if balance.alert_from_nanos != _threshold(balance, alert_at):
        differs["alert_from_nanos"] = balance.alert_from_nanos
    if balance.cap_nanos != cap or balance.file_cap_nanos != cap:
        differs["cap_nanos"], differs["file_cap_nanos"] = balance.cap_nanos, balance.file_cap_nanos
    if not differs:
        return balance.posted_nanos
    return {"posted_nanos": balance.posted_nanos, **differs}


def _threshold(balance: Balance, alert_at: tuple[float, ...]) -> int:
    """Where it usually is: nothing was spent and nobody has looked, or the next one."""
    return next_threshold(alert_at, balance) if balance.cap_nanos is not None and balance.posted_nanos else 0


def _balance(key: str, window: Window, row: dict[str, Any], cap: int | None, alert_at: tuple[float, ...]) -> Balance:
    values: dict[str, Any] = {"cap_nanos": cap, "file_cap_nanos": cap, **row}
    values["alerted"] = frozenset[str](row.get("alerted", ()))
    balance = Balance(key, window, **values)
    if "alert_from_nanos" not in row:
        balance.alert_from_nanos = _threshold(balance, alert_at)
    return balance


@lru_cache(maxsize=1_000)
def _alerted(*what: str) -> frozenset[str]:
    return frozenset(what)


def _defaults(kind: type, known: set[str]) -> list[tuple[str, Any]]:
    """Fields and their values in a new one, but for those that are known here."""
    return [(each.name, _default(each)) for each in fields(kind) if each.name not in known]


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


_NO_LIMITER = Limiter()
_ACCOUNT = _defaults(Account, {"key", "alert_at", "balances", "limiter", "time_zone", "enforced", "run"})
_BALANCE = _defaults(
    Balance,
    {"account", "window", "cap_nanos", "file_cap_nanos", "posted_nanos", "alerted", "alert_from_nanos", "steps"},
)
