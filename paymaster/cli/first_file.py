"""The text of a first `paymaster.toml`, with the services that a machine can use."""

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

_HEAD = """\
# Written by `paymaster init`, and yours to change. After a change: `paymaster config check`, then restart the worker.
# What can be written here: docs/configuration.md. No key is in this file: it has their names.
"""
_TAIL = """\
[routes]
writer = [{candidates}]  # a call names a route; first choice first

[budgets.dev]             # a call names a budget, or one below it, such as dev/my-agent
cap_usd = {{ day = "5" }}   # also minute, hour, week, month, total, 24h, 7d, 30d
alert_at = [0.5, 0.8, 0.95]

# [budgets."dev/users/*"]  # each name below it, from its first call on
# cap_usd = {{ day = "1" }}

# [alerts]                 # where somebody is told
# webhook_url = "https://hooks.slack.com/services/…"
# webhook_format = "slack"

# [database]               # `paymaster dev` brings its own
# url = "postgresql+asyncpg://USER@HOST/NAME"
"""


class FirstService(NamedTuple):
    """A service of the file, with one model."""

    name: str
    api: str
    base_url: str
    model: str
    variable: str | None = None
    """The environment variable that has its key. None: it needs none."""
    price: tuple[str, str] | None = None
    """Of a million tokens of input and of output, in USD. None: the price list knows it."""
    about: str = ""
    """Why it is there, where no key says it."""
    max_output_tokens: int = 4096

    @property
    def candidate(self) -> str:
        return f"{self.name}/{self.model}"

    @property
    def costs_nothing(self) -> bool:
        """Whether its price is zero, so that no cap ever holds one of its calls."""
        try:
            return self.price is not None and not any(map(Decimal, self.price))
        except InvalidOperation:  # no amount: the configuration says so
            return False


def first_file(services: Sequence[FirstService]) -> str:
    """The whole file."""
    candidates = ", ".join(_text(each.candidate) for each in services)
    return "\n".join([_HEAD, *map(_service, services), _TAIL.format(candidates=candidates)])


def _service(service: FirstService) -> str:
    lines = [f"[services.{service.name}]{f'  # {service.about}' if service.about else ''}"]
    lines += [f"api = {_text(service.api)}", f"base_url = {_text(service.base_url)}"]
    if service.variable is not None:
        lines.append(
            f"key = {_text(_key_name(service.variable))}  # a name: workers find the key in {service.variable}"
        )
    lines.append('cap_usd = { day = "20" }  # of all budgets together')
    lines.append("# requests_per_minute = 500  # what the provider allows you: calls then wait here")
    lines.append(f"\n[services.{service.name}.models.{_text(service.model)}]")
    lines.append(f"max_output_tokens = {service.max_output_tokens}  # the bound of a call is made of it")
    if service.price is None:
        lines.append('# price = { input = "…", output = "…" }  # USD per million tokens. Default: the price list\'s')
    else:
        input_usd, output_usd = map(_text, service.price)
        free = ". 0: no cap ever holds its calls" if service.costs_nothing else ""
        lines.append(f"price = {{ input = {input_usd}, output = {output_usd} }}  # USD per million tokens{free}")
    return "\n".join(lines) + "\n"


def _key_name(variable: str) -> str:
    return variable.lower().replace("_", "-")


def _text(value: str) -> str:
    """A basic string of TOML, which JSON's is too."""
    return json.dumps(value, ensure_ascii=False)
