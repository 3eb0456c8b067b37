"""The table "Questions first" of docs/architecture.md names what exists."""

import ast
import re
from pathlib import Path

import pytest
from paymaster_process import ROOT


def rows() -> list[list[str]]:
    """The files, names and tests of each row."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("### Questions first")[2].partition("\n\nWhat others")[0]
    return [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| ") and "`" in line]


def names_in(path: Path) -> set[str]:
    """Functions, also of classes, and constants."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return functions | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_it_has_its_rows() -> None:
    assert len(rows()) >= 10


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[-1]}")
def test_what_it_names_exists(row: list[str]) -> None:
    """Each name is in the file that stands before it."""
    there: set[str] = set()
    for word in row:
        if word.endswith(".py"):
            there = (there if not word.startswith("tests/") else set()) | names_in(ROOT / word)
        else:
            assert word in there, word
