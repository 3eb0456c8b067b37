"""A configuration as anybody may send it: neither what is in it nor what is wrong with it takes long to read."""

from typing import Any, cast

from pydantic import JsonValue
from pydantic_core import from_json

from paymaster.messages.admin import Configure
from paymaster.messages.config import AccountConfig, ServiceConfig
from paymaster.messages.packing import unpacked
from paymaster.values.collection import no_collection
from paymaster.values.json_reading import TooManyValues, check_values, object_of
from paymaster.values.limits import (
    ALERT_PARTS_MAX,
    CONFIG_ACCOUNTS_MAX,
    CONFIG_BYTES_MAX,
    CONFIG_VALUES_MAX,
    SERVICES_MAX,
    WINDOWS_MAX,
)


def read_configure(text: bytes) -> Configure:
    """Raises ValueError for what is not such a message, and for one of more budgets or services than there may be."""
    _check_size(text)
    with no_collection():
        data = from_json(text)
        config = object_of(object_of(data).get("config"))
        if "packed" in config:
            plain = unpacked(config, CONFIG_BYTES_MAX)
            _check_size(plain)
            config = object_of(from_json(plain))
        if not config:
            return Configure.model_validate(data)
        made: dict[str, Any] = {**config}
        if "budgets" in config:
            made["budgets"] = _accounts("budgets", config["budgets"], AccountConfig, CONFIG_ACCOUNTS_MAX)
        if "services" in config:
            made["services"] = _accounts("services", config["services"], ServiceConfig, SERVICES_MAX)
        _at_most("[admin.keys]", object_of(object_of(config.get("admin")).get("keys")), SERVICES_MAX)
        _at_most("[approvals]", object_of(config.get("approvers")), SERVICES_MAX)
        return Configure.model_validate({**cast(dict[str, JsonValue], data), "config": made})


def _check_size(text: bytes) -> None:
    check_values(text, CONFIG_VALUES_MAX)
    if text.count(b'"') > 2 * CONFIG_VALUES_MAX:  # to make a string takes longer than to make any other value
        raise TooManyValues(CONFIG_VALUES_MAX)


def _accounts(name: str, data: JsonValue, kind: type[AccountConfig], most: int) -> object:
    """Made one by one, so that the first that is wrong ends it: an error for each takes longer than all else."""
    if not isinstance(data, dict):
        return data
    _at_most(name, data, most)
    made: dict[str, AccountConfig] = {}
    make = kind.__pydantic_validator__.validate_python
    key = ""
    try:
        for key, account in data.items():
            if isinstance(account, dict):  # a loop of 10,000: each call in it would take another millisecond
                caps, alerts = account.get("caps_nanos"), account.get("alert_at")
                if isinstance(caps, dict) and len(caps) > WINDOWS_MAX:
                    _at_most("caps_nanos", caps, WINDOWS_MAX)
                if isinstance(alerts, list) and len(alerts) > ALERT_PARTS_MAX:
                    _at_most("alert_at", alerts, ALERT_PARTS_MAX)
            made[key] = make(account)
    except ValueError as error:
        raise ValueError(f"{name}, {key[:100]}: {error}") from None
    return made


def _at_most(name: str, data: dict[str, JsonValue] | list[JsonValue], most: int) -> None:
    if len(data) > most:
        raise ValueError(f"{name} has {len(data):,} values and may have {most:,}")
