"""The house's words: a docstring stands alone, and sentences that had to be decoded do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paymaster_process import ROOT

FOLDERS = ("paymaster", "workflows", "activities", "operations", "migrations")
PRODUCT = [ROOT / "worker.py", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
TESTS = sorted(
    path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py") if "released" not in path.parts
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

LEANS_ON_ANOTHER = re.compile(r"The same\b|As\b|…|\.\.\.")

REPLACED = (
    "called_in_any_case",
    "began anew; how many",
    "Who is not parked there asks nothing",
    "_still_ours",
    "the story goes on",
    "Ends here in a worker that was frozen",
    "As often at most as Temporal is told",
    "or a time that must come",
    "for how many holds at most",
    "but returns what is not completed too",
    "The same for a worker: starts the ledger",
    "so long it is not asked again",
    "for a known sum, and is of no use",
    "So many failures in a row",
    "What is less important is left out",
    "has all the calls at once that it may have",
    "a defect: {",
    "of a signed one its signer",
    "Bring back one that a newer one superseded",
    "a page with charts, which needs nothing else",
    "can every key be had?",
    "and of a provider's own tools",
    "for who has the token",
    "Whoever has it, is that admin",
    "an answer that is none",
)
"""Sentences and names that were replaced."""


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Each text that stands alone as a statement, of modules, classes, functions and fields, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield child.lineno, text.strip()
                case _:
                    pass


@pytest.mark.parametrize("path", [*PRODUCT, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_stand_alone(path: Path) -> None:
    assert [(line, text) for line, text in docstrings(path) if LEANS_ON_ANOTHER.match(text)] == []


def test_a_docstring_that_leans_on_another(tmp_path: Path) -> None:
    """The search above finds one wherever it is."""
    path = tmp_path / "leaning.py"
    path.write_text(
        'class A:\n    b = 1\n    """As a."""\n    def c(self):\n        """The same."""\n        """Assets."""\n'
    )
    assert [line for line, text in docstrings(path) if LEANS_ON_ANOTHER.match(text)] == [3, 5]


@pytest.mark.parametrize("sentence", REPLACED)
def test_replaced_sentences_are_gone(sentence: str) -> None:
    words = re.compile(r"[\s#|]+".join(map(re.escape, sentence.split())), re.IGNORECASE)
    assert [path for path in (*PRODUCT, *PAGES) if words.search(path.read_text())] == []
