"""Commands that were recorded once, played to a desk, and a digest of all that it answers and of its final state.

Run as a program, it writes the digest of today's rules beside the older ones; test_rules.py says when that is due.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from desk_kit import NOON, Site, candidate, capped, config, service
from pydantic import BaseModel, TypeAdapter

from paymaster.admission.state import RULES, DeskState
from paymaster.messages import AccountConfig, Delivery, DeskConfig, PauseService, ResumeService, Settle
from paymaster.values.money import Price

RECORDED = Path(__file__).with_name("recorded_commands.json")
STATE = TypeAdapter(DeskState)
NOT_COMPARED = {"rules": True, "latest_granted_ms": True, "books": {"changed"}}
"""The number itself, what is kept under rules 1 too for the time after an upgrade, and what no dump of rules 1 has."""
PRICES = [
    Price(input_nanos=2_000_000_000, output_nanos=10_000_000_000, cached_input_nanos=200_000_000, source="dear"),
    Price(input_nanos=150_000_001, output_nanos=600_000_007, cache_write_nanos=187_500_003, source="cheap"),
    Price(input_nanos=0, output_nanos=0, source="free"),
]


def configuration(number: int) -> DeskConfig:
    """The first, and one that changes caps, limits and breakers in the middle of the recording."""
    team = AccountConfig(caps_nanos={"hour": 90_000_000, "total": 10**12}, alert_at=(0.3, 0.9), requests_per_minute=40)
    return config(
        f"file {number}",
        budgets={
            "acme": AccountConfig(caps_nanos={"day": 500_000_000 * number, "month": 10**12}, alert_at=(0.5, 0.8)),
            "acme/team": team,
            "solo": capped(day=1),
        },
        services={
            "s": service(requests=60, tokens=30_000, concurrent=6, failures=3, cooldown_ms=20_000),
            "t": service(concurrent=4 * number, failures=2, cooldown_ms=30_000),
        },
        max_parked=12,
    )


def play(lines: list[list[Any]], rules: int = RULES) -> str:
    """The digest of what a desk of these rules answers to these commands, and of how it is in the end."""
    site = Site(configuration(1), NOON, rules=rules)
    answers: list[Any] = []
    for at_ms, what, *arguments in lines:
        site.now_ms = at_ms
        answers.append(do(site, what, arguments))
    final = STATE.dump_python(site.desk.state, mode="json", exclude_defaults=True, exclude=NOT_COMPARED)
    text = json.dumps(facts({"answers": answers, "final": final}), sort_keys=True)
    return sha256(text.encode()).hexdigest()


def do(site: Site, what: str, arguments: list[Any]) -> Any:
    match what, arguments:
        case "reserve", [hold_id, budget, wanted, input_bytes, mode, wait_ms, priority]:
            candidates = [candidate(name, tokens, PRICES[price]) for name, tokens, price in wanted]
            answer = site.reserve(
                *candidates,
                hold_id=hold_id,
                budget=budget,
                input_bytes=input_bytes,
                mode=mode,
                wait_ms=wait_ms,
                priority=priority,
            )
        case "settle", [hold_id, nanos, tokens, confirmed, failures]:
            settle = Settle(
                hold_id=hold_id,
                cost_nanos=nanos,
                tokens=tokens,
                confirmed=confirmed,
                served=not failures,
                failures=failures,
            )
            answer = site.desk.handle(settle, site.now_ms)
            if site.desk.to_load() is not None:
                site.load()
        case "void", [hold_id]:
            answer = site.void(hold_id)
        case "report", [hold_id, pause_ms]:
            hold = site.desk.ledger.holds.get(hold_id)
            answer = None if hold is None else site.report(hold.grant, pause_ms)
        case "raise", [by, account, window, lapses]:
            answer = site.raise_cap(by, account, window, lapses=lapses)
        case "set", [to, account, window]:
            answer = site.set_cap(to, account, window)
            if site.desk.to_load() is not None:
                site.load()
        case "pause", [name]:
            answer = site.desk.pause_service(PauseService(service=name, who="ada"), site.now_ms)
        case "resume", [name]:
            answer = site.desk.resume_service(ResumeService(service=name), site.now_ms)
        case "configure", [number]:
            answer = site.desk.configure(configuration(number), site.now_ms)
        case "delivered", []:
            done = tuple(message.sequence for message in site.desk.state.outbox.messages)
            answer = site.desk.delivered(Delivery(delivered=done), site.now_ms)
        case "advance", []:
            answer = site.desk.advance(site.now_ms)
        case _:
            raise AssertionError(f"not a command: {what} {arguments}")
    if not isinstance(answer, BaseModel):
        return answer
    return {type(answer).__name__: answer.model_dump(mode="json", exclude_defaults=True)}


def facts(value: Any) -> Any:
    """Without sentences for people, and with sets in an order."""
    if isinstance(value, dict):
        return {key: facts(part) for key, part in value.items() if key not in ("detail", "text", "paused_by")}
    if isinstance(value, list | tuple):
        parts = [facts(part) for part in value]
        return sorted(parts) if all(isinstance(part, str) for part in parts) else parts
    return value


def write_digest() -> None:
    recorded = json.loads(RECORDED.read_text())
    recorded["digests"][str(RULES)] = play(recorded["commands"])
    lines = ",\n".join(json.dumps(line) for line in recorded["commands"])
    digests = json.dumps(recorded["digests"])
    RECORDED.write_text(f'{{"digests": {digests},\n"commands": [\n{lines}\n]}}\n')
    print(f"rules {RULES}: {recorded['digests'][str(RULES)]}")


if __name__ == "__main__":
    write_digest()
