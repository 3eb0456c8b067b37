"""Reading the configuration from its file and the environment."""

import os
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    TomlConfigSettingsSource,
)

from paymaster.settings.environment import EnvironmentSource, is_table, table_of
from paymaster.settings.problems import ConfigurationError, Location, did_you_mean, written_path
from paymaster.settings.routes import unknown_services
from paymaster.settings.tables import Settings
from paymaster.values.limits import NESTING_MAX

CONFIG_FILE_DEFAULT = "paymaster.toml"

_HOW_TO_BEGIN = """\
`paymaster init` writes one. Or write it yourself, for example

  [services.local]
  api = "openai"
  base_url = "http://127.0.0.1:8080/v1"
  models."the-model" = { price = { input = "0", output = "0" } }

  [routes]
  writer = ["local/the-model"]

  [budgets.dev]
  cap_usd = { day = "5" }

or name another file with --config FILE or PAYMASTER_CONFIG=FILE."""

_TABLES = {
    "cap_usd": 'day = "5"',
    "per_run": 'usd = "2.00", calls = 200',
    "runaway": "identical_calls = 10",
    "price": 'input = "0.20", output = "1.20"',
}
"""What one may write into tables that are easily taken for a value."""


def load_settings(path: Path | str | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from a file, overridden by environment variables.

    `path` None: PAYMASTER_CONFIG names the file, else it is `paymaster.toml` in the working directory.
    `environ` None: the process's own. Raises ConfigurationError with every problem.
    """
    file = _find_file(None if path is None else Path(path), environ)
    settings = _read(file, environ)
    # Raised here and not below, because nothing in this frame holds what was read, and no other exception is under way:
    # neither a traceback with its locals nor the exception's context shows a secret.
    if isinstance(settings, Settings):
        return settings
    raise ConfigurationError(settings, file)


def load_settings_if_any() -> Settings:
    """The settings of a program that needs no file, like an agent's: without one the environment variables alone count.

    Raises ConfigurationError with every problem.
    """
    if "PAYMASTER_CONFIG" in os.environ or Path(CONFIG_FILE_DEFAULT).is_file():
        return load_settings()
    settings = _read(None, None)
    if isinstance(settings, Settings):
        return settings
    raise ConfigurationError(settings)


class _TomlFile(TomlConfigSettingsSource):
    """The configuration file, also as editors on Windows save it: with a byte order mark, which TOML does not know."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(file_path.read_bytes().decode("utf-8-sig"))


def _find_file(path: Path | None, environ: Mapping[str, str] | None) -> Path:
    configured = (os.environ if environ is None else environ).get("PAYMASTER_CONFIG")
    if path is not None:
        problem = f"there is no file {path}; name one that is there"
    elif configured:
        path, problem = Path(configured), f"PAYMASTER_CONFIG names {configured}, and there is no such file"
    else:
        path = Path(CONFIG_FILE_DEFAULT)
        problem = f"there is no {path} in {Path.cwd()}. {_HOW_TO_BEGIN}"
    if not path.is_file():
        raise ConfigurationError([problem])
    return path


def _read(file: Path | None, environ: Mapping[str, str] | None) -> Settings | list[str]:
    """The settings, or what is wrong with them. `file` None: there is none."""
    try:
        from_file = _TomlFile(Settings, toml_file=file)
    except OSError as error:
        return [f"the file cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:  # its message may hold a piece of the file
        return [f"not UTF-8 at byte {error.start}; save the file as UTF-8"]
    except ValueError as error:  # tomllib's own, with line and column, and int()'s for a number with too many digits
        return [f"not valid TOML: {error}"]
    except RecursionError:
        return [f"nested too deeply: at most {NESTING_MAX} levels"]
    from_environment = EnvironmentSource(os.environ if environ is None else environ)
    problems = list(from_environment.problems)
    try:
        # The constructor's documented way to be given sources; pyright sees only the fields.
        settings = Settings(_build_sources=((from_environment, from_file), {}))  # pyright: ignore[reportCallIssue]
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        for error in errors:
            at = error["loc"]
            # Nobody set a key that is missing: tell who set the others of its table.
            origin = from_environment.naming(at[:-1] if error["type"] == "missing" else at)
            problems.append(f"{written_path(at)}: {_explain(error)}{origin}")
        if any(error["loc"][0] == "services" for error in errors):
            # The routes' own check needs valid services; their names are enough to say this now and not next time.
            routes, services = (
                {**table_of(from_file.toml_data, name), **table_of(from_environment(), name)}
                for name in ("routes", "services")
            )
            for at, problem in unknown_services(routes, services):
                problems.append(f"{written_path(('routes', *at))}: {problem}{from_environment.naming(('routes', *at))}")
        return problems
    return problems or settings


def _explain(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(error["loc"])
            fix = did_you_mean(str(error["loc"][-1]), known) or f"known here: {', '.join(sorted(known))}"
            return f"unknown key; {fix}"
        case "missing":
            return "missing; set it"
        case "literal_error":
            return f"not supported; write {context['expected']}"
        case "value_error":
            return str(context.get("error") or context["message"])
        case "model_type" | "dict_type":
            example = _TABLES.get(str(error["loc"][-1]))
            return "must be a table" if example is None else f"must be a table, like {{ {example} }}"
        case "string_pattern_mismatch" if error["loc"][-1] == "key_sha256":
            return 'not a SHA-256 in lower case; write the 64 digits with which `printf %s "$KEY" | sha256sum` begins'
        case "tuple_type":
            return "must be a list"
        case _:
            return error["msg"].replace("Input should be", "must be", 1)


def _known_keys(location: Location) -> list[str]:
    """The keys that are allowed beside this one."""
    table: type[BaseModel] = Settings
    is_name = False  # of a service, a model or a budget: its table is the one already found
    for part in location[:-1]:
        if isinstance(part, int):
            continue  # one of the tables of a list
        if is_name:
            is_name = False
            continue
        annotation = table.model_fields[part].annotation
        is_name = get_origin(annotation) is dict
        table = next(kind for kind in (annotation, *get_args(annotation)) if is_table(kind))
    return [field.alias or name for name, field in table.model_fields.items()]
