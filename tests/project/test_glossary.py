"""docs/glossary.md: every word once, in the order of the alphabet, in one sentence that stands alone."""

import re

from paymaster_process import ROOT

WORDS = [
    "account",
    "approver",
    "attempt",
    "bound",
    "budget",
    "call",
    "candidate",
    "cap",
    "client",
    "desk",
    "endpoint",
    "entry",
    "epoch",
    "expire",
    "gateway",
    "generation",
    "grant",
    "hold",
    "ledger",
    "line",
    "model",
    "operation",
    "overage",
    "park",
    "pool",
    "post",
    "prune",
    "purchase",
    "route",
    "run",
    "service",
    "short",
    "transport",
    "unconfirmed",
    "void",
    "window",
]


def glossary() -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "glossary.md").read_text()
    return re.findall(r"^\| (\w+) \| (.+) \|$", page, re.MULTILINE)[1:]


def test_it_has_every_word() -> None:
    assert [word for word, _ in glossary()] == WORDS


def test_each_has_one_sentence() -> None:
    for word, sentence in glossary():
        assert re.fullmatch(r"[A-Z`][^.]*(\.[^ ][^.]*)*\.", sentence), word


def test_pages_lead_to_it() -> None:
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()
    assert "(glossary.md)" in (ROOT / "docs" / "architecture.md").read_text()
