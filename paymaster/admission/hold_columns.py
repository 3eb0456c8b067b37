"""The holds as columns that are small and quick to read: thousands of them differ in little but their ids.

What many have in common is in tables, and a hold has its numbers there. The time of a grant is written as its distance
from that of the one before it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from paymaster.admission.holds import Hold
from paymaster.admission.tables import Table
from paymaster.admission.uuid_column import hold_id_of, ids_of, number_or_id, uuid_column
from paymaster.messages import CallRef, Grant, RetrySettings
from paymaster.values.money import Price

Columns = dict[str, Any]


class _Terms(NamedTuple):
    """What a service grants."""

    service: str
    model: str
    epoch: str
    lasts_ms: int
    timeout_ms: int
    max_retry_after_ms: int
    max_unconfirmed: int
    money_short: bool
    price: Price
    retry: RetrySettings


class _Charged(NamedTuple):
    """What a hold counts for, and its accounts."""

    budget: str
    further_budgets: tuple[str, ...]
    run: str | None
    accounts: tuple[str, ...]


class _Standing(NamedTuple):
    """How it is with a hold."""

    state: Literal["pending", "unconfirmed"]
    expired: bool
    running: bool
    is_first: bool
    failures_told: int


class _Row(NamedTuple):
    """The numbers of one hold; the first three are those of its values in the tables."""

    terms: int
    charged: int
    standing: int
    granted_ms: int
    max_output_tokens: int
    bound_nanos: int
    counted_tokens: int | None
    tokens: int
    posted_nanos: int


_TERMS = TypeAdapter(list[_Terms])
_CHARGED = TypeAdapter(list[_Charged])
_STANDING = TypeAdapter(list[_Standing])
_GRANTS = TypeAdapter(list[Grant])
_CALLS = TypeAdapter(list[CallRef])


class _TermsTable:
    """Different terms in the order of their first use, by the values of their fields: to compare prices and settings
    takes longer than all else."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self.rows: list[_Terms] = []

    def number(self, grant: Grant) -> int:
        *others, price, retry = terms = _terms(grant)
        key = (*others, *price.__dict__.values(), *retry.__dict__.values())
        number = self._numbers.setdefault(key, len(self.rows))
        if number == len(self.rows):
            self.rows.append(terms)
        return number


def hold_columns(holds: Mapping[str, Hold]) -> Columns:
    terms, charged, standing = _TermsTable(), Table[_Charged](), Table[_Standing]()
    rows: list[_Row] = []
    granted_at_ms = 0
    for hold in holds.values():
        grant = hold.grant
        row = _Row(
            terms.number(grant),
            charged.number(_Charged(grant.budget, grant.further_budgets, grant.run, hold.accounts)),
            standing.number(_Standing(hold.state, hold.expired, hold.running, hold.is_first, hold.failures_told)),
            grant.granted_at_ms - granted_at_ms,
            grant.max_output_tokens,
            grant.bound_nanos,
            grant.counted_tokens,
            hold.tokens,
            hold.posted_nanos,
        )
        rows.append(row)
        granted_at_ms = grant.granted_at_ms
    calls = [hold.call for hold in holds.values()]
    return {
        "run_ids": uuid_column([call.run_id for call in calls]),
        "workflow_ids": uuid_column([call.workflow_id for call in calls]),
        "ids": [number_or_id(hold_id, call.run_id) for hold_id, call in zip(holds, calls, strict=True)],
        "rows": list(zip(*rows, strict=True)),
        "terms": _TERMS.dump_python(terms.rows, mode="json"),
        "charged": charged.values(),
        "standing": standing.values(),
    }


def holds_of(columns: Columns) -> dict[str, Hold]:
    """Validated all at once, and what is in the tables only once."""
    rows = list(map(_Row._make, zip(*columns["rows"], strict=True)))
    run_ids = ids_of(columns["run_ids"])
    refs = [
        {"workflow_id": workflow_id, "run_id": run_id}
        for workflow_id, run_id in zip(ids_of(columns["workflow_ids"]), run_ids, strict=True)
    ]
    hold_ids = map(hold_id_of, columns["ids"], run_ids)
    charged = _CHARGED.validate_python(columns["charged"])
    standing = _STANDING.validate_python(columns["standing"])
    grants = _GRANTS.validate_python(_grants(hold_ids, rows, columns["terms"], charged))
    return {
        grant.hold_id: Hold(
            call,
            grant,
            charged[row.charged].accounts,
            row.tokens,
            posted_nanos=row.posted_nanos,
            **standing[row.standing]._asdict(),
        )
        for call, grant, row in zip(_CALLS.validate_python(refs), grants, rows, strict=True)
    }


def _grants(
    hold_ids: Iterable[str], rows: Sequence[_Row], terms: Sequence[Any], charged: Sequence[_Charged]
) -> list[Columns]:
    known = [each._asdict() for each in _TERMS.validate_python(terms)]
    lasts_ms = [each.pop("lasts_ms") for each in known]
    grants: list[Columns] = []
    granted_at_ms = 0
    for hold_id, row in zip(hold_ids, rows, strict=True):
        granted_at_ms += row.granted_ms
        budget, further_budgets, run, _ = charged[row.charged]
        grants.append(
            {
                **known[row.terms],
                "hold_id": hold_id,
                "budget": budget,
                "further_budgets": further_budgets,
                "run": run,
                "max_output_tokens": row.max_output_tokens,
                "bound_nanos": row.bound_nanos,
                "granted_at_ms": granted_at_ms,
                "expires_at_ms": granted_at_ms + lasts_ms[row.terms],
                "counted_tokens": row.counted_tokens,
            }
        )
    return grants


def _terms(grant: Grant) -> _Terms:
    return _Terms(
        grant.service,
        grant.model,
        grant.epoch,
        grant.expires_at_ms - grant.granted_at_ms,
        grant.timeout_ms,
        grant.max_retry_after_ms,
        grant.max_unconfirmed,
        grant.money_short,
        grant.price,
        grant.retry,
    )
