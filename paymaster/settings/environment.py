"""Environment variables `PAYMASTER__…` as a source of settings."""

from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from pydantic import (
    BaseModel,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    PydanticBaseSettingsSource,
)

from paymaster.settings.problems import Location, written_path
from paymaster.settings.tables import Settings
from paymaster.values.json_reading import message_data

_PREFIX = "PAYMASTER__"

HOW_VARIABLES_ARE_READ = """\
An environment variable names a key by its path with `__` between the parts: `PAYMASTER__DATABASE__URL` is
`database.url`. Our own words are lower-cased. Names of services and routes are lower-cased too, and their `_` becomes
`-`, which few shells allow in a variable: `PAYMASTER__SERVICES__MY_PROXY__TIMEOUT` is `services.my-proxy.timeout`.
Names of models and budgets are taken as they are written. What a shell cannot spell goes into JSON, one level up:
`PAYMASTER__BUDGETS='{"acme/content": {"cap_usd": {"day": "5"}}}'`. A value that begins with `{` or `[` is JSON, every
other value is text. Tables are merged with those of the file, lists replace them, and `null` in JSON takes a key away.

`PAYMASTER_CONFIG` and `PAYMASTER_KEY_…` have one underscore after PAYMASTER and are never read as settings.
"""
"""For people, in Markdown."""


def table_of(tables: Mapping[str, object], name: str) -> dict[str, object]:
    table = tables.get(name)
    return cast(dict[str, object], table) if isinstance(table, dict) else {}


class EnvironmentSource(PydanticBaseSettingsSource):
    """The variables `PAYMASTER__…` as nested tables.

    pydantic-settings has such a source, but that one knows only `os.environ`, passes over names that it does not know,
    and reads a text such as "0.20" below a table as JSON, which makes it a float.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.problems: list[str] = []
        self._tables: dict[str, Any] = {}
        self._variables: dict[Location, str] = {}
        # In the order of paths: whoever sets a whole table comes before those who set keys in it.
        for path, variable in sorted((_path_of(name), name) for name in environ if name.startswith(_PREFIX)):
            if "" in path:
                self.problems.append(f"{variable}: a part of the name is empty; write {_PREFIX}TABLE__KEY")
                continue
            try:
                value = _value_of(environ[variable])
            except ValueError:
                # Without the decoder's own error: it holds the text.
                self.problems.append(f"{variable}: not valid JSON, and a value that begins with {{ or [ must be")
                continue
            self._add(path, value, variable)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._tables.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._tables

    def naming(self, location: Location) -> str:
        """The variables that set this place, a part of it or all around it, to be put behind a problem."""
        names = {
            variable
            for path, variable in self._variables.items()
            if path[: len(location)] == location or location[: len(path)] == path
        }
        return f" (see {', '.join(sorted(names))})" if names else ""

    def _add(self, path: tuple[str, ...], value: Any, variable: str) -> None:
        if isinstance(value, dict) and value:
            for key, below in cast(dict[str, Any], value).items():
                self._add((*path, key), below, variable)
            return
        table: dict[str, Any] | None = self._tables
        for part in path[:-1]:
            below = table.setdefault(part, {}) if table is not None else None
            table = cast(dict[str, Any], below) if isinstance(below, dict) else None
        if table is None or path[-1] in table:
            self.problems.append(f"{variable}: another variable sets {written_path(path)} too; keep one of them")
        else:
            table[path[-1]] = value
            self._variables[path] = variable


def _path_of(variable: str) -> tuple[str, ...]:
    parts = variable.removeprefix(_PREFIX).split("__")
    path = [part.lower() for part in parts]
    if path[0] in ("services", "routes") and len(path) > 1:
        path[1] = path[1].replace("_", "-")
    if path[0] == "services" and path[2:3] == ["models"] and len(path) > 3:
        path[3] = parts[3]
    if path[0] == "budgets" and len(path) > 1:
        path[1] = parts[1]
    return tuple(path)


def _value_of(text: str) -> Any:
    return message_data(text) if text.startswith(("{", "[")) else text


def is_table(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
