"""A plain model of the usage database, for tests: the rows in a list, and everything added up from them in Python."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from records import usual_entry

from paymaster.messages import UsageEntry
from paymaster.values.budget_path import accounts_charged
from paymaster.values.money import TokenUsage

_BUDGETS = [("acme/content",), ("acme",), ("other/a", "customers/7"), ("acme/content/x", "customers/8", "projects/x")]
KeyT = TypeVar("KeyT")
_DAY = timedelta(days=1)


def made_up_rows(ledger: str, first: datetime, days: int, calls: int, seed: int) -> list[UsageEntry]:
    """Calls of many days: some with a second attempt, some unconfirmed, some of these resolved, some of a run."""
    made = random.Random(seed)
    rows: list[UsageEntry] = []
    for number in range(calls):
        call = f"{ledger}-{seed}-{number}"
        budget, *further = made.choice(_BUDGETS)
        granted_at = first + days * _DAY * made.random()
        own: dict[str, object] = {
            "ledger": ledger,
            "call_id": call,
            "workflow_id": f"call/{call}",
            "run_id": call,
            "hold_id": f"{call}/1",
            "attempt_id": f"{call}/1/1",
            "budget": budget,
            "further_budgets": tuple(further),
            "service": made.choice(["openai", "azure"]),
            "model": made.choice(["luna", "sol"]),
            "run": made.choice([None, f"nightly@{number % 7}", f"nightly@{number % 7}/part"]),
            "metadata": {"team": made.choice(["blue", "red"])},
            "granted_at_ms": round(granted_at.timestamp() * 1000),
            "usage": made.choice([None, TokenUsage(input_tokens=number, output_tokens=3)]),
            "cost_nanos": made.choice([0, 1, 10**12 + number]),
        }
        entry = UsageEntry.model_validate(usual_entry(number) | own)
        match made.choice(["once", "once", "twice", "unconfirmed", "unsure after all", "resolved"]):
            case "once":
                rows.append(entry)
            case "twice":
                failed = {"attempt_id": f"{call}/1/2", "status": "failed", "cost_nanos": 5}
                rows += [entry, entry.model_copy(update=failed)]
            case "unconfirmed":
                rows.append(entry.model_copy(update={"state": "unconfirmed"}))
            case "unsure after all":
                again = {"attempt_id": f"{call}/1/2", "state": "unconfirmed"}
                rows += [entry.model_copy(update={"status": "failed", "cost_nanos": 3}), entry.model_copy(update=again)]
            case _:
                rows += [entry.model_copy(update={"state": "unconfirmed", "cost_nanos": 7}), entry]
    return rows


class PlainUsage:
    """What was ever stored, each attempt and state once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], UsageEntry] = {}

    def store(self, rows: Iterable[UsageEntry]) -> None:
        for row in rows:
            self._rows.setdefault((row.attempt_id, row.state), row)

    @property
    def all_rows(self) -> list[UsageEntry]:
        return list(self._rows.values())

    def counted(self, since: datetime | None = None) -> list[UsageEntry]:
        """The rows that count, granted at that time or later."""
        start_ms = 0 if since is None else round(since.timestamp() * 1000)
        return [
            row
            for (attempt_id, state), row in self._rows.items()
            if row.granted_at_ms >= start_ms and (state == "final" or (attempt_id, "final") not in self._rows)
        ]

    def posted(self, since: datetime | None = None) -> Counter[str]:
        """What each account has spent, in nano-dollars."""
        posted: Counter[str] = Counter()
        for row in self.counted(since):
            posted.update(dict.fromkeys(_accounts(row), row.cost_nanos))
        return posted

    def runs(self) -> dict[str, tuple[int, int]]:
        """By account of a run, its calls, and when the first of them was granted."""
        of_runs: dict[str, list[UsageEntry]] = {}
        for row in self.counted():
            for account in _accounts(row):
                if account.startswith("run:"):
                    of_runs.setdefault(account, []).append(row)
        return {
            account: (len({row.run_id for row in rows}), min(row.granted_at_ms for row in rows))
            for account, rows in of_runs.items()
        }

    def unconfirmed(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for row in self.counted():
            if row.state == "unconfirmed":
                found.update(dict.fromkeys(_accounts(row), 1))
        return found

    def report(self, key: Callable[[UsageEntry], KeyT], since: datetime | None = None) -> dict[KeyT, tuple[int, ...]]:
        """By key: calls, attempts, input tokens, cost and its unconfirmed part. All attempts of a call have one key."""
        groups: dict[KeyT, list[UsageEntry]] = {}
        for row in self.counted(since):
            groups.setdefault(key(row), []).append(row)
        return {each: _figures(rows) for each, rows in groups.items()}


def day_of(row: UsageEntry) -> object:
    return datetime.fromtimestamp(row.granted_at_ms / 1000, UTC).date()


def _accounts(row: UsageEntry) -> tuple[str, ...]:
    return accounts_charged(row.budgets, row.service, row.run)


def _figures(rows: Sequence[UsageEntry]) -> tuple[int, ...]:
    return (
        len({row.run_id for row in rows}),
        len(rows),
        sum(row.usage.input_tokens for row in rows if row.usage is not None),
        sum(row.cost_nanos for row in rows),
        sum(row.cost_nanos for row in rows if row.state == "unconfirmed"),
    )
