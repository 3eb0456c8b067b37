"""Records the state of a ledger of a released version, for `unit/admission/test_old_state.py`: once, at its release.

`PYTHONPATH=CHECKOUT:CHECKOUT/tests/admission .venv/bin/python -P tests/released/record_ledger.py VERSION`, with a
checkout of that version.
The first commands of `recorded_commands.json`, and then a budget that is being read from the database.
"""

import json
import sys
from pathlib import Path

import test_rules as recorded  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).parent
RECORDED = FOLDER.parent / "support" / "recorded_commands.json"
COMMANDS = 150


def record(version: str) -> None:
    lines = json.loads(RECORDED.read_text())["commands"][:COMMANDS]
    site = recorded.Site(recorded.configuration(1), recorded.NOON)
    for at_ms, what, *arguments in lines:
        site.now_ms = at_ms
        recorded._do(site, what, arguments)
    site.set_cap("7", "budget:opened", "month")
    assert site.desk.to_load() is not None
    (FOLDER / f"ledger-{version}.txt").write_text(site.desk.dump() + "\n")
    facts = {
        "now_ms": site.now_ms,
        "holds": sorted(site.desk.ledger.holds),
        "parked": sorted(site.desk.state.parked),
        "balances": {
            f"{key} {window}": [balance.cap_nanos, balance.posted_nanos, balance.pending_nanos]
            for key, account in sorted(site.desk.ledger.accounts.items())
            for window, balance in account.balances.items()
        },
    }
    written = ",\n".join(f"{json.dumps(name)}: {json.dumps(fact)}" for name, fact in facts.items())
    (FOLDER / f"ledger-{version}.json").write_text(f"{{{written}}}\n")
    print(f"{version}: {len(site.desk.dump())} bytes, {len(facts['holds'])} holds, {len(facts['parked'])} parked")


if __name__ == "__main__":
    record(sys.argv[1])
