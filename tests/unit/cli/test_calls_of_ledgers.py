"""A command never takes another ledger's call for the one of that id in its own."""

import pytest
from command_line import Run


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize(
    ("options", "pasted", "of"),
    [((), "call@acme/article-7", "acme"), (("--ledger", "acme"), "call/article-7", "default")],
)
def test_the_workflow_id_of_another_ledgers_call_is_refused(
    run: Run, command: str, options: tuple[str, ...], pasted: str, of: str
) -> None:
    ended = run("calls", command, pasted, *options)
    assert ended.returncode != 0
    assert ended.stderr.rstrip().endswith(f"add --ledger {of}")
