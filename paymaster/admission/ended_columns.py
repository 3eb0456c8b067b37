"""The remembered ends of holds as columns, as small and quick to read as the holds themselves.

The time of an end is written as its distance from that of the one before it.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from pydantic import TypeAdapter

from paymaster.admission.holds import EndedHold
from paymaster.admission.uuid_column import hold_id_of, ids_of, number_or_id, uuid_column
from paymaster.messages import Denied

Columns = dict[str, Any]
_DENIED = TypeAdapter(list[Denied])


def ended_columns(ended: Mapping[str, EndedHold]) -> Columns:
    run_ids = [hold_id.rpartition("/")[0] for hold_id in ended]
    ends = list(ended.values())
    times = [each.at_ms for each in ends]
    denied = {number: each.denied for number, each in enumerate(ends) if each.denied is not None}
    return {
        "run_ids": uuid_column(run_ids),
        "ids": list(map(number_or_id, ended, run_ids)),
        "after_ms": [at_ms - before_ms for at_ms, before_ms in zip(times, [0, *times], strict=False)],
        "posted": [int(each.posted) for each in ends],
        "presumed": [number for number, each in enumerate(ends) if each.presumed],
        "denied_at": list(denied),
        "denied": _DENIED.dump_python(list(denied.values()), mode="json", exclude={"__all__": {"kind", "hold_id"}}),
    }


def ended_of(columns: Columns) -> dict[str, EndedHold]:
    hold_ids = list(map(hold_id_of, columns["ids"], ids_of(columns["run_ids"])))
    times = accumulate(columns["after_ms"])
    ended = {
        hold_id: EndedHold(at_ms, bool(posted))
        for hold_id, at_ms, posted in zip(hold_ids, times, columns["posted"], strict=True)
    }
    for number in columns["presumed"]:
        ended[hold_ids[number]].presumed = True
    told: list[Columns] = [
        {**each, "hold_id": hold_ids[number]}
        for number, each in zip(columns["denied_at"], columns["denied"], strict=True)
    ]
    for denied in _DENIED.validate_python(told):
        ended[denied.hold_id].denied = denied
    return ended
