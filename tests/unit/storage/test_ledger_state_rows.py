"""A new epoch reads only the cap changes that still matter, and has the caps that all of them give."""

import random

import pytest
from desk_kit import DAY, NOON, USD, Site, capped, config

from paymaster.messages import CapChange, LoadedSpend
from paymaster.storage.engine import create_engine
from paymaster.storage.ledger_state_rows import insert_cap_changes, load_spend
from paymaster.values.windows import WINDOWS

FILE = config(budgets={"acme": capped(day=5), "other": capped(total=7)})


def random_changes(chance: random.Random) -> list[CapChange]:
    """Raises, caps that are set, and ends of both, beside values that the file had and has."""
    changes: list[CapChange] = []
    for sequence in range(1, 61):
        to, kind = chance.randint(1, 99) * USD, chance.choice(["set", "set", "raise", "raise", "lapsing", "ended"])
        change = CapChange(
            sequence=sequence,
            at_ms=NOON - chance.randint(0, DAY),
            account=chance.choice(["budget:acme", "budget:other", "budget:opened"]),
            window=chance.choice(("day", "total")),
            from_nanos=USD,
            to_nanos=None if kind == "ended" else to,
            by_nanos=to if kind in ("raise", "lapsing") else None,
            file_nanos=chance.choice([None, 5 * USD, 7 * USD]),
            until_window_end=kind == "lapsing",
            who="ada",
            reason="because" * 20,
            by_file=kind == "ended",
        )
        changes.append(change)
    return changes


def caps(changes: tuple[CapChange, ...]) -> dict[str, list[int | None]]:
    site = Site(FILE, load=False, epoch="two")
    wanted = site.desk.to_load()
    assert wanted is not None
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={}, cap_changes=changes, config=FILE), site.now_ms)
    accounts = site.desk.ledger.accounts.items()
    return {key: [account.balances[window].cap_nanos for window in WINDOWS] for key, account in accounts}


@pytest.mark.timeout(120)
async def test_the_cap_changes_that_are_read_give_all_caps(database_url: str) -> None:
    """Forty ledgers with sixty random changes each; about a third is read, without the texts of people."""
    engine = create_engine(database_url)
    wanted = Site(FILE, load=False, epoch="two").desk.to_load()
    assert wanted is not None
    read = 0
    for seed in range(40):
        changes = random_changes(random.Random(seed))
        await insert_cap_changes(engine, f"ledger-{seed}", "one", changes)
        loaded = await load_spend(engine, wanted.model_copy(update={"ledger": f"ledger-{seed}"}))
        read += len(loaded.cap_changes)
        assert caps(loaded.cap_changes) == caps(tuple(changes)), f"seed {seed}"
        assert {change.reason for change in loaded.cap_changes} == {""}
    assert read < 40 * 60 / 2
    await engine.dispose()
