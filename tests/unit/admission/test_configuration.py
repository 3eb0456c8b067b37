"""State does not depend on history: a rebuilt ledger has the caps and answers of the one that ran on."""

import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from desk_kit import DAY, HOUR, USD, Site, candidate, capped, config, service
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.price_changes import price_changes
from paymaster.messages import AccountConfig, CapChange, ConfigChange, Delivery, DeskConfig, LoadedSpend, Window
from paymaster.values.limits import PRICES_MAX
from paymaster.values.money import Price, PriceTier

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
PATHS = ("acme", "acme/team", "other", "renamed")
ASKED = (*PATHS, "acme/team/x", "nobody")
WINDOWS: tuple[Window, ...] = ("day", "total")


class Store:
    """What the database keeps of a ledger: changes of caps, and configurations."""

    def __init__(self) -> None:
        self.cap_changes: list[tuple[str, CapChange]] = []
        self.configs: list[tuple[str, DeskConfig]] = []

    def take(self, site: Site) -> None:
        """All notices of the desk's outbox, as the activity `store_notices` does it."""
        state = site.desk.state
        for notice in state.outbox.notices:
            if isinstance(notice, CapChange):
                self.cap_changes.append((state.epoch, notice))
            elif isinstance(notice, ConfigChange):
                self.configs.append((notice.digest, state.config))
        done = tuple(notice.sequence for notice in state.outbox.notices)
        site.desk.delivered(Delivery(delivered=done), site.now_ms)

    def load_into(self, site: Site) -> None:
        """All pieces, until nothing more is asked for."""
        while (wanted := site.desk.to_load()) is not None:
            changes = tuple(change for epoch, change in self.cap_changes if epoch != wanted.epoch)
            earlier = [digest for digest, _ in self.configs if digest != self.configs[-1][0]]
            found = LoadedSpend(number=wanted.number, posted_nanos={})
            if wanted.with_cap_changes and self.configs:
                found = found.model_copy(
                    update={
                        "cap_changes": changes,
                        "config": self.configs[-1][1],
                        "superseded": tuple(dict.fromkeys(earlier)),
                    }
                )
            site.desk.loaded(found, site.now_ms)


def file(budgets: dict[str, dict[str, int] | None]) -> DeskConfig:
    """A configuration file whose digest follows from what it says; None: it does not name this budget."""
    named = {path: capped(**caps) for path, caps in sorted(budgets.items()) if caps is not None}
    return config(sha256(repr(named).encode()).hexdigest(), named)


caps_of_a_file = st.none() | st.dictionaries(st.sampled_from(WINDOWS), st.sampled_from([5, 10, 20]))
files = st.builds(file, st.fixed_dictionaries(dict.fromkeys(PATHS, caps_of_a_file)))
places = st.tuples(st.sampled_from([f"budget:{path}" for path in PATHS]), st.sampled_from(WINDOWS))
admins_step = st.one_of(
    st.tuples(st.just("set"), places, st.integers(0, 30)),
    st.tuples(st.just("raise"), places, st.integers(1, 9)),
    st.tuples(st.just("lapse"), places, st.integers(1, 9)),
    st.tuples(st.just("unset"), places, st.just(0)),
)
steps = st.one_of(
    st.tuples(st.just("bring"), files),
    st.tuples(st.just("apply"), files),
    admins_step,
    st.tuples(st.just("wait"), st.sampled_from([HOUR, DAY, 40 * DAY])),
    st.tuples(st.just("cut")),
    st.tuples(st.just("again"), files, st.lists(admins_step, max_size=3)),
)


def do(site: Site, step: tuple[Any, ...]) -> bool:
    """Whether the desk did it; an admin's command about what is not there is refused."""
    match step:
        case ("bring", DeskConfig() as brought):
            return site.desk.configure(brought, site.now_ms, who="worker").applied
        case ("apply", DeskConfig() as applied):
            return site.desk.configure(applied, site.now_ms, who="ada", force=True, may_remove=True).applied
        case ("wait", int() as ms):
            site.wait(ms)
            site.desk.advance(site.now_ms)
        case ("cut",):
            site.cut()
        case (what, (account, window), usd):
            try:
                if what == "set":
                    site.set_cap(str(usd), account, window)
                elif what == "unset":
                    site.unset_cap(account, window)
                else:
                    site.raise_cap(str(usd), account, window, lapses=what == "lapse")
            except ValueError:
                return False
        case _:
            raise AssertionError(step)
    return True


def caps(site: Site) -> dict[str, dict[Window, int | None]]:
    accounts = site.desk.ledger.accounts
    return {
        key: {window: balance.cap_nanos for window, balance in accounts[key].balances.items()}
        for key in sorted(accounts)
    }


def answers(site: Site) -> list[tuple[str, int, str, str]]:
    """To a small and to a larger call in each budget, which leave nothing behind."""
    found: list[tuple[str, int, str, str]] = []
    for path in ASKED:
        for usd in (1, 12):
            answer = site.reserve(candidate(usd=usd), budget=path, mode="fail")
            found.append((path, usd, answer.kind, getattr(answer, "reason", "")))
            site.void(getattr(answer, "hold_id", "") or f"run-{site.calls}/1")
    return found


def rebuilt(store: Store, running: Site, brought: DeskConfig, early: Sequence[tuple[Any, ...]], epoch: str) -> Site:
    """New books, begun by a worker with this file, to which admins send the same as to the running ones."""
    new = Site(brought, running.now_ms, load=False, epoch=epoch)
    do(running, ("bring", brought))
    old_file = running.desk.state.config.digest != brought.digest
    for step in early if not old_file else ():
        if do(new, step):
            assert do(running, step)
    store.load_into(new)
    store.load_into(running)
    return new


@settings(max_examples=examples(60), deadline=None, derandomize=True, database=None)
@given(files, st.lists(steps, max_size=9), files)
def test_a_rebuilt_ledger_has_the_same_caps_and_answers(
    first: DeskConfig, history: list[tuple[Any, ...]], last: DeskConfig
) -> None:
    """Any order of files that workers bring or admins apply, raises, removals, renames, restarts and cuts."""
    store, running = Store(), Site(first, load=False, epoch="0")
    store.load_into(running)
    every: list[tuple[Any, ...]] = [*history, ("again", last, [])]
    for number, step in enumerate(every, 1):
        if step[0] != "again":
            do(running, step)
            store.load_into(running)
            continue
        store.take(running)
        _, brought, early = step
        new = rebuilt(store, running, brought, early, epoch=str(number))
        assert caps(new) == caps(running)
        assert answers(new) == answers(running)
        assert new.desk.state.config == running.desk.state.config
        running = new


def test_a_raise_does_not_come_back_with_a_value_that_the_file_had_before() -> None:
    """File $10, $5 more by an admin, file $20, file $10 again: running $10, and once rebuilt it was $15."""
    ten, twenty = file({"acme": {"day": 10}}), file({"acme": {"day": 20}})
    store, site = Store(), Site(ten, load=False, epoch="first")
    store.load_into(site)
    site.raise_cap("5")
    for step in (("bring", twenty), ("apply", ten)):
        assert do(site, step)
    assert site.balance().cap_nanos == 10 * USD
    store.take(site)
    new = Site(ten, site.now_ms, load=False, epoch="second")
    store.load_into(new)
    assert new.balance().cap_nanos == 10 * USD
    store.take(new)
    third = Site(ten, site.now_ms, load=False, epoch="third")
    store.load_into(third)
    assert third.balance().cap_nanos == 10 * USD


@pytest.mark.parametrize("renamed", [False, True])
def test_a_budget_that_is_removed_is_unknown_and_not_unlimited(renamed: bool) -> None:
    """150 calls went through at "no cap" under the old path, while a new ledger with the same file refused them."""
    after = file({"acme": None, "renamed": {"day": 5}} if renamed else {"other": {"day": 5}})
    site = Site(file({"acme": {"day": 5}, "other": {"day": 5}}))
    waiting = site.parked(candidate(usd=5), candidate(usd=5)) if site.granted(candidate(usd=5)) else ""
    assert site.desk.configure(after, site.now_ms, may_remove=True).applied
    assert {hold_id: answer.kind for hold_id, answer in site.answers().items()} == {waiting: "denied"}
    assert site.denied(candidate(usd=1)).reason == "unknown_budget"
    assert site.denied(candidate(usd=1), budget="acme/team").reason == "unknown_budget"


def test_what_an_admin_capped_stays_named_when_the_file_drops_it() -> None:
    """The file's cap goes, the admin's stays."""
    site = Site(file({"acme": {"day": 5}, "other": {}}))
    site.set_cap("3", window="total")
    site.desk.configure(file({"other": {}}), site.now_ms, may_remove=True)
    assert (site.balance().cap_nanos, site.balance(window="total").cap_nanos) == (None, 3 * USD)
    assert site.denied(candidate(usd=4)).reason == "bound_above_cap"


def test_a_start_that_lacks_budgets_and_caps_keeps_them_and_says_so() -> None:
    """Everything else in its file is in force; told once, and `config apply` does the rest."""
    site = Site(file({"acme": {"day": 5, "total": 9}, "other": {"day": 5}, "renamed": {}}))
    smaller = file({"acme": {"day": 4}, "acme/team": {"day": 1}})
    answer = site.desk.configure(smaller, site.now_ms, who="worker on HOST")
    assert answer.applied
    assert answer.kept == "acme total $9.00 → no cap; other (day $5.00) → removed; renamed (no cap) → removed"
    assert site.new_alerts() == ["config_changed", "config_kept"]
    assert [site.balance(key, "day").cap_nanos for key in ("budget:acme", "budget:acme/team", "budget:other")] == [
        4 * USD,
        1 * USD,
        5 * USD,
    ]
    again = site.desk.configure(smaller, site.now_ms, who="another worker")
    assert (again.applied, again.kept) == (False, answer.kept)
    assert site.new_alerts() == []
    done = site.desk.configure(smaller, site.now_ms, who="ada@host, config apply", may_remove=True)
    assert (done.applied, done.kept) == (True, "")
    assert site.new_alerts() == ["config_changed"]
    assert sorted(site.desk.ledger.accounts) == ["budget:acme", "budget:acme/team", "service:s"]


def test_alerts_of_a_configuration_say_what_changed_and_the_command() -> None:
    """Who, what, and what to type."""
    site = Site(file({"acme": {"day": 5}, "other": {"day": 5}}))
    site.raise_cap("1")
    site.desk.configure(file({"acme": {"day": 4}}), site.now_ms, who="worker on HOST")
    _, changed, kept = site.alerts()  # the first one tells of the raise
    assert changed.text == (
        "the configuration was changed by worker on HOST: acme day $6.00 (an admin's; the file's was $5.00) → $4.00"
    )
    assert kept.text.startswith(
        "the file brought by worker on HOST would remove what stays in force: other (day $5.00)"
    )
    assert "`paymaster config apply`" in kept.text


def test_ten_thousand_differences_are_told_in_a_few_words() -> None:
    """They are kept in the state, in the database and in alerts."""
    site = Site(config("many", {f"acme/b{n:05}": capped(day=5) for n in range(9_999)}))
    answer = site.desk.configure(config("few", {"acme": capped(day=5)}), site.now_ms)
    assert answer.kept.endswith(" more")
    assert len(answer.kept) < 1_024
    assert all(
        len(alert.text.encode()) <= 1_000 and "config apply" in alert.text for alert in site.alerts("config_kept")
    )
    assert site.alerts("config_kept")


def test_what_stays_and_what_is_new_must_fit_into_a_message() -> None:
    """Else the ledger could not continue as new; `config apply` can."""
    site = Site(config("old", {f"old/b{n:05}": capped(day=5) for n in range(6_000)}))
    new = config("new", {f"new/b{n:05}": capped(day=5) for n in range(6_000)})
    answer = site.desk.configure(new, site.now_ms)
    assert not answer.applied
    assert "there are 12000 budgets" in answer.detail
    assert "`paymaster config apply`" in answer.detail
    assert site.desk.configure(new, site.now_ms, may_remove=True).applied


def test_a_configuration_that_removes_waits_until_the_stored_one_is_known() -> None:
    """Else it would remove only what it can see."""
    site = Site(file({"acme": {"day": 5}, "other": {}}), load=False)
    answer = site.desk.configure(file({"acme": {}}), site.now_ms, may_remove=True)
    assert not answer.applied
    assert "ask again" in answer.detail
    site.load()
    assert site.desk.configure(file({"acme": {}}), site.now_ms, may_remove=True).applied


def test_a_price_that_falls_by_more_than_half_is_told() -> None:
    """It decides as much as a cap, and needs no signature; a smaller step and a rise are told as changes."""
    site = Site(config(budgets={"acme": capped(day=10**6)}))
    fell, changed = ["price_fell"], ["price_changed"]
    steps = [(1_000, []), (501, changed), (250, fell), (0, fell), (1_000, changed), (0, fell), (1_000, []), (0, [])]
    for rate, told in steps:
        price = Price(input_nanos=0, output_nanos=rate * USD, source="a file")
        site.settle(site.granted(candidate(price=price)))
        assert site.new_alerts() == told, rate
        site.cut()
    site.wait(DAY)
    for rate in (1_000, 0):
        site.settle(site.granted(candidate(price=Price(input_nanos=0, output_nanos=rate * USD, source="a file"))))
    (alert,) = site.alerts("price_fell")
    assert "s/m price output $1,000.00 → $0.00 per million tokens, says a worker (a file)" in alert.text


def test_every_rate_of_a_price_is_looked_at() -> None:
    site = Site(config(budgets={"acme": capped(day=10**6)}))
    price = Price(input_nanos=8 * USD, output_nanos=9 * USD, source="a list")
    tier = PriceTier(
        above_input_tokens=200_000, input_nanos=16 * USD, output_nanos=18 * USD, cached_input_nanos=4 * USD
    )
    cheaper = tier.model_copy(update={"cached_input_nanos": USD})
    steps: list[tuple[dict[str, object], list[str]]] = [
        ({"cached_input_nanos": 4 * USD}, ["cached input $8.00 → $4.00"]),
        ({"cache_write_nanos": 10 * USD}, ["cache writes $8.00 → $10.00"]),
        ({"request_nanos": 5}, ["request $0.00 → $0.000000005 each"]),
        ({"tiers": (tier,)}, [f"{each} above 200,000 tokens $" for each in ("input", "output", "cache writes")]),
        ({"tiers": (cheaper,)}, ["cached input above 200,000 tokens $4.00 → $1.00"]),
        (
            {"tiers": (cheaper.model_copy(update={"above_input_tokens": 100_000}),)},
            ["input above 100,000 tokens $8.00 → $16.00", "output above 100,000 tokens $9.00 → $18.00"],
        ),
        ({"tiers": ()}, ["input above 100,000 tokens $16.00 → $8.00", "cached input above 100,000 tokens $1.00 → $4"]),
    ]
    site.settle(site.granted(candidate(price=price)))
    assert site.new_alerts() == []
    for step, expected in steps:
        price = price.model_copy(update=step)
        site.settle(site.granted(candidate(price=price)))
        (alert,) = site.alerts()
        for each in expected:
            assert f"s/m price {each}" in alert.text
        assert alert.what == ("price_fell" if "→ $1.00" in alert.text else "price_changed")
        site.new_alerts()
        site.cut()


def test_rates_of_input_and_output_alone_are_still_known() -> None:
    assert [str(each) for each in price_changes((8 * USD, 9 * USD), (8 * USD, 3 * USD, 1, 2, 3, 4, 5, 6, 7, 8))] == [
        "output $9.00 → $3.00 per million tokens"
    ]


def test_a_price_that_a_call_chose_says_nothing_of_the_others() -> None:
    site = Site(config(budgets={"acme": capped(day=10**6)}))
    for rate, source in ((1_000, "a list at service_tier=priority"), (400, "a list"), (1_000, "a list at speed=fast")):
        price = Price(input_nanos=0, output_nanos=rate * USD, source=source)
        site.settle(site.granted(candidate(price=price)))
    site.settle(site.granted(candidate(price=Price(input_nanos=0, output_nanos=400 * USD, source="a list"))))
    assert site.alerts("price_fell") == []


def test_prices_are_remembered_of_a_bounded_number_of_models() -> None:
    """Whoever invents models cannot fill the state."""
    site = Site()
    for number in range(PRICES_MAX + 10):
        site.void(site.granted(candidate().model_copy(update={"model": f"m{number}"})))
    assert len(site.desk.state.prices) == PRICES_MAX


def test_books_that_begin_empty_beside_others_are_told() -> None:
    """A changed ledger.name."""
    site = Site(load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={}, other_ledgers=("default",)), site.now_ms)
    (alert,) = site.alerts()
    assert (alert.what, "ledger 'test', and something of: default." in alert.text) == ("empty_books", True)


def test_books_that_begin_anew_say_what_they_forget() -> None:
    """Of a ledger that is lost, what admins did is stored only where it concerns caps and the configuration."""
    site = Site(load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    stored = config("stored", {"acme": AccountConfig(caps_nanos={"day": 10 * USD})})
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos={}, config=stored), site.now_ms)
    (alert,) = site.alerts("books_anew")
    assert "services that they paused are called again" in alert.text


def test_settings_of_all_kinds_have_words() -> None:
    """Limits, breakers, retries, the ledger's own, [admin]; nothing is left out."""
    first = config("1", services={"s": service(requests=600)})
    second = config("2", {"acme": AccountConfig(caps_nanos={"day": 10 * USD})}, {"s": service(cooldown_ms=5_000)}, 7)
    site = Site(first)
    site.desk.configure(second, site.now_ms)
    (alert,) = site.alerts("config_changed")
    for words in (
        "acme alert_at none → 0.5, 0.8, 0.95",
        "service s requests_per_minute 600 → no limit",
        "service s breaker_cooldown 30 s → 5 s",
        "the ledger's max_parked 2000 → 7",
    ):
        assert words in alert.text


def test_a_configuration_without_most_budgets_is_applied_in_time() -> None:
    """Each hold is looked at once, however many budgets go: 3,000 of each take well below a second."""
    budgets = {f"b{number}": capped(day=10) for number in range(3_000)}
    site = Site(config(budgets=budgets))
    for path in budgets:
        site.granted(budget=path)
    began = time.process_time()
    site.desk.configure(config("second", budgets={"b0": capped(day=10)}), site.now_ms, may_remove=True)
    assert time.process_time() - began < 1
    assert {hold.accounts for hold in site.desk.ledger.holds.values()} == {("service:s", "budget:b0"), ("service:s",)}
