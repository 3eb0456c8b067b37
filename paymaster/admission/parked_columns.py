"""The parked calls as columns that are small and quick to read: ten thousand of them differ in little but their ids.

What many have in common is in tables, and a call has its number there: of a list of candidates, each of which has its
number in a table of its own, because requests of different lengths have the same models at the same prices. Times are
written as their distance from when the call was parked, which is written as its distance from when the one before it
was.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic_core import from_json

from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.tables import Table
from paymaster.admission.uuid_column import hold_id_of, ids_of, number_or_id, uuid_column
from paymaster.messages import Candidate, Reserve
from paymaster.values.money import Price

Columns = dict[str, Any]
Waits = tuple[frozenset[str], frozenset[str], tuple[tuple[str, str | None], ...]]
"""What a call waits for: `waits_for`, `keeps` and `waits` of a ParkedCall."""

_CANDIDATES = TypeAdapter(list[Candidate])
_PRICES = TypeAdapter(list[Price])
_USUAL_REST = (None, 0, None, None, False, 1, None, False, False)
"""Of most candidates: the context, the tokens of media, why it is refused, its counted tokens; that it shares no load,
its weight, that it is for always, no purchase, and not to be counted. A row ends before the last of these that are
usual."""
_RESERVES = TypeAdapter(list[Reserve])
_NOTHING = frozenset[str]()


class _Row(NamedTuple):
    """The numbers of one call; the first four are those of its values in the tables."""

    candidates: int
    budget: int
    mode: int
    waits: int
    priority: int
    input_bytes: int
    sequence: int
    parked_ms: int
    asked_ms: int
    deadline_ms: int
    retry_ms: int | None
    busy_ms: int | None
    open_ms: int | None


class _Candidates:
    """Lists of candidates, and the candidates and prices in them, each once."""

    def __init__(self) -> None:
        self._lists, self._candidates = Table[tuple[int, ...]](), Table[tuple[object, ...]]()
        self._prices = Table[str]()
        self._known_lists: dict[int, int] = {}
        self._known_prices: dict[int, int] = {}
        """By their identity, because to compare two takes longer than all else; the calls keep them alive."""

    def number(self, candidates: tuple[Candidate, ...]) -> int:
        known = self._known_lists.get(id(candidates))
        if known is None:
            known = self._lists.number(tuple([self._candidate(each) for each in candidates]))
            self._known_lists[id(candidates)] = known
        return known

    def columns(self) -> Columns:
        return {
            "candidates": self._lists.values(),
            "candidate_rows": self._candidates.values(),
            "prices": [from_json(each) for each in self._prices.values()],
        }

    def _candidate(self, each: Candidate) -> int:
        price = None if each.price is None else self._price(each.price)
        row = (each.service, each.model, each.max_output_tokens, price)
        rest = (each.context_tokens, each.media_tokens, each.refused, each.counted_tokens)
        rest += (each.shares, each.weight, each.short_below, each.purchase, each.countable)
        told = next((n for n in range(len(rest), 0, -1) if rest[n - 1] != _USUAL_REST[n - 1]), 0)
        return self._candidates.number(row + rest[:told])

    def _price(self, price: Price) -> int:
        known = self._known_prices.get(id(price))
        if known is None:
            known = self._known_prices[id(price)] = self._prices.number(price.model_dump_json(exclude_defaults=True))
        return known


def _lists_of_candidates(columns: Columns) -> list[tuple[Candidate, ...]]:
    prices = _PRICES.validate_python(columns["prices"])
    each = _CANDIDATES.validate_python([_candidate_of(row, prices) for row in columns["candidate_rows"]])
    lists: list[list[int]] = columns["candidates"]
    return [tuple([each[number] for number in numbers]) for numbers in lists]


def _candidate_of(row: Sequence[Any], prices: Sequence[Price]) -> dict[str, Any]:
    service, model, max_output_tokens, price, *rest = row
    rest = (*rest, *_USUAL_REST[len(rest) :])
    context_tokens, media_tokens, refused, counted_tokens, shares, weight, short_below, purchase, countable = rest
    return {
        "service": service,
        "model": model,
        "max_output_tokens": max_output_tokens,
        "price": None if price is None else prices[price],
        "context_tokens": context_tokens,
        "media_tokens": media_tokens,
        "refused": refused,
        "counted_tokens": counted_tokens,
        "shares": shares,
        "weight": weight,
        "short_below": short_below,
        "purchase": purchase,
        "countable": countable,
    }


def parked_columns(parked: Mapping[str, ParkedCall]) -> Columns:
    calls = list(parked.values())
    candidates, budgets, modes = _Candidates(), Table[str | tuple[str, ...]](), Table[str]()
    waits = Table[tuple[object, ...]]()
    rows: list[_Row] = []
    parked_at_ms = sequence = 0
    for call in calls:
        asked, at_ms = call.reserve, call.parked_at_ms
        row = _Row(
            candidates=candidates.number(asked.candidates),
            budget=budgets.number(asked.budgets if asked.further_budgets else asked.budget),
            mode=modes.number(asked.on_exhausted),
            waits=waits.number((tuple(sorted(call.waits_for)), tuple(sorted(call.keeps)), call.waits)),
            priority=asked.priority,
            input_bytes=asked.input_bytes,
            sequence=call.sequence - sequence,
            parked_ms=at_ms - parked_at_ms,
            asked_ms=asked.asked_at_ms - at_ms,
            deadline_ms=asked.deadline_at_ms - at_ms,
            retry_ms=_minus(call.retry_at_ms, at_ms),
            busy_ms=_minus(call.busy_since_ms, at_ms),
            open_ms=_minus(call.open_since_ms, at_ms),
        )
        rows.append(row)
        parked_at_ms, sequence = at_ms, call.sequence
    return {
        "run_ids": uuid_column([call.reserve.call.run_id for call in calls]),
        "workflow_ids": uuid_column([call.reserve.call.workflow_id for call in calls]),
        "holds": [number_or_id(call.reserve.hold_id, call.reserve.call.run_id) for call in calls],
        "details": [call.detail for call in calls],
        "runs": [_run_row(call.reserve) for call in calls] if any(map(_run_row, (c.reserve for c in calls))) else [],
        "rows": list(zip(*rows, strict=True)),
        "counting": {
            str(number): call.counts_until_ms - call.parked_at_ms
            for number, call in enumerate(calls)
            if call.counts_until_ms is not None
        },
        **candidates.columns(),
        "budgets": budgets.values(),
        "modes": modes.values(),
        "waits": waits.values(),
    }


def parked_calls(columns: Columns) -> dict[str, ParkedCall]:
    rows = list(map(_Row._make, zip(*columns["rows"], strict=True)))
    waits: list[Waits] = [
        (frozenset[str](waits_for), frozenset[str](keeps) if keeps else _NOTHING, tuple(map(tuple, each)))
        for waits_for, keeps, each in columns["waits"]
    ]
    calls: dict[str, ParkedCall] = {}
    counting: dict[str, int] = columns.get("counting", {})
    parked_at_ms = sequence = 0
    for number, (reserve, row, detail) in enumerate(
        zip(_reserves(columns, rows), rows, columns["details"], strict=True)
    ):
        sequence, parked_at_ms = sequence + row.sequence, parked_at_ms + row.parked_ms
        waits_for, keeps, each = waits[row.waits]
        calls[reserve.hold_id] = ParkedCall(
            reserve,
            sequence,
            parked_at_ms,
            waits_for,
            keeps,
            _plus(row.retry_ms, parked_at_ms),
            _plus(row.busy_ms, parked_at_ms),
            _plus(row.open_ms, parked_at_ms),
            detail,
            each,
            _plus(counting.get(str(number)), parked_at_ms),
        )
    return calls


def _reserves(columns: Columns, rows: Sequence[_Row]) -> list[Reserve]:
    """Validated all at once, and the candidates of a table only once."""
    candidates = _lists_of_candidates(columns)
    modes = columns["modes"]
    budgets = [(each, ()) if isinstance(each, str) else (each[0], each[1:]) for each in columns["budgets"]]
    runs: list[Columns] = columns.get("runs") or [{}] * len(rows)
    ids = zip(ids_of(columns["run_ids"]), ids_of(columns["workflow_ids"]), columns["holds"], runs, strict=True)
    reserves: list[dict[str, Any]] = []
    parked_at_ms = 0
    for row, (run_id, workflow_id, hold, run) in zip(rows, ids, strict=True):
        parked_at_ms += row.parked_ms
        reserves.append(
            {
                "hold_id": hold_id_of(hold, run_id),
                "call": {"workflow_id": workflow_id, "run_id": run_id},
                "candidates": candidates[row.candidates],
                "budget": budgets[row.budget][0],
                "further_budgets": budgets[row.budget][1],
                "on_exhausted": modes[row.mode],
                "priority": row.priority,
                "input_bytes": row.input_bytes,
                "asked_at_ms": parked_at_ms + row.asked_ms,
                "deadline_at_ms": parked_at_ms + row.deadline_ms,
                **run,
            }
        )
    return _RESERVES.validate_python(reserves)


def _run_row(reserve: Reserve) -> Columns:
    """What a call says of its run. Empty: nothing."""
    return reserve.model_dump(mode="json", include={"run", "run_terms", "granted_before", "digest"})


def _minus(at_ms: int | None, since_ms: int) -> int | None:
    return None if at_ms is None else at_ms - since_ms


def _plus(ms: int | None, since_ms: int) -> int | None:
    return None if ms is None else since_ms + ms
