"""The state must fit into a Temporal payload (2 MiB), because continue-as-new carries it whole."""

import random
from functools import cache

import pytest
from desk_kit import DAY, NOON, Site, candidate, capped, config, service

from paymaster.admission.desk import REMEMBER_ENDED_MAX, Desk
from paymaster.messages import CallRef, Denied, Granted, Parked, Reserve

PAYLOAD_MAX = 2 * 1024 * 1024
BUDGETS = 10_000
PARKED = 2_000


def paths() -> list[str]:
    """As an organisation names them: 10 companies, each with 9 teams, each with 110 agents."""
    companies = [f"company-{number}" for number in range(10)]
    teams = [f"{company}/team-{number}" for company in companies for number in range(9)]
    agents = [f"{team}/agent-{number:03d}" for team in teams for number in range(110)]
    return (companies + teams + agents)[:BUDGETS]


@cache
def large_dump() -> str:
    """10,000 budgets, each with caps in 5 windows, of all different amounts; 2,000 calls with real ids parked for
    money, and 500 on hold."""
    chance = random.Random(4)

    def cap(path: str) -> int:
        return chance.randint(1_000, 9_999) * (1 if path.count("/") == 2 else 100_000)

    budgets = {
        path: capped(minute=cap(path), hour=cap(path), day=cap(path), month=cap(path), total=cap(path))
        for path in paths()
    }
    services = {"openai": service(), "anthropic": service(total=0)}
    site = Site(config(budgets=budgets, services=services, max_parked=PARKED))
    leaves = [path for path in paths() if path.count("/") == 2]
    for path in leaves:  # every balance has numbers of its own
        cost = chance.randint(0, 999_999_999) / 1e9 + (20_000 if path in leaves[:PARKED] else 0)
        site.settle(send(site, ask(site, chance, path), Granted), cost)
    for path in chance.sample(leaves[PARKED:], 500):
        send(site, ask(site, chance, path), Granted)
    for path in leaves[:PARKED]:
        send(site, ask(site, chance, path), Parked)
    site.desk.state.outbox.notices.clear()
    site.desk.state.ended.clear()
    status = site.desk.status()
    assert (len(site.desk.ledger.accounts), status.parked, status.holds) == (BUDGETS + 2, PARKED, 500)
    return site.desk.dump()


def ask(site: Site, chance: random.Random, path: str, name: str = "openai") -> Reserve:
    run_id = f"{chance.getrandbits(128):032x}"
    first = candidate(name, 10).model_copy(update={"model": "claude-haiku-5-5"})
    return Reserve(
        hold_id=f"{run_id}/1",
        call=CallRef(workflow_id=f"call/{chance.getrandbits(128):032x}", run_id=run_id),
        budget=path,
        candidates=(first, first.model_copy(update={"max_output_tokens": 11})),
        input_bytes=chance.randint(100, 100_000),
        on_exhausted="wait",
        deadline_at_ms=site.now_ms + DAY + chance.randint(0, DAY),
        asked_at_ms=site.now_ms,
    )


def send(site: Site, request: Reserve, kind: type[Granted] | type[Parked] | type[Denied]) -> str:
    site.now_ms += 2
    answer = site.desk.handle(request, site.now_ms)
    assert isinstance(answer, kind), answer
    return request.hold_id


@pytest.mark.parametrize("ended", [0, REMEMBER_ENDED_MAX])
def test_ten_thousand_budgets_and_two_thousand_parked_calls_fit_into_a_payload(ended: int) -> None:
    """Also with as many remembered ends of calls as there can be, each denied with a sentence."""
    site, chance = Site(), random.Random(5)
    site.desk = Desk.load(large_dump())
    site.now_ms = site.desk.state.now_ms
    for _ in range(ended):
        send(site, ask(site, chance, "company-1", "anthropic"), Denied)
    size = len(site.desk.dump())
    print(f"\n{BUDGETS:,} budgets x 5 windows, {PARKED:,} parked calls, {ended:,} ended: {size / 1024:,.0f} KiB dumped")
    assert size < PAYLOAD_MAX


def test_a_large_state_loads_back_equal() -> None:
    """And dumps to the same again, and goes on with the same answers."""
    desk, again = Desk.load(large_dump()), Desk.load(large_dump())
    assert again.state == desk.state
    assert desk.dump() == large_dump()
    for one in (desk, again):
        one.advance(NOON + 3 * DAY)
    assert len(desk.state.outbox.messages) == PARKED
    assert again.state == desk.state
