"""A function does one thing: it fits on a screen."""

import ast
from pathlib import Path

import pytest
from paymaster_process import ROOT

FOLDERS = ("paymaster", "workflows", "activities", "operations", "migrations", "benchmarks")
PRODUCT = [ROOT / "worker.py", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
LINES_MAX = 50
LONGER = {("migrations/versions/0001_api_usage.py", "upgrade")}
"""A migration that has run somewhere stays as it is."""


def lengths(path: Path) -> dict[str, int]:
    """The lines of each function of a module, its decorators left out."""
    return {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    where = str(path.relative_to(ROOT))
    assert {
        name: lines for name, lines in lengths(path).items() if lines > LINES_MAX and (where, name) not in LONGER
    } == {}
