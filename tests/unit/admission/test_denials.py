"""A denial names every cap in the way, the nearest first, and what would let exactly this call pass."""

import re
import shlex
from typing import NamedTuple

import pytest
from desk_kit import DAY, DOLLAR_PER_TOKEN, USD, Site, at, candidate, capped, config, service
from hypothesis import assume, given
from hypothesis import strategies as st

from paymaster.admission.desk import Desk
from paymaster.messages import AccountConfig, AdminConfig, Candidate, Denied, PauseService, RaiseCap, RunTerms
from paymaster.values.limits import DETAIL_BYTES_MAX, IN_THE_WAY_MAX
from paymaster.values.money import NANOS_MAX, Price
from paymaster.values.windows import WINDOWS

LEAF, OTHER = "acme/content/writer", "customers/42"
NEAREST = [
    "budget:acme/content/writer",
    "budget:acme/content",
    "budget:acme",
    "budget:customers/42",
    "budget:customers",
]
"""Of a call that counts for both."""
CAPS = st.dictionaries(st.sampled_from(WINDOWS), st.integers(0, 12), max_size=3)
RAISE = re.compile(r"paymaster budget raise (\S+) --window (\S+) --by (\S+) --reason")


class Spent(NamedTuple):
    """What others have spent and hold of a budget, in dollars."""

    budget: str
    posted: int
    pending: int


@st.composite
def sites(draw: st.DrawFn) -> Site:
    """Two trees and two services with caps anywhere, watched only here and there, of which others have used some."""
    budgets = {
        key.removeprefix("budget:"): capped(**draw(CAPS)).model_copy(update={"enforce": draw(st.booleans())})
        for key in NEAREST
    }
    site = Site(config(budgets=budgets, services={"s": service(**draw(CAPS)), "t": service(**draw(CAPS))}))
    for spent in draw(st.lists(st.builds(Spent, st.sampled_from([LEAF, OTHER]), st.integers(0, 5), st.integers(1, 5)))):
        use(site, spent)
    return site


def use(site: Site, spent: Spent) -> None:
    """So much of it as there is room for."""
    for usd, posts in ((spent.posted, True), (spent.pending, False)):
        answer = site.reserve(candidate(usd=max(usd, 1)), budget=spent.budget, mode="fail")
        if answer.kind == "granted" and posts:
            site.settle(answer.grant, usd)
        elif answer.kind == "parked":  # it would come first
            site.void(answer.hold_id)


def without_room(site: Site, wanted: Candidate) -> list[tuple[str, str]]:
    """Added up from the books, in the order in which they should be named."""
    found: list[tuple[str, str]] = []
    for key in [*NEAREST, f"service:{wanted.service}"]:
        account = site.desk.ledger.accounts[key]
        for window, balance in account.balances.items():
            used = balance.posted_nanos + balance.pending_nanos
            if (
                account.enforced
                and balance.cap_nanos is not None
                and balance.cap_nanos < used + wanted.max_output_tokens * USD
            ):
                found.append((key, window))
    return found


def denial(site: Site, *candidates: Candidate) -> Denied | None:
    answer = site.reserve(*candidates, budget=(LEAF, OTHER), mode="fail")
    return answer if isinstance(answer, Denied) else None


def carry_out(site: Site, detail: str) -> None:
    """What an admin types."""
    _, _, helps = detail.partition("To let it pass: ")
    every = re.search(r"raise each of these caps by \$([0-9.,]+)", helps)
    raises = [(account, window, by) for account, window, by in RAISE.findall(helps)]
    if every is not None:
        named = re.findall(r"((?:budget|service):\S+)(?: has a cap of \S+)? \((\w+)", detail)
        raises = [(account, window, every[1].replace(",", "")) for account, window in named]
    assert raises, detail
    for account, window, by in raises:
        key = account if ":" in account else f"budget:{account}"
        change = RaiseCap.model_validate(
            {"account": key, "window": window, "by": by, "who": "ada", "reason": "as the denial says"}
        )
        site.desk.raise_cap(change, site.now_ms)


@given(site=sites(), usd=st.integers(1, 15))
def test_each_cap_without_room_is_named_and_none_other(site: Site, usd: int) -> None:
    wanted = candidate(usd=usd)
    expected = without_room(site, wanted)
    denied = denial(site, wanted)
    assume(denied is not None)
    assert denied is not None
    assert [(n.account, n.window) for n in denied.in_the_way] == expected[:IN_THE_WAY_MAX]
    named = re.findall(r"((?:budget|service):\S+)(?: has a cap of \S+)? \((\w+)", denied.detail)
    assert named == expected
    for notice in denied.in_the_way:
        balance = site.balance(notice.account, notice.window)
        assert (notice.cap_nanos, notice.posted_nanos, notice.pending_nanos) == (
            balance.cap_nanos,
            balance.posted_nanos,
            balance.pending_nanos,
        )
        assert notice.left_nanos < usd * USD


@given(site=sites(), usd=st.integers(1, 15), other_usd=st.integers(1, 15))
def test_the_commands_let_exactly_this_call_pass(site: Site, usd: int, other_usd: int) -> None:
    """And not one that costs a nano-dollar more."""
    candidates = [candidate("s", usd), candidate("t", other_usd)]
    denied = denial(site, *candidates)
    assume(denied is not None)
    assert denied is not None
    carry_out(site, denied.detail)
    before = site.desk.dump()
    assert site.reserve(*candidates, budget=(LEAF, OTHER)).kind == "granted"
    site.desk = Desk.load(before)
    if "raise each" not in denied.detail:
        dearer = [each.model_copy(update={"price": a_nano_dearer()}) for each in candidates]
        assert site.reserve(*dearer, budget=(LEAF, OTHER)).kind != "granted"


def a_nano_dearer() -> Price:
    return DOLLAR_PER_TOKEN.model_copy(update={"request_nanos": 1})


@given(cap=st.integers(1, 12), posted=st.integers(0, 11), asked=st.integers(13, 30))
def test_the_output_that_is_said_to_fit_fits(cap: int, posted: int, asked: int) -> None:
    """And one token more does not."""
    site = Site(config(budgets={"acme": capped(day=cap)}))
    assume(posted < cap)
    site.settle(site.granted(candidate(usd=max(posted, 1))), posted)
    denied = site.denied(candidate(usd=asked))
    assert denied.reason == "bound_above_cap"
    said = re.search(
        r"at most ([0-9,]+) output tokens \(max_output_tokens\), or `paymaster budget raise", denied.detail
    )
    assert said is not None
    tokens = int(said[1])
    assert isinstance(site.reserve(candidate(usd=tokens + 1), mode="fail"), Denied)
    site.granted(candidate(usd=tokens), mode="fail")


def test_a_denial_in_words() -> None:
    """The whole sentence."""
    site = Site(config(budgets={"acme": capped(month=100), "acme/content": capped(day=10)}))
    site.settle(site.granted(candidate(usd=9), budget="acme/content"), 9)
    site.granted(candidate(usd=1), budget="acme/content")
    assert site.denied(candidate(usd=2), budget="acme/content").detail == (
        "s/m: the call can cost up to $2.00; "
        "budget:acme/content has a cap of $10.00 (day until 2027-03-11 00:00:00 UTC), $9.00 spent and $1.00 held. "
        'To let it pass: `paymaster budget raise acme/content --window day --by 2.00 --reason "…"`'
    )


def test_the_command_is_one_that_a_shell_takes() -> None:
    site = Site(config(budgets={"acme": capped(day=1, total=1)}))
    command = site.denied(candidate(usd=3_000)).detail.partition("or `")[2].rstrip("`")
    assert shlex.split(command) == [
        *("paymaster", "budget", "raise", "acme", "--window", "day", "--by", "2999.00", "--reason", "…", "&&"),
        *("paymaster", "budget", "raise", "acme", "--window", "total", "--by", "2999.00", "--reason", "…"),
    ]


def test_where_commands_are_signed_it_says_so() -> None:
    signed = config().model_copy(update={"admin": AdminConfig(require_signature=True, keys={})})
    assert "--sign-with FILE" in Site(signed).denied(candidate(usd=11)).detail


def test_what_no_cap_can_be_is_not_said_to_help() -> None:
    dear = Price(input_nanos=10**19, output_nanos=NANOS_MAX, source="senseless")
    detail = Site().denied(candidate(usd=10**9, price=dear)).detail
    assert "paymaster budget raise" not in detail


def test_a_run_is_the_nearest_and_is_raised_as_a_run() -> None:
    site = Site(config(budgets={"acme": capped(day=1)}))
    limits = RunTerms(usd_nanos=3 * USD), RunTerms(usd_nanos=1 * USD)
    site.parked(candidate(usd=1), run="report/search", run_terms=limits)
    site.load()
    denied = site.denied(candidate(usd=4), run="report/search", run_terms=limits)
    assert [n.account for n in denied.in_the_way] == ["run:report/search", "run:report", "budget:acme"]
    assert denied.detail.partition("To let it pass: `")[2] == (
        'paymaster runs raise report/search --by 4.00 --reason "…" && '
        'paymaster runs raise report --by 2.00 --reason "…" && '
        'paymaster budget raise acme --window day --by 4.00 --reason "…"`'
    )


def test_the_end_of_the_window_is_that_of_its_time_zone() -> None:
    oslo = capped(day=1).model_copy(update={"time_zone": "Europe/Oslo"})
    zones = {"Europe/Oslo": ((0, 60),)}
    site = Site(config(budgets={"acme": oslo}).model_copy(update={"time_zones": zones}))
    [notice] = site.denied(candidate(usd=2)).in_the_way
    assert notice.ends_at_ms == at(2027, 3, 10, 23)


def test_who_waited_too_long_is_told_the_same() -> None:
    site = Site(config(budgets={"acme": capped(day=10), "acme/content": capped(total=5)}))
    site.settle(site.granted(candidate(usd=5), budget="acme/content"), 5)
    waiting = site.parked(candidate(usd=6), candidate("s", 5), budget="acme/content", wait_ms=1_000)
    site.wait(2_000)
    denied = site.answers()[waiting]
    assert isinstance(denied, Denied)
    assert denied.detail.startswith(
        "parked for 1 s; s/m: the call can cost up to $6.00; s/m: the call can cost up to $5.00"
    )
    assert [(n.account, n.ends_at_ms) for n in denied.in_the_way] == [
        ("budget:acme/content", None),
        ("budget:acme", at(2027, 3, 11)),
    ]
    carry_out(site, denied.detail)
    site.granted(candidate(usd=5), budget="acme/content")


def test_who_waited_for_a_service_that_is_gone_is_told_what_it_waited_for() -> None:
    site = Site(config(services={"s": service(), "t": service(day=1)}))
    site.settle(site.granted(candidate("t", 1)), 1)
    waiting = site.parked(candidate("t", 1), wait_ms=1_000)
    site.desk.configure(config("other"), site.now_ms, may_remove=True)
    site.wait(2_000)
    denied = site.answers()[waiting]
    assert isinstance(denied, Denied)
    assert denied.reason in ("waited_too_long", "unknown_service")


def test_who_waited_for_something_else_is_told_that_too() -> None:
    site = Site(config(services={"s": service(), "t": service()}))
    site.desk.pause_service(PauseService(service="t", who="ada"), site.now_ms)
    site.settle(site.granted(candidate(usd=10)), 10)
    waiting = site.parked(candidate("s"), candidate("t", 0), wait_ms=1_000)
    site.wait(2_000)
    denied = site.answers()[waiting]
    assert isinstance(denied, Denied)
    assert "t is paused by ada" in denied.detail
    assert "budget:acme has a cap" in denied.detail


def test_a_denial_stays_bounded_and_keeps_what_helps() -> None:
    """Four budgets of sixteen levels, each with a cap in each window."""
    paths = ["/".join(f"{name}-{level:03}" for level in range(16)) for name in ("red", "green", "blue", "pink")]
    budgets: dict[str, AccountConfig] = {}
    for path in paths:
        parts = path.split("/")
        budgets |= {"/".join(parts[: n + 1]): capped(**dict.fromkeys(WINDOWS, 1)) for n in range(16)}
    denied = Site(config(budgets=budgets)).denied(candidate(usd=3), budget=tuple(paths))
    assert len(denied.detail.encode()) <= DETAIL_BYTES_MAX
    assert denied.detail.endswith("or raise each of these caps by $2.00")
    assert len(denied.in_the_way) == IN_THE_WAY_MAX
    assert {n.account for n in denied.in_the_way} == {f"budget:{paths[0]}"}


def test_under_the_rules_of_0_1_0_the_words_stay() -> None:
    site = Site(rules=1)
    denied = site.denied(candidate(usd=11))
    assert denied.detail == "s/m: budget:acme has a cap of $10.00 (day), and the call can cost up to $11.00"
    assert "in_the_way" not in denied.model_dump_json()


def test_it_is_answered_alike_after_a_cut() -> None:
    site = Site()
    denied = site.denied(candidate(usd=11))
    site.cut()
    assert site.desk.handle(site.request(hold_id=denied.hold_id), site.now_ms) == denied
    site.wait(DAY)
    site.cut()


@pytest.mark.parametrize("window", WINDOWS)
def test_every_window_is_named(window: str) -> None:
    site = Site(config(budgets={"acme": capped(**{window: 1})}))
    [notice] = site.denied(candidate(usd=2)).in_the_way
    assert (notice.window, notice.ends_at_ms is None) == (window, window == "total")
