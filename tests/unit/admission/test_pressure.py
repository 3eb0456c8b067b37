"""The state must fit into a Temporal payload (2 MiB), because continue-as-new carries it whole."""

import random
import time
from functools import cache
from unittest.mock import patch
from uuid import UUID

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, USD, Site, candidate, capped, config, service

from paymaster.admission import alert_policy, pressure, state_size
from paymaster.admission.desk import Desk
from paymaster.admission.holds import Hold
from paymaster.admission.outbox import alert_bytes
from paymaster.admission.pressure import estimated_bytes, relieve
from paymaster.admission.state import RULES, read
from paymaster.messages import (
    Alert,
    CallRef,
    CapChange,
    Delivery,
    Denied,
    Ended,
    Granted,
    LoadedSpend,
    Parked,
    PauseService,
    RaiseCap,
    Reserve,
    StatusRequest,
)
from paymaster.messages.bounds import check_command
from paymaster.values.limits import (
    ALERTS_BYTES_MAX,
    ALERTS_MAX,
    LOOK_AFTER_BYTES,
    REMEMBER_ENDED_MAX,
    STATE_BYTES_MAX,
    STATE_BYTES_SLACK,
    UNCONFIRMED_MAX,
)
from paymaster.values.windows import WINDOWS

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
PAYLOAD_MAX = 2 * 1024 * 1024
BUDGETS = 10_000
PARKED = 2_000


def paths() -> list[str]:
    """Budgets like an organisation's: 10 companies, each with 9 teams, each with 110 agents."""
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


# ---------------------------------------------------------------- what is measured, and what is dropped


def test_the_estimate_of_the_state_is_near_its_size() -> None:
    """Never less than the dump, and not more than twice as much: it decides when something is dropped."""
    site, chance = Site(), random.Random(8)
    site.desk = Desk.load(large_dump())
    site.now_ms = site.desk.state.now_ms
    for ended in (0, REMEMBER_ENDED_MAX):
        for _ in range(ended):
            send(site, ask(site, chance, "company-1", "anthropic"), Denied)
        size, estimate = len(site.desk.dump()), estimated_bytes(site.desk.state)
        print(f"\n{ended} ended: {size / 1024:,.0f} KiB dumped, {estimate / 1024:,.0f} KiB estimated")
        assert size <= estimate < 2 * size


def test_a_hundred_thousand_unconfirmed_holds_leave_a_small_state() -> None:
    """Five weeks of timeouts that nobody resolved: a thousand are kept one by one, the money of all stays posted."""
    site = Site(config(budgets={"acme": capped(total=10**9)}))
    chance, first = random.Random(11), site.granted(candidate(usd=1))
    site.void(first)
    for number in range(100_000):
        run_id = f"{chance.getrandbits(128):032x}"
        grant = first.model_copy(update={"hold_id": f"{run_id}/1", "granted_at_ms": site.now_ms + number})
        accounts = ("service:s", "budget:acme")
        site.desk.ledger.hold(Hold(CallRef(workflow_id=f"call/{run_id}", run_id=run_id), grant, accounts))
        site.desk.ledger.post(grant.hold_id, USD, confirmed=False)
    site.now_ms += 100_000
    folding = time.process_time()
    site.desk.advance(site.now_ms)
    began = time.process_time()
    dumped = site.desk.dump()
    written = time.process_time()
    again = Desk.load(dumped)
    print(
        f"\n100,000 unconfirmed: folded in {(began - folding) * 1e3:.0f} ms, {len(dumped) / 1024:,.0f} KiB dumped in "
        f"{(written - began) * 1e3:.0f} ms, loaded in {(time.process_time() - written) * 1e3:.0f} ms"
    )
    status = again.status()
    assert status.unconfirmed == 100_000
    assert len(again.ledger.holds) < 1_200
    assert again.ledger.accounts["budget:acme"].balances["total"].posted_nanos == 100_000 * USD
    assert sum(account.folded for account in status.accounts if account.account == "budget:acme") > 98_000
    assert len(dumped) < 512 * 1024


def test_a_state_that_is_half_full_is_told_once_a_day() -> None:
    """With what is in it."""
    site = Site()
    with patch.object(alert_policy, "STATE_BYTES_ALERT", 10):
        for _ in range(3):
            site.wait(MINUTE)
            site.desk.advance(site.now_ms)
        [alert] = site.alerts("state_size")
        assert "2 accounts" in alert.text
        site.wait(DAY)
        site.desk.advance(site.now_ms)
    assert len(site.alerts("state_size")) == 2


def test_under_pressure_notices_go_first_then_ends_of_holds_and_money_never() -> None:
    """In this order, each counted; and when nothing is left to drop, new calls are denied until it is smaller."""
    site = Site(config(budgets={"acme": capped(total=1_000)}))
    kept = site.granted(candidate(usd=1))
    for _ in range(3):
        site.settle(site.granted(), 1)
    site.raise_cap("1", window="total")
    for number in range(4):
        site.desk.outbox.alert(site.now_ms, "no_price", str(number))
        if number == 1:
            site.desk.delivered(Delivery(delivered=tuple(a.sequence for a in site.alerts())), site.now_ms)
    state = site.desk.state
    assert (len(state.outbox.sending), len(site.alerts()), len(state.ended)) == (3, 2, 3)
    seen: list[tuple[int, int, int]] = []
    assert relieve(state, 1) == 0
    assert (state.books.changed, state.books.all_changed) == ({}, True)
    while relieve(state, 1) == 0:
        seen.append((len(state.outbox.sending), len(site.alerts()), len(state.ended)))
    assert seen == [(2, 2, 3), (1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 0, 3), (0, 0, 2), (0, 0, 1), (0, 0, 0)]
    assert (state.outbox.alerts_dropped, state.ended_dropped) == (5, 3)
    assert site.desk.ledger.holds.keys() == {kept.hold_id}
    assert len(site.cap_changes()) == 1
    with patch.object(state_size, "STATE_BYTES_MAX", 100):
        site.wait(MINUTE)
        site.desk.advance(site.now_ms)
        assert site.denied(mode="wait").reason == "ledger_full"
    site.wait(MINUTE)
    site.desk.advance(site.now_ms)
    assert site.granted()


def test_under_pressure_surplus_ends_go_before_all_else() -> None:
    """At two thousand calls a second there are a hundred thousand of them before the minute is over."""
    site = Site()
    for _ in range(5):
        site.settle(site.granted(), 1)
    site.desk.outbox.alert(site.now_ms, "no_price", "text")
    state = site.desk.state
    with patch.object(pressure, "REMEMBER_ENDED_MAX", 2):
        assert relieve(state, 1) == 0
    assert list(state.ended) == ["run-4/1", "run-5/1"]
    assert (len(site.alerts("no_price")), state.ended_dropped, state.books.all_changed) == (1, 0, False)
    assert isinstance(site.reserve(hold_id="run-1/1"), Ended)


def test_a_page_of_the_status_ends_by_its_bytes_too() -> None:
    """A thousand accounts with long names and five caps each: the reader asks for the next page."""
    budgets = {f"{'long-name-' * 18}/{n:04}": capped(minute=1, hour=1, day=1, month=1, total=1) for n in range(2_000)}
    site = Site(config(budgets=budgets))
    page, seen = StatusRequest(limit=2_000), 0
    while True:
        status = site.desk.status(page)
        assert len(status.model_dump_json()) < 1_200 * 1024
        seen += len(status.accounts)
        if not status.more_accounts:
            break
        page = StatusRequest(limit=2_000, after=status.accounts[-1].account)
    assert seen == 2_001


def test_the_sentence_of_a_denial_is_bounded() -> None:
    """Forty candidates and more, each with its reason: a batch has two hundred such answers."""
    site = Site()
    candidates = [
        candidate(price=None).model_copy(update={"model": f"{'a-model-with-a-long-name-' * 4}{n}"}) for n in range(60)
    ]
    assert len(site.denied(*candidates).detail.encode()) <= 2_000


def odd_calls(site: Site, chance: random.Random, number: int) -> None:
    """So many calls of 6 KB that resemble nothing, which the estimate takes for 100 bytes."""
    for _ in range(number):
        odd = tuple(candidate().model_copy(update={"model": chinese(chance, 200)}) for _ in range(9))
        request = ask(site, chance, "acme").model_copy(update={"candidates": odd})
        check_command(request)
        site.now_ms += 2
        site.desk.handle(request, site.now_ms)


def test_calls_that_compress_badly_never_make_a_dump_too_large() -> None:
    """The dump itself is measured: ends of holds go first, then no more calls are taken in, and all that wait stay."""
    site, chance = Site(config(budgets={"acme": capped(total=1)}, max_parked=10_000)), random.Random(12)
    held = site.granted(candidate(usd=1))
    for _ in range(100):
        site.denied(candidate(usd=2))
    odd_calls(site, chance, 1_000)
    assert site.desk.state.full
    assert site.denied(mode="wait").reason == "ledger_full"
    status = site.desk.status()
    dumped = site.desk.dump()
    print(f"\n{status.parked} calls that resemble nothing: {len(dumped) / 1024:,.0f} KiB dumped")
    assert STATE_BYTES_MAX < len(dumped) < STATE_BYTES_MAX + STATE_BYTES_SLACK + 2 * LOOK_AFTER_BYTES < PAYLOAD_MAX
    assert 200 < status.parked < 1_000
    assert status.ended_dropped >= 100
    again = Desk.load(dumped)
    assert again.state.full
    assert again.status().parked == status.parked
    assert again.ledger.holds.keys() == {held.hold_id}


def test_a_state_too_large_since_the_last_look_says_so() -> None:
    """The next run takes in no calls, and again some when it is smaller."""
    site, chance = Site(config(budgets={"acme": capped(total=1)})), random.Random(13)
    site.granted(candidate(usd=1))
    odd_calls(site, chance, 5)
    assert not site.desk.state.full
    with patch.object(state_size, "STATE_BYTES_MAX", 10_000):
        site.cut()
        assert site.denied(mode="wait").reason == "ledger_full"
    site.wait(MINUTE)
    site.desk.advance(site.now_ms)
    assert site.parked()


def test_a_state_too_large_for_the_old_form_goes_on_in_the_new() -> None:
    """A ledger of version 0.1.0 whose holds nobody confirmed stays at the end of its run; a newer worker gets it on.

    Every dollar stays where it was, and a smaller state keeps its rules.
    """
    site = Site(config(budgets={"acme": capped(total=10**6)}), rules=1)
    chance = random.Random(2)

    def spend(calls: int) -> None:
        for _ in range(calls):
            run_id = str(UUID(int=chance.getrandbits(128), version=4))
            held = site.granted(hold_id=f"{run_id}/1")
            site.settle(held, chance.random(), confirmed=False)

    spend(100)
    site.desk = Desk.load(site.desk.handed_on(1))
    assert site.desk.state.rules == 1
    spend(1_500)
    outbox = site.desk.state.outbox
    stored = tuple(notice.sequence for notice in outbox.notices if isinstance(notice, Alert))
    site.desk.delivered(Delivery(delivered=stored), site.now_ms)
    posted = {key: site.balance(key).posted_nanos for key in ("budget:acme", "service:s")}
    with patch("paymaster.admission.state_size.OLD_FORM_BYTES_MAX", 100_000):
        site.desk = Desk.load(site.desk.handed_on(1))
    assert site.desk.state.rules == RULES
    assert site.desk.ledger.unconfirmed == UNCONFIRMED_MAX
    wanted, folded = site.desk.to_load(), {key: site.desk.ledger.accounts[key] for key in posted}
    assert wanted is not None
    stored_then = LoadedSpend(
        number=wanted.number,
        posted_nanos={key: dict.fromkeys(WINDOWS, account.folded_nanos) for key, account in folded.items()},
        unconfirmed={key: (account.folded, account.folded_nanos) for key, account in folded.items()},
    )
    site.desk.loaded(stored_then, site.now_ms)
    assert {key: site.balance(key).posted_nanos for key in posted} == posted
    assert site.desk.status(StatusRequest()).unconfirmed == 1_600
    assert any("no worker of 0.1.0" in alert.text for alert in site.alerts())
    site.wait(1)
    assert site.granted()


def test_alerts_are_dropped_in_time_beside_many_cap_changes() -> None:
    site = Site(config(budgets={"acme": capped(day=1)}))
    outbox = site.desk.state.outbox
    change = CapChange(
        sequence=1,
        at_ms=NOON,
        account="budget:acme",
        window="day",
        from_nanos=1,
        to_nanos=2,
        by_nanos=None,
        file_nanos=1,
        until_window_end=False,
        who="ada",
        reason="more",
    )
    alert = Alert(sequence=2, at_ms=NOON, what="overage", text="spent")
    outbox.notices = [*[change] * 10_000, *[alert] * 2_000]
    began = time.process_time()
    assert relieve(site.desk.state, 10**9) > 0
    assert time.process_time() - began < 0.5
    assert (len(outbox.notices), outbox.alerts_dropped) == (10_000, 2_000)


def test_a_state_small_only_when_compressed_takes_no_calls() -> None:
    """Until it is smaller; it can always be read again, and calls that come at one time are measured once."""
    site = Site(config(budgets={"acme": capped(total=1)}, max_parked=10_000))
    site.granted()
    with patch.object(state_size, "STATE_PLAIN_BYTES_MAX", 400_000):
        for number in range(2_000):
            route = tuple(candidate().model_copy(update={"model": f"{'m' * 190}{number}"}) for _ in range(3))
            if isinstance(site.reserve(*route), Denied):
                break
            site.now_ms += 1
        assert site.denied(mode="wait").reason == "ledger_full"
        plain = read(site.desk.dump())[1]
        assert 300_000 < plain < 600_000
        site.cut()
        site.wait(MINUTE)
        assert site.denied(mode="wait").reason == "ledger_full"
        for hold_id in list(site.desk.state.parked)[:-100]:
            site.void(hold_id)
        site.wait(2 * HOUR)
        assert site.parked()


def test_many_calls_at_one_time_fill_no_small_state() -> None:
    """Two thousand of a kilobyte each, as ten updates bring them."""
    site = Site(config(budgets={"acme": capped(total=10**6)}))
    route = tuple(candidate().model_copy(update={"model": f"model-{number}" * 10}) for number in range(3))
    assert all(isinstance(site.reserve(*route), Granted) for _ in range(2_000))


def test_more_than_one_look_takes_is_parked_for_a_moment() -> None:
    site = Site(config(budgets={"acme": capped(total=10**6)}, max_parked=10_000))
    with patch("paymaster.admission.parking.ASKED_AT_ONCE_MAX", 40):
        answers = [site.reserve() for _ in range(30)]
        assert [answer.kind for answer in answers[:10]] == ["granted"] * 10
        waiting = [answer.hold_id for answer in answers if isinstance(answer, Parked)]
        site.wait(1)
    assert site.served() == waiting
    assert site.granted()
