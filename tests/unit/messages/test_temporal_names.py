"""Temporal's names: each stands in one place, and goes with the types that its activity or handler has."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

import pytest
from paymaster_process import ROOT
from temporalio.common import RawValue

from paymaster.messages import temporal_names
from paymaster.messages.temporal_names import ActivityName, QueryName, SignalName, UpdateName, WorkflowName
from workflows.holds import Holds

FOLDERS = ("paymaster", "workflows", "activities", "operations")
PRODUCT = [ROOT / "worker.py", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
TYPED = {
    constant: value
    for constant, value in vars(temporal_names).items()
    if isinstance(value, ActivityName | QueryName | SignalName | UpdateName | WorkflowName)
}
NAMES = {value.name for value in TYPED.values()} | {temporal_names.CONTENT_AGENT_WORKFLOW, temporal_names.SCRIPTED_CALL}
OWN_WORDS = {name for name in NAMES if "_" in name or "Workflow" in name}
"""Those that mean nothing else; of the others, such as `apply`, only a use in a call of Temporal's is one."""
ASK_TEMPORAL = {
    *("execute_activity", "execute_local_activity", "start_activity", "start_local_activity"),
    *("execute_update", "start_update", "signal", "query", "defn", "update"),
    *("start_workflow", "execute_workflow", "start_child_workflow", "execute_child_workflow"),
    *("update_once", "update_until_answered", *(f"_{name}" for name in ("command", "query", "activity"))),
}


def texts_named_like_temporal(source: str) -> Iterator[tuple[int, str]]:
    """The texts of a module that are one of Temporal's names, with their lines; docstrings are no code."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docs and (
                text in OWN_WORDS or any(name in text for name in OWN_WORDS if "Workflow" in name)
            ):
                yield node.lineno, text
            case ast.Call(func=ast.Attribute(attr=asked) | ast.Name(id=asked)) if asked in ASK_TEMPORAL:
                named = (keyword.value for keyword in node.keywords if keyword.arg in ("name", "start_signal"))
                for argument in (*node.args[:2], *named):
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield node.lineno, argument.value
            case _:
                pass


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_of_temporals_is_a_text_elsewhere(path: Path) -> None:
    if path == Path(temporal_names.__file__):
        return
    assert list(texts_named_like_temporal(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        'await handle.query("waiting")',
        'await handle.execute_update(name, "apply")',
        'start(start_workflow("x", start_signal="add"))',
        '@workflow.signal(name="add")\ndef f(): ...',
        "RUNNING = 'WorkflowType = \"LLMCallWorkflow\"'",
        'case = "call_service"',
    ],
)
def test_such_a_text_is_found(line: str) -> None:
    assert list(texts_named_like_temporal(line))


def activities() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted((ROOT / "activities").glob("*.py")):
        for value in vars(importlib.import_module(f"activities.{file.stem}")).values():
            for _, method in inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else ():
                definition = getattr(method, "__temporal_activity_definition", None)
                if definition is not None:
                    found[definition.name] = method
    return found


def workflows() -> dict[str, Any]:
    modules = [importlib.import_module(f"workflows.{file.stem}") for file in sorted((ROOT / "workflows").glob("*.py"))]
    classes = [value for module in modules for value in vars(module).values() if inspect.isclass(value)]
    definitions = [getattr(each, "__temporal_workflow_definition", None) for each in classes]
    return {definition.name: definition for definition in definitions if definition is not None}


def types_of(function: Any) -> tuple[Any, Any]:
    """Of its first argument behind `self`, and of its result; NoneType without any."""
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    result = hints.pop("return")
    return next(iter(hints.values()), NoneType), result


def test_task_queues_have_the_names_that_agents_call() -> None:
    queues = (temporal_names.CALLS_TASK_QUEUE, temporal_names.LEDGER_TASK_QUEUE, temporal_names.ACTIVITIES_TASK_QUEUE)
    assert queues == ("paymaster", "paymaster-ledger", "paymaster-activities")


QUEUES_OF = (
    temporal_names.calls_task_queue,
    temporal_names.ledger_task_queue,
    temporal_names.activities_task_queue,
    temporal_names.nexus_task_queue,
)


def test_the_default_ledger_has_the_names_of_0_1_0() -> None:
    """Its callers, histories and running calls go on."""
    queues = ["paymaster", "paymaster-ledger", "paymaster-activities", "paymaster-nexus"]
    assert [queue_of("default") for queue_of in QUEUES_OF] == queues
    assert temporal_names.call_workflow_id("article/1") == "call/article/1"
    assert temporal_names.call_workflow_id("article/1", "default") == "call/article/1"
    assert temporal_names.purchase_workflow_id("7", "default") == "purchase/7"


def test_other_ledgers_have_names_of_their_own() -> None:
    queues = ["paymaster@acme", "paymaster-ledger@acme", "paymaster-activities@acme", "paymaster-nexus@acme"]
    assert [queue_of("acme") for queue_of in QUEUES_OF] == queues
    assert temporal_names.call_workflow_id("article/1", "acme") == "call@acme/article/1"
    assert temporal_names.purchase_workflow_id("7", "acme") == "purchase@acme/7"


LEDGERS = ("default", "acme", "ledger", "activities", "nexus", "call", "a-b", "0", "-")
"""Names that look like a part of others, too."""
CALL_IDS = ("1", "article/1", "call/1", "call@acme/1", "@acme/1", "acme/1", "purchase/1", "purchase@acme/1", "/", "~g2")


def test_no_two_ledgers_share_a_name() -> None:
    queues = [queue_of(ledger) for queue_of in QUEUES_OF for ledger in LEDGERS]
    assert len(set(queues)) == len(queues)
    ids = [temporal_names.call_workflow_id(call_id, ledger) for call_id in CALL_IDS for ledger in LEDGERS]
    bought = [temporal_names.purchase_workflow_id(call_id, ledger) for call_id in CALL_IDS for ledger in LEDGERS]
    assert len({*ids, *bought}) == len(ids) + len(bought)


@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_name_leads_back_to_its_ledger_and_its_call(ledger: str) -> None:
    assert {temporal_names.ledger_of_task_queue(queue_of(ledger)) for queue_of in QUEUES_OF} == {ledger}
    for call_id in CALL_IDS:
        workflow_id = temporal_names.call_workflow_id(call_id, ledger)
        assert temporal_names.is_call(workflow_id)
        assert temporal_names.ledger_of_call(workflow_id) == ledger
        assert temporal_names.call_id_of(workflow_id) == call_id
        bought = temporal_names.purchase_workflow_id(call_id, ledger)
        assert not temporal_names.is_call(bought)
        assert temporal_names.call_id_of(bought) == f"purchase/{call_id}", "as its rows have it"


@pytest.mark.parametrize("workflow_id", ["article/1", "calls", "callers/1", "an agent", "caller@acme/1", ""])
def test_the_id_of_another_workflow_is_no_calls(workflow_id: str) -> None:
    assert not temporal_names.is_call(workflow_id)
    assert temporal_names.call_id_of(workflow_id) == workflow_id


@pytest.mark.parametrize("ledger", LEDGERS)
def test_rows_of_a_purchase_are_told_by_their_call_id(ledger: str) -> None:
    """Also those of calls that would be taken for purchases, which nobody may make."""
    has_rows = temporal_names.has_purchases_rows
    assert all(has_rows(temporal_names.purchase_workflow_id(call_id, ledger)) for call_id in CALL_IDS)
    taken = [call_id for call_id in CALL_IDS if has_rows(temporal_names.call_workflow_id(call_id, ledger))]
    assert taken == ["purchase/1"]
    assert has_rows("purchase/1")
    assert not has_rows("purchases/1")


def test_own_workers_are_known_by_their_queues_in_every_ledger() -> None:
    for queue_of in QUEUES_OF[:3]:
        assert all(temporal_names.is_own_task_queue(queue_of(ledger)) for ledger in LEDGERS)
    assert not any(map(temporal_names.is_own_task_queue, ("agents", "agents@acme", "", "paymasters", "paymaster/acme")))


def names_without_a_ledger(source: str) -> Iterator[tuple[int, str]]:
    """Where a module takes a name of the default ledger's without having asked which ledger it is about."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name.endswith("_TASK_QUEUE"):
                yield node.lineno, name
            case ast.Call(func=ast.Name(id="call_workflow_id"), args=[_], keywords=[]):
                yield node.lineno, "call_workflow_id"
            case _:
                pass


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_product_names_the_ledger_wherever_it_asks(path: Path) -> None:
    if path == Path(temporal_names.__file__) or path.name == "first_agent.py":  # whose queue is the agent's own
        return
    assert list(names_without_a_ledger(path.read_text())) == []


@pytest.mark.parametrize("line", ["start(task_queue=CALLS_TASK_QUEUE)", "handle(call_workflow_id(call_id))"])
def test_a_name_without_a_ledger_is_found(line: str) -> None:
    assert list(names_without_a_ledger(line))


@pytest.mark.parametrize("name", [value for value in TYPED.values() if isinstance(value, ActivityName)])
def test_an_activity_has_the_types_of_its_name(name: ActivityName[Any, Any]) -> None:
    """But those that agents call take and give what no converter of theirs has touched."""
    assert_types(types_of(activities()[name.name]), name)


def assert_types(
    found: tuple[Any, Any], name: ActivityName[Any, Any] | UpdateName[Any, Any] | WorkflowName[Any, Any]
) -> None:
    named = (name.argument, name.result)
    assert tuple(said if each is RawValue else each for each, said in zip(found, named, strict=True)) == named


def test_every_activity_has_a_typed_name() -> None:
    assert activities().keys() == {value.name for value in TYPED.values() if isinstance(value, ActivityName)}


@pytest.mark.parametrize("name", [value for value in TYPED.values() if isinstance(value, UpdateName)])
def test_an_update_has_the_types_of_its_name(name: UpdateName[Any, Any]) -> None:
    [handler] = [each.updates[name.name].fn for each in workflows().values() if name.name in each.updates]
    argument, result = types_of(handler)
    assert_types((NoneType if argument is object else argument, result), name)


def test_every_update_has_a_typed_name() -> None:
    updates = {update for each in workflows().values() for update in each.updates if update}
    assert updates == {value.name for value in TYPED.values() if isinstance(value, UpdateName)}


@pytest.mark.parametrize("name", [value for value in TYPED.values() if isinstance(value, QueryName)])
def test_a_query_has_the_types_of_its_name(name: QueryName[Any, Any]) -> None:
    handlers = [each.queries[name.name].fn for each in workflows().values() if name.name in each.queries]
    assert handlers
    for argument, result in map(types_of, handlers):
        assert name.argument in (argument, *getattr(argument, "__args__", ()))
        assert result == name.result


@pytest.mark.parametrize("name", [value for value in TYPED.values() if isinstance(value, SignalName)])
def test_a_signal_is_read_as_the_type_of_its_name(name: SignalName[Any]) -> None:
    """Its handler gets it as it came, and decodes it as that type."""
    handlers = [each.signals[name.name].fn for each in workflows().values() if name.name in each.signals]
    assert handlers
    for handler in handlers:
        assert types_of(handler)[0] is (NoneType if name.argument is NoneType else RawValue)
        source = inspect.getsource(inspect.unwrap(handler))
        if handed_on := re.search(r"self\._holds\.(\w+)\(signal\)", source):
            source = inspect.getsource(getattr(Holds, handed_on[1]))
        constant = next(each for each, value in TYPED.items() if value is name)
        assert name.argument is NoneType or name.argument.__name__ in source or constant in source


def test_every_signal_has_a_typed_name() -> None:
    signals = {signal for each in workflows().values() for signal in each.signals if signal}
    typed = {value.name for value in TYPED.values() if isinstance(value, SignalName)}
    assert signals - typed == {signal.name for signal in ledger_signals() if isinstance(signal, UpdateName)}


def ledger_signals() -> tuple[Any, ...]:
    return importlib.import_module("workflows.ledger").SIGNALS


@pytest.mark.parametrize("name", [value for value in TYPED.values() if isinstance(value, WorkflowName)])
def test_a_workflow_has_the_types_of_its_name(name: WorkflowName[Any, Any]) -> None:
    """But a call is read and answered by its workflow itself, which answers also what is no request."""
    assert_types(types_of(workflows()[name.name].run_fn), name)
