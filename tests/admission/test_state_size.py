"""The state must fit into a Temporal payload (2 MiB), because continue-as-new carries it whole."""

import random
from functools import cache

import pytest
from desk_kit import DAY, MINUTE, NOON, Site, candidate, capped, config, service

from paymaster.admission.desk import REMEMBER_ENDED_MAX, Desk
from paymaster.admission.outbox import ALERTS_BYTES_MAX, ALERTS_MAX, alert_bytes
from paymaster.messages import Alert, CallRef, Delivery, Denied, Granted, Parked, PauseService, RaiseCap, Reserve

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
        one.advance(NOON + 3 * DAY + 10 * MINUTE)  # the first was a jump, which is not believed at once
    assert len(desk.state.outbox.messages) == PARKED
    assert again.state == desk.state


# ---------------------------------------------------------------- what others write into it


def chinese(chance: random.Random, characters: int) -> str:
    """Text that compresses badly: characters of three bytes, all different."""
    return "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(characters))


def test_a_flood_of_refused_messages_keeps_the_state_small() -> None:
    """2,400 malformed signals of 1,000 CJK characters while neither the database nor the webhook takes anything."""
    site, chance = Site(), random.Random(6)
    for _ in range(2_400):
        site.now_ms += 5
        site.desk.refuse_message(chinese(chance, 1_000), site.now_ms)
    size = len(site.desk.dump())
    print(f"\n2,400 refused messages: {size / 1024:,.0f} KiB dumped")
    assert size < 64 * 1024
    site.wait(MINUTE)
    site.desk.advance(site.now_ms)
    assert "2395 more" in site.alerts("refused_message")[-1].text


def test_alerts_are_bounded_in_bytes_and_the_webhook_loses_first() -> None:
    """What is stored already goes before what is not; all that went is counted; money is never dropped."""
    site, chance = Site(), random.Random(7)
    for number in range(ALERTS_MAX):
        site.desk.outbox.alert(site.now_ms, "no_price", f"{number} {chinese(chance, 1_000)}")
        if number == 99:
            site.desk.delivered(Delivery(delivered=tuple(alert.sequence for alert in site.alerts())), site.now_ms)
            site.raise_cap("1")
    outbox = site.desk.state.outbox
    waiting = [n for n in outbox.notices if isinstance(n, Alert)]
    assert outbox.sending == []
    assert outbox.alerts_dropped == ALERTS_MAX - len(waiting)
    assert sum(map(alert_bytes, waiting)) <= ALERTS_BYTES_MAX < sum(map(alert_bytes, waiting)) + 1_200
    assert [alert.text.split()[0] for alert in waiting] == [str(n) for n in range(100, 100 + len(waiting))]
    assert len(site.cap_changes()) == 1
    assert site.desk.status().alerts_dropped == outbox.alerts_dropped
    again = Desk.load(site.desk.dump())
    again.outbox.alert(site.now_ms, "no_price", chinese(chance, 400))
    assert again.state.outbox.alerts_dropped == outbox.alerts_dropped + 1


@pytest.mark.parametrize("text", ["語" * 1_000, "🙂" * 1_000])
def test_texts_of_people_are_bounded_in_bytes(text: str) -> None:
    """Whose command it was and why, in a cap change and in a pause; and what is alerted of it."""
    site = Site()
    change = RaiseCap(account="budget:acme", window="day", by="1", who=text[:200], reason=text)
    site.desk.raise_cap(change, site.now_ms)
    site.desk.pause_service(PauseService(service="s", who=text[:200], reason=text), site.now_ms)
    site.desk.outbox.alert(site.now_ms, "no_price", text)
    [stored] = site.cap_changes()
    assert len(stored.model_dump_json().encode()) < 2_000
    assert len((site.desk.state.gates["s"].paused_by or "").encode()) <= 300
    assert len(site.alerts()[-1].text.encode()) <= 1_000
    site.cut()
