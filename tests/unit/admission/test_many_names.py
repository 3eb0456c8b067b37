"""Many names under one template, of which few are active: what the ledger remembers follows those."""

import os
from collections import Counter
from collections.abc import Iterator
from random import Random
from statistics import mean

import pytest
from desk_kit import USD, Site, candidate, capped, config

from paymaster.admission.on_demand import FORGOTTEN_AFTER_MINUTES
from paymaster.messages import Window

NAMES = int(os.environ.get("MANY_NAMES", "60000"))
ACTIVE = 10_000
"""Within the time after which an unused name is forgotten."""
AT_ONCE = 50
"""Calls that come while one question to the database is under way."""
EVERY_MS = FORGOTTEN_AFTER_MINUTES * 60_000 // ACTIVE


def uses(random: Random) -> Iterator[int]:
    """Each name once, in random order, and one in twenty once more, some time later."""
    order = list(range(NAMES))
    random.shuffle(order)
    for number, name in enumerate(order):
        yield name
        if number % 20 == 0:
            yield order[random.randrange(number + 1)]


@pytest.mark.full
def test_memory_follows_who_is_active_and_no_name_passes_its_cap() -> None:
    """`MANY_NAMES=1000000` takes a few minutes."""
    random = Random(3)
    site = Site(config(budgets={"users/*": capped(day=3, total=5)}))
    stored: Counter[tuple[str, int]] = Counter()
    """By account and day, in dollars; the total is that of all days."""
    total: Counter[str] = Counter()
    accounts: list[int] = []
    sizes: list[int] = []
    names = list(uses(random))
    for start in range(0, len(names), AT_ONCE):
        for name in names[start : start + AT_ONCE]:
            site.now_ms += EVERY_MS
            site.reserve(candidate(usd=random.randint(1, 3)), budget=f"users/{name}", mode="fail")
        today = site.now_ms // 86_400_000
        while (wanted := site.desk.to_load()) is not None:
            posted: dict[str, dict[Window, int]] = {
                key: {"day": stored[key, today] * USD, "total": total[key] * USD} for key in wanted.accounts
            }
            site.load(posted)
        site.answers()
        for hold in list(site.desk.ledger.pending.values()):
            key, usd = f"budget:{hold.grant.budget}", hold.grant.bound_nanos // USD
            stored[key, today] += usd
            total[key] += usd
            assert stored[key, today] <= 3, f"{key} is above its cap"
            assert total[key] <= 5, f"{key} is above its cap"
            site.settle(hold.grant.hold_id, usd)
        site.new_alerts()
        if start % (ACTIVE * 2) == 0:
            site.cut()
            accounts.append(len(site.desk.ledger.accounts))
            sizes.append(len(site.desk.dump()))
    assert len(total) > 0.99 * NAMES
    assert max(accounts) <= 1.25 * ACTIVE
    assert max(sizes[2:]) <= 1.25 * min(sizes[2:])
    earlier, later = sizes[2 : len(sizes) // 2 + 1], sizes[len(sizes) // 2 + 1 :]
    assert mean(later) <= 1.05 * mean(earlier), "the state grows with the names that were ever used"
