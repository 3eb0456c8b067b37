"""docs/configuration.md, made from the settings' own words, so that it cannot say anything else than they do."""

import re
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel

from paymaster import settings

_HEAD = """\
# Configuration

Made by `paymaster config docs > docs/configuration.md` from the settings themselves: change it there.

Everything is in `paymaster.toml` (`--config FILE`, else `PAYMASTER_CONFIG`, else in the working directory). A key that
is not listed here, or that contradicts another one, stops the program with its path and what to do. Where Temporal is
say [its own standard variables](https://docs.temporal.io/develop/environment-configuration) (`TEMPORAL_ADDRESS`, …).

Durations are text with a unit ("500ms", "30s", "15m", "24h", "7d"), money is text in US dollars ("0.20"), exact to the
billionth.

## Environment variables
"""


def settings_reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, _environment_section(), *_tables(settings.Settings, "")])


def _environment_section() -> str:
    """What the module of the settings says about variables: the paragraphs of its docstring after the first two."""
    paragraphs = (settings.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(paragraphs[2:]) + "\n"


def _tables(parent: type[BaseModel], inside: str) -> Iterator[str]:
    """A section for each table below this one, in the order of the settings, with the tables in it after it."""
    for key, field in parent.model_fields.items():
        table = _table_of(field.annotation)
        if table is None:
            if parent is settings.Settings:  # a table of plain values
                yield f"## `[{key}]`\n\n{_words(field.description)}\n"
            continue
        name, _, meaning = _words(table.__doc__).partition(": ")
        nested = inside and not name.startswith("`[")
        yield f"{'###' if inside else '##'} {name}{f' in {inside}' if nested else ''}\n"
        yield f"{meaning[:1].upper()}{meaning[1:]}\n"
        keys = list(_keys(table))
        if keys:
            yield "\n".join(keys) + "\n"
        yield from _tables(table, name if name.startswith("`[") else inside)


def _keys(table: type[BaseModel]) -> Iterator[str]:
    for name, field in table.model_fields.items():
        # What a table within the table means is said there; here only that there is one.
        kind = " (table)" if _table_of(field.annotation) else ""
        yield f"- `{name}`{kind}: {_words(field.description)}"


def _table_of(annotation: object) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _words(text: str | None) -> str:
    """One paragraph."""
    return re.sub(r"\s+", " ", text or "").strip()
