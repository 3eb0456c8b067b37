"""The contract: every name and shape that something outside this repository depends on, as JSON.

Running workflows, recorded histories, agents, databases, dashboards, scripts and configuration files depend on it. What
is in tests/project/contract.json may grow; what is removed or changed breaks somebody. `make contract` writes it anew.
"""

import hashlib
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import typer.main
from paymaster_process import ROOT
from pydantic import BaseModel
from typer.core import TyperGroup

FILE = Path(__file__).with_name("contract.json")
PUBLIC = (
    "paymaster",
    *(f"paymaster.{name}" for name in ("client", "errors", "nexus", "plugin", "settings", "testing")),
)
"""Modules whose public names agents and their authors import."""


def contract() -> dict[str, Any]:
    return {
        "names": {module: _public_names(module) for module in PUBLIC} | {"paymaster.messages": _names_of_messages()},
        "messages": _messages(),
        "settings": _schema(_public("paymaster.settings", "Settings")),
        "workflows": _workflows(),
        "activities": _activities(),
        "task_queues": _constants("paymaster.messages", "_TASK_QUEUE"),
        "workflow_ids": _workflow_ids(),
        "error_types": _error_types(),
        "search_attributes": _search_attributes(),
        "metrics": _metrics(),
        "migrations": _migrations(),
        "commands": _commands(),
        "exit_codes": _constants("paymaster.cli.exits", "EXIT_", prefix=True),
    }


def written(found: dict[str, Any]) -> str:
    """Fields keep their order, of which the configuration's digest is made."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _public(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _public_names(module: str) -> list[str]:
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]
    return sorted(names)


def _names_of_messages() -> list[str]:
    """With its constants and unions."""
    found = importlib.import_module("paymaster.messages")
    return sorted(
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and not inspect.ismodule(value) and _is_ours(name, value)
    )


def _is_ours(name: str, value: object) -> bool:
    module = getattr(value, "__module__", "")
    return module.startswith("paymaster.messages") or (name[0].isupper() and module in ("", "typing"))


def _messages() -> dict[str, Any]:
    found = importlib.import_module("paymaster.messages")
    models = {
        name: value
        for name, value in vars(found).items()
        if inspect.isclass(value) and issubclass(value, BaseModel) and value.__module__.startswith("paymaster.messages")
    }
    return {name: _fields(model) for name, model in sorted(models.items())}


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Its JSON schema, in which other messages are only named, and which fields are left out at their default."""
    schema = _schema(model)
    schema.pop("$defs", None)
    left_out = [name for name, field in model.model_fields.items() if field.exclude_if is not None]
    return schema | ({"left_out_at_their_default": left_out} if left_out else {})


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Without what is only said to people."""
    return _without_words(model.model_json_schema())


def _without_words(schema: Any) -> Any:
    if isinstance(schema, dict):
        is_model = "properties" in schema or "type" in schema or "$ref" in schema or "anyOf" in schema
        words = ("title", "description") if is_model else ()
        return {
            name: _without_words(value)
            for name, value in schema.items()
            if not (name in words and isinstance(value, str))
        }
    return [_without_words(each) for each in schema] if isinstance(schema, list) else schema


def _workflows() -> dict[str, Any]:
    found: dict[str, Any] = {}
    modules = ("llm_call", "ledger", "usage_backlog", "stored_answers", "content_agent")
    for module in (f"workflows.{name}" for name in modules):
        for value in vars(importlib.import_module(module)).values():
            definition = getattr(value, "__temporal_workflow_definition", None)
            if definition is not None and value.__module__ == module:
                found[definition.name] = {
                    "input": [str(kind.__name__) for kind in definition.arg_types or ()],
                    "signals": sorted(filter(None, definition.signals)),
                    "updates": sorted(filter(None, definition.updates)),
                    "queries": sorted(filter(None, definition.queries)),
                }
    return dict(sorted(found.items()))


def _activities() -> list[str]:
    names: set[str] = set()
    for file in sorted((ROOT / "activities").glob("*.py")):
        for value in vars(importlib.import_module(f"activities.{file.stem}")).values():
            for _, method in inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else ():
                definition = getattr(method, "__temporal_activity_definition", None)
                if definition is not None:
                    names.add(definition.name)
    return sorted(names)


def _constants(module: str, mark: str, *, prefix: bool = False) -> dict[str, Any]:
    found = vars(importlib.import_module(module))
    return {
        name: value
        for name, value in sorted(found.items())
        if (name.startswith(mark) if prefix else name.endswith(mark))
    }


def _workflow_ids() -> dict[str, str]:
    names = ("call_workflow_id", "budget_workflow_id", "backlog_workflow_id")
    return {name: _public("paymaster.messages", name)("NAME") for name in names}


def _error_types() -> dict[str, str]:
    names = ("BILLED", "NOT_BILLED", "UNKNOWN_OUTCOME", "KEY_SOURCE_DOWN", "ENCRYPTED")
    return {name: str(_public("paymaster.messages", name)) for name in names}


def _search_attributes() -> dict[str, str]:
    return {
        key.name: str(key.indexed_value_type) for key in _public("paymaster.observability.search_attributes", "ALL")
    }


def _metrics() -> list[str]:
    """Every quoted name of an instrument in the code that makes them."""
    text = (ROOT / "paymaster" / "observability" / "measurements.py").read_text()
    text += (ROOT / "paymaster" / "observability" / "event_loop.py").read_text()
    return sorted(set(re.findall(r'"((?:paymaster|gen_ai)\.[a-z_.]+)"', text)))


def _migrations() -> dict[str, str]:
    """A migration that ran somewhere is never changed: what they make are the tables."""
    folder = ROOT / "migrations" / "versions"
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.py"))}


def _commands() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def add(command: Any, path: tuple[str, ...]) -> None:
        if isinstance(command, TyperGroup):
            for name in command.list_commands(None):  # pyright: ignore[reportArgumentType] - looks at none
                add(command.commands[name], (*path, name))
        found[" ".join(path)] = sorted(
            {option for parameter in command.params for option in (parameter.opts or [parameter.name])}
        )

    add(typer.main.get_command(_public("paymaster.cli", "app")), ("paymaster",))
    return dict(sorted(found.items()))


if __name__ == "__main__":
    FILE.write_text(written(contract()))
