"""docs/configuration.md, made from the settings' own words, so that it cannot say anything else than they do."""

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel

from paymaster.settings.environment import HOW_VARIABLES_ARE_READ
from paymaster.settings.tables import Settings

_HEAD = """\
# Configuration

Made by `make settings` from the settings themselves (`tables.py`, `routes.py`, `gateway.py`,
`gateway_clients.py` and `console.py` in `paymaster/settings`): change it there.

Everything is in `paymaster.toml` (`--config FILE`, else `PAYMASTER_CONFIG`, else in the working directory). A key that
is not listed here, or that contradicts another one, stops the program with its path and what to do. Where Temporal is
say [its own standard variables](https://docs.temporal.io/develop/environment-configuration) (`TEMPORAL_ADDRESS`, …).

Durations are text with a unit ("500ms", "30s", "15m", "24h", "7d"), money is text in US dollars ("0.20"), exact to the
billionth. "None" means that the key is left out.

Editors with [taplo](https://taplo.tamasfe.dev) or Even Better TOML complete and check the file after
`paymaster config schema > paymaster.schema.json`, with this as its first line:

```toml
#:schema ./paymaster.schema.json
```

The program checks more than the schema can say, such as keys that contradict each other.

## Environment variables

"""

_NAMES = {
    "services": "NAME",
    "routes": "NAME",
    "models": '"MODEL"',
    "budgets": '"acme/content"',
    "endpoints": "NAME",
    "clients": "NAME",
    "admins": "NAME",
    "approvals": "NAME",
    "keys": "NAME",
}
"""What stands for the names that a table of tables has."""


def settings_reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD + HOW_VARIABLES_ARE_READ, *_tables(Settings)])


def _tables(parent: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[str]:
    """A section for each table below this one, in the order of the settings, with the tables in it after it."""
    for key, field in parent.model_fields.items():
        table = _table_of(field.annotation)
        here = (*path, key)
        if table is not None and get_origin(field.annotation) is dict:
            here = (*here, _NAMES[key])
        name = f"[{'.'.join(here)}]"
        written = f"[{name}]" if get_origin(field.annotation) is tuple else name
        title = f"{'###' if path else '##'} `{written}`\n"
        if table is not None:
            yield title
            yield f"{_words(table.__doc__)}\n"
            yield "\n".join(_keys(table)) + "\n"
            yield from _tables(table, here)
        elif parent is Settings:  # a table of plain values
            yield title
            yield f"{_words(field.description)}\n"


def _keys(table: type[BaseModel]) -> Iterator[str]:
    for name, field in table.model_fields.items():
        # What a table within the table means is said there; here only that there is one.
        several = get_origin(field.annotation) is tuple
        kind = "" if _table_of(field.annotation) is None else " (tables)" if several else " (table)"
        yield f"- `{field.alias or name}`{kind}: {_words(field.description)}"


def _table_of(annotation: object) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _words(text: str | None) -> str:
    """One paragraph."""
    return " ".join((text or "").split())
