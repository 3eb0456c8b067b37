"""A list of prices as genai-prices publishes it: the installed one, with changes."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice

Edits = Mapping[str, Mapping[str, Any] | None]


def price_data(edits: Edits | None = None, provider: str = "openai") -> bytes:
    """The list; `edits` gives models of the provider other members (None: takes them out), or adds them."""
    providers = [_plain(each) for each in get_snapshot().providers]
    (edited,) = (each for each in providers if each["id"] == provider)
    known = {model["id"]: model for model in edited["models"]}
    for name, members in (edits or {}).items():
        if members is None:
            edited["models"].remove(known[name])
        elif name in known:
            known[name].update(members)
        else:
            edited["models"].append({"id": name, "match": {"equals": name}, **members})
    return json.dumps(providers).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, ModelPrice):
        return {name: _plain(rate) for name, rate in value.__dict__.items() if rate is not None}
    if is_dataclass(value):
        members = {field.name: getattr(value, field.name) for field in fields(value) if not field.name.startswith("_")}
        return {name.rstrip("_"): _plain(each) for name, each in members.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date | time) else value
