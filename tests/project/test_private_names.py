"""Tests use the product as others may: by its public names, and by what it does."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from paymaster_process import ROOT

FOLDERS = ("paymaster", "workflows", "activities", "operations", "migrations")
PRODUCT = [ROOT / "worker.py", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
TESTS = sorted(
    path for path in (ROOT / "tests").rglob("*.py") if "released" not in path.parts and path != Path(__file__)
)
LEFT = {("tests/unit/admission/test_rules.py", "_UNIT")}
"""Of paymaster/admission: a rule that has no public name yet."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


@cache
def private_names() -> frozenset[str]:
    """Of everything in the product that has a name of its own: functions, classes, constants, attributes."""
    found: set[str] = set()
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
                case _:
                    pass
    return frozenset(filter(is_private, found))


def used_private_names(source: str, private: frozenset[str]) -> Iterator[tuple[int, str]]:
    """The private names that a module imports, takes from objects, or writes as a text for `setattr` and its like.

    What a class takes from itself is its own, unless it is derived from one of the product's.
    """
    tree = ast.parse(source)
    modules = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and _is_product(node.module or "")]
    imported = {alias.asname or alias.name for node in modules for alias in node.names}
    own = {
        id(node.value)
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef) and not any(_root(base) in imported for base in each.bases)
        for node in ast.walk(each)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    pieces = {id(piece) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if _is_product(module):
                yield from ((node.lineno, alias.name) for alias in names if is_private(alias.name))
            case ast.Attribute(value=value, attr=name) if name in private and id(value) not in own:
                yield node.lineno, name
            case ast.Constant(value=str(text)) if id(node) not in pieces and (
                (name := text.rpartition(".")[2]) in private and (text == name or _is_product(text))
            ):
                yield node.lineno, name
            case _:
                pass


def _is_product(module: str) -> bool:
    return module.partition(".")[0] in ("worker", *FOLDERS)


def _root(base: ast.expr) -> str | None:
    while isinstance(base, ast.Subscript | ast.Attribute):
        base = base.value
    return base.id if isinstance(base, ast.Name) else None


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_the_product(path: Path) -> None:
    where = str(path.relative_to(ROOT))
    used = used_private_names(path.read_text(), private_names())
    assert [(line, name) for line, name in used if (where, name) not in LEFT] == []


@pytest.mark.parametrize(("where", "name"), LEFT)
def test_what_is_left_is_still_there(where: str, name: str) -> None:
    assert name in {name for _, name in used_private_names((ROOT / where).read_text(), private_names())}


def test_no_check_of_private_names_is_off() -> None:
    assert "reportPrivateUsage" not in (ROOT / "pyproject.toml").read_text()
    exempt = "pyright: ignore[" + "reportPrivateUsage"
    assert [path for path in TESTS if exempt in path.read_text()] == []


def test_every_way_to_a_private_name_is_found() -> None:
    source = """
from paymaster.client import _ask, Ledger
from elsewhere import _theirs
monkeypatch.setattr(client, "_pause", 1)
monkeypatch.setattr("paymaster.client._pause", 1)
client._handle
class Own:
    def f(self):
        self._handle = other._handle
class Derived(Ledger):
    def f(self):
        return self._handle
"""
    found = used_private_names(source, frozenset({"_ask", "_pause", "_handle"}))
    assert sorted(found) == [(2, "_ask"), (4, "_pause"), (5, "_pause"), (6, "_handle"), (9, "_handle"), (12, "_handle")]
