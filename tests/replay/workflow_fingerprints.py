"""Fingerprints of workflows: the commands that each function issues, in the order of its source.

Temporal replays the recorded history of a running workflow against today's code. Code that issues other commands, or
these in another order, fails there for ever. workflow_fingerprints.json has those that the recorded histories were made
with; `make fingerprints` writes it anew.
"""

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from paymaster.messages import temporal_names

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_suffix(".json")
SOURCES = ("workflows/*.py", "paymaster/agent.py", "paymaster/agent_starts.py", "paymaster/purchases.py")

Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMMANDS = {
    *("execute_activity", "execute_local_activity", "start_activity", "start_local_activity"),
    *("execute_activity_method", "start_activity_method"),
    *("execute_local_activity_method", "start_local_activity_method"),
    *("execute_child_workflow", "start_child_workflow", "continue_as_new"),
    *("sleep", "timeout", "wait_for", "upsert_search_attributes", "upsert_memo"),
    *("patched", "deprecate_patch"),
}
"""Calls that issue a command, a timer's too, or mark a patch."""
_NAMELESS = {"sleep", "timeout", "wait_for", "continue_as_new", "upsert_search_attributes", "upsert_memo"}
"""Of those the ones whose arguments replay does not compare."""


def fingerprints(sources: Iterable[str]) -> dict[str, list[str]]:
    """By function, what it issues. Another function that issues something is there too where it is used, as → NAME,
    also one of a part: `self._holds.reserve` is Holds.reserve."""
    functions = [found for source in sources for found in _functions(ast.parse(source), "")]
    issuing: set[str] = set()
    while True:  # until nothing is found that uses what was found last
        found = {name: _issued(name, function, issuing) for name, function in functions}
        now = {name for name, issued in found.items() if issued}
        if now == issuing:
            return {name: issued for name, issued in found.items() if issued}
        issuing = now


def of_this_checkout() -> dict[str, list[str]]:
    return fingerprints(path.read_text() for pattern in SOURCES for path in sorted(ROOT.glob(pattern)))


def _functions(node: ast.AST, inside: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{child.name}.")
        elif isinstance(child, Function):
            yield f"{inside}{child.name}", child  # with the functions inside it


def _issued(function_name: str, function: Function, issuing: set[str]) -> list[str]:
    its_class = function_name.rpartition(".")[0]
    nodes = [node for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.expr)]
    handed_on = {node.func: _word(node) for node in nodes if isinstance(node, ast.Call)}
    found: list[tuple[int, int, str]] = []
    for node in nodes:
        line = _command(node) if isinstance(node, ast.Call) else _use(node, its_class, issuing)
        if line is not None:  # by its end: what is inside another call is called first
            found.append((node.end_lineno or 0, node.end_col_offset or 0, line + handed_on.get(node, "")))
    return [line for _, _, line in sorted(found)]


def _word(call: ast.Call) -> str:
    """The name of an activity, say, that is handed on to a function of ours."""
    match call.args:
        case [ast.Constant(value=str(word)), *_] if word.isidentifier():
            return f" {word}"
        case [ast.Name(id=constant), *_] if constant.isupper():
            name = getattr(getattr(temporal_names, constant, None), "name", None)
            return "" if name is None else f" {name}"
        case _:
            return ""


def _command(call: ast.Call) -> str | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in _COMMANDS or (name == "signal" and call.args) or (name == "cancel" and not call.args):
        return f"{name}({', '.join(_compared(call, name))})"
    timeout = _keyword(call, "timeout")
    if name == "wait_condition" and timeout:
        return f"timer({timeout})"
    return None


def _compared(call: ast.Call, name: str) -> Iterator[str]:
    """What replay compares: the name of what is started or told, and the id of a child."""
    if call.args and name not in _NAMELESS:
        yield _name(call.args[0])
    for keyword in ("workflow", "activity", "id"):
        if value := _keyword(call, keyword):
            yield f"{keyword}={value}"


def _name(argument: ast.expr) -> str:
    """The first argument as it is written, or the name that a typed name stands for."""
    match argument:
        case ast.Attribute(value=ast.Name(id=constant), attr="name") if hasattr(temporal_names, constant):
            return repr(getattr(temporal_names, constant).name)
        case _:
            return ast.unparse(argument)


def _keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


def _use(node: ast.AST, its_class: str, issuing: set[str]) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="self"), attr=name) if f"{its_class}.{name}" in issuing:
            return f"→ {name}"
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"), attr=part), attr=name) if (
            f"{part.strip('_').title()}.{name}" in issuing
        ):
            return f"→ {part.strip('_').title()}.{name}"
        case ast.Name(id=name) if name in issuing:
            return f"→ {name}"
        case _:
            return None


if __name__ == "__main__":
    BASELINE.write_text(json.dumps(of_this_checkout(), indent=1, ensure_ascii=False) + "\n")
