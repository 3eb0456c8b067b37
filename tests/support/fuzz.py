"""Messages as nobody should send them: valid ones with a part replaced, and payloads that are no JSON at all.

Without payloads under an encryption key that no worker has: for those a workflow waits, on purpose (docs/security.md).
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from temporalio.api.common.v1 import Payload

LONG = 300_000
"""Characters of a long text: as JSON of CJK characters 0.9 MB, under Temporal's 2 MiB."""

PRICE = {"input_nanos": 1_000_000_000, "output_nanos": 4_000_000_000, "source": "fuzz"}
CALL = {"workflow_id": "call/fuzz", "run_id": "fuzz-run"}
CONFIG = {
    "digest": "fuzz",
    "budgets": {"fuzz": {"caps_nanos": {"day": 10**9, "total": 10**10}, "requests_per_minute": 60}},
    "services": {"fuzz": {"caps_nanos": {"month": 10**9}, "breaker_failures": 3, "retry": {"maximum_attempts": 2}}},
}
SIGNATURE = {"by": "alice", "id": "1", "expires_at_ms": 1, "value": "AA=="}
ADMIN = {"who": "fuzz", "reason": "why not", "account": "budget:fuzz", "window": "day"}
RESERVE = {
    "kind": "reserve",
    "hold_id": "fuzz-run/1",
    "call": CALL,
    "budget": "fuzz/one",
    "candidates": [{"service": "fuzz", "model": "m", "max_output_tokens": 10, "price": PRICE}],
    "input_bytes": 100,
    "on_exhausted": "wait",
    "deadline_at_ms": 1,
    "asked_at_ms": 1,
}
GRANT = {
    "hold_id": "fuzz-run/1",
    "budget": "fuzz/one",
    "service": "fuzz",
    "model": "m",
    "price": PRICE,
    "max_output_tokens": 10,
    "bound_nanos": 1_000,
    "granted_at_ms": 1,
    "expires_at_ms": 2,
    "epoch": "e",
    "timeout_ms": 1_000,
    "retry": {},
    "max_retry_after_ms": 1,
    "max_unconfirmed": 1,
}
ATTEMPT = {"number": 1, "started_at_ms": 1, "duration_ms": 1, "billing": "billed", "usage": {"input_tokens": 1}}
EXAMPLES: Mapping[str, object] = {
    "apply": {
        "commands": [RESERVE, {"kind": "settle", "hold_id": "x/1", "cost_nanos": 5}, {"kind": "void", "hold_id": "y"}]
    },
    "configure": {"config": CONFIG, "force": True, "signature": SIGNATURE},
    "raise_cap": {**ADMIN, "by": "0.01", "until_window_end": True},
    "set_cap": {**ADMIN, "to": "1.00", "signature": SIGNATURE},
    "unset_cap": ADMIN,
    "pause_service": {"service": "fuzz", "who": "fuzz", "reason": "r"},
    "resume_service": {"service": "fuzz", "who": "fuzz", "reason": "r"},
    "report_attempts": {"reports": [{"hold_id": "x/1", "service": "fuzz", "pause_ms": 10, "trips_breaker": True}]},
    "report_spending": {
        "foreseen": [{"account": "budget:fuzz", "window": "day", "used_up_at_ms": 1, "by_pattern": False}],
        "unusual": [
            {
                "account": "budget:fuzz",
                "nanos": 2,
                "usual_nanos": 1,
                "spent_on": [{"what": "model", "name": "fuzz/m", "nanos": 2}],
            }
        ],
    },
    "status": {"after": "", "limit": 10},
    "budget_answer": {"sequence": 1, "call": CALL, "answer": {"kind": "granted", "grant": GRANT}},
    "budget_withdrawn": {"sequence": 1, "call": CALL, "hold_id": "fuzz-run/1", "detail": "d"},
    "add": {
        "records": [{"call": CALL, "grant": GRANT, "attempts": [ATTEMPT], "answered": True, "metadata": {"a": "b"}}],
        "voids": ["fuzz-run/2"],
    },
}
"""One valid message of each name; other names get the messages of all of them."""


class Fuzzed(NamedTuple):
    """What is sent: a handler's name, and its arguments."""

    name: str
    payloads: tuple[Payload, ...]

    def __str__(self) -> str:
        arguments = (f"{p.metadata} {p.data[:200]!r} ({len(p.data)} bytes)" for p in self.payloads)
        return f"{self.name}({', '.join(arguments)})"


def fuzzed(names: Sequence[str], count: int, seed: int) -> Iterator[Fuzzed]:
    """So many messages to these handlers, and to names that nobody knows; the same seed gives the same ones."""
    chance = random.Random(seed)
    unknown = ("", "rise_cap", "__stack_trace", "x" * 900, "状态")
    for _ in range(count):
        name = chance.choice(names) if chance.random() < 0.97 else chance.choice(unknown)
        how_many = chance.choices((1, 0, 2, 3), weights=(90, 4, 4, 2))[0]
        yield Fuzzed(name, tuple(_payload(chance, name) for _ in range(how_many)))


def _payload(chance: random.Random, name: str) -> Payload:
    example = EXAMPLES.get(name) or chance.choice(list(EXAMPLES.values()))
    kind = chance.random()
    if kind < 0.10:  # as it is
        return _json(json.dumps(example))
    if kind < 0.80:
        return _json(_mutated(chance, example))
    if kind < 0.90:
        return _json(_nasty(chance))
    data = json.dumps(example).encode()
    return chance.choice(
        (
            Payload(metadata={"encoding": b"binary/null"}),
            Payload(metadata={"encoding": b"binary/plain"}, data=data),
            Payload(metadata={"encoding": b"json/protobuf", "messageType": b"no.Such"}, data=data),
            Payload(metadata={"encoding": b"binary/no-such"}, data=data),
            Payload(data=data),
            Payload(),
            _json(data[: chance.randrange(len(data))].decode()),
            Payload(metadata={"encoding": b"json/plain"}, data=bytes(chance.randrange(256) for _ in range(300))),
        )
    )


def _json(text: str) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=text.encode(errors="surrogatepass"))


def _mutated(chance: random.Random, example: object) -> str:
    """The example as JSON, with one to three of its parts replaced, removed or added."""
    text = json.dumps(example)
    for number in range(chance.randint(1, 3)):
        text = _replaced(chance, text, f"@{number}")
    return text


def _replaced(chance: random.Random, text: str, mark: str) -> str:
    """A part of JSON replaced by text that Python's own `json` might not be able to write."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places = list(_places(data))
    if not places:
        return text
    holder, key = chance.choice(places)
    how = chance.randrange(8)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
        return json.dumps(data)
    if how == 0:
        holder.append(holder[key])
        return json.dumps(data)
    if how == 1 and isinstance(holder, dict):
        key = chance.choice(("unknown", "", "__class__", "kind", "\u0000"))
    holder[key] = mark
    return json.dumps(data).replace(json.dumps(mark), _nasty(chance), 1)


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a document, as what holds it and its key there."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, below in list(items):
        yield data, key
        yield from _places(below)


def _nasty(chance: random.Random) -> str:
    """A value as JSON, or as what only looks like it."""
    depth = chance.choice((5, 99, 101, 199, 254, 300, 10_000))
    many = chance.choice((10, 1_000, 20_000))
    return chance.choice(
        (
            *("null", "true", "false", "[]", "{}", '""', "0", "-1", "1e400", "-0.0", "NaN", "Infinity", "1.5"),
            *(str(10**15), str(-(10**15)), str(10**18), str(2**63), str(-(2**63)), "9" * 5_000, "1e999999"),
            *('"1e999999"', '"$1.00"', '"1_000"', '"../.."', '"a//b"', '"NaN"', '"-5"'),
            *(r'"\ud800"', r'"\u0000"', r'"\u202e"', '"-- \u202e"'),
            _text("x" * many),
            _text("你" * many),
            _text(r"\\" * many),
            "[" * depth + "]" * depth,
            '{"a":' * depth + "1" + "}" * depth,
            f"[{','.join(['1'] * many)}]",
            json.dumps({str(n): n for n in range(many)}),
            _text("界" * (LONG if chance.random() < 0.05 else 10)),
        )
    )


def _text(written: str) -> str:
    """A JSON text of what is escaped already."""
    return f'"{written}"'
