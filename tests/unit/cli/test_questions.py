"""What an admin is asked before a cap changes: where it is more likely a slip than meant."""

import io

import pytest
import typer
from console_pages import USD, account, window

from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.questions import Doubt, ask, far_above, new_account


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("cap", "by", "asked"),
    [(20, 5, False), (20, 200, False), (20, 201, True), (0.5, 9.99, False), (0.5, 10, True), (0, 10, True)],
)
def test_a_cap_far_above_what_it_was_is_asked_about(cap: float, by: float, *, asked: bool) -> None:
    """More than ten times as much, from ten dollars on."""
    status = account("budget:acme", window("day", cap, 0), window("month", 10**6, 0))
    doubt = far_above(status, "day", int(by * USD))
    assert (doubt is not None) == asked
    assert far_above(status, "week", int(by * USD)) is None, "it has no such cap"


def test_the_question_has_both_amounts() -> None:
    doubt = far_above(account("budget:acme", window("day", 20, 0)), "day", 10**6 * USD)
    assert doubt is not None
    assert doubt.text == "$1,000,000.00, 50,000 times as much: the day cap of budget:acme is $20.00 now"


def test_a_new_account_is_told_with_what_may_be_meant() -> None:
    names = ["budget:acme/content", "budget:acme/research", "budget:other"]
    assert new_account("budget:acme/contents", names) == Doubt(
        "acme/contents is a new account; did you mean acme/content?", is_slip=True
    )
    assert new_account("budget:zoo", names) == Doubt("zoo is a new account", is_slip=False)
    assert new_account("service:opnai", names) is None, "which the ledger refuses"


@pytest.mark.parametrize(("answer", "code"), [("y\n", None), ("n\n", EXIT_NO), ("\n", EXIT_NO)])
def test_at_a_terminal_somebody_is_asked(monkeypatch: pytest.MonkeyPatch, answer: str, code: int | None) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    if code is None:
        ask(Doubt("far above", is_slip=True))
        return
    with pytest.raises(typer.Exit) as exited:
        ask(Doubt("far above", is_slip=False))
    assert exited.value.exit_code == code


def test_without_a_terminal_a_slip_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(CommandError, match="if it is meant, give --yes"):
        ask(Doubt("far above", is_slip=True))
    ask(Doubt("zoo is a new account", is_slip=False))
    assert "zoo is a new account" in capsys.readouterr().err
