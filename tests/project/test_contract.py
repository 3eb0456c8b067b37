"""Nothing that others depend on changes unseen: names, messages, commands, tables; see tests/project/contract.py."""

import difflib

from tests.project.contract import FILE, contract, written


def test_what_others_depend_on_is_as_written_down() -> None:
    before, now = FILE.read_text(), written(contract())
    changes = [
        line
        for line in difflib.unified_diff(before.splitlines(), now.splitlines(), n=0, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    assert not changes, "if this breaks nobody: `make contract`\n" + "\n".join(changes)
