"""A limit that is one model's pauses this model; the others of its service are called meanwhile."""

from desk_kit import DAY, MINUTE, SECOND, USD, Site, candidate, capped, config, service
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.breaker import MODELS_PAUSED_MAX, Breaker, Gate
from paymaster.messages import AttemptReport, Candidate, Grant, ResumeService


def site(**services: int | None) -> Site:
    """Two services, of which `s` has no limits unless they are named."""
    return Site(config(budgets={"acme": capped(total=10**6)}, services={"s": service(), "t": service()}))


def model(name: str, of: str = "s") -> Candidate:
    return candidate(of).model_copy(update={"model": name})


def reached(site: Site, grant: Grant, pause_ms: int) -> None:
    """The service said that the limit of this model is reached, and for how long."""
    report = AttemptReport(hold_id=grant.hold_id, service=grant.service, model=grant.model, pause_ms=pause_ms)
    site.desk.report(report, site.now_ms)
    site.settle(grant, 0, served=False)


def test_the_next_model_is_called_during_a_pause() -> None:
    paused = site()
    route = (model("small"), model("large"))
    reached(paused, paused.granted(*route), 12 * SECOND)
    assert paused.granted(*route).model == "large"
    assert paused.granted(model("other"), *route).model == "other"
    assert paused.granted(model("small", "t"), *route).service == "t"
    paused.cut()
    assert paused.granted(*route).model == "large"
    paused.wait(12 * SECOND)
    assert paused.granted(*route).model == "small"


def test_who_has_no_other_model_waits_for_the_pause_to_end() -> None:
    """All others like it wait too; who comes later for another model does not."""
    paused = site()
    reached(paused, paused.granted(model("small")), 12 * SECOND)
    waiting = [paused.parked(model("small")) for _ in range(3)]
    assert "limit of its own for another 12 s" in next(iter(paused.desk.state.parked.values())).detail
    assert paused.granted(model("large"))
    paused.wait(12 * SECOND - 1)
    assert paused.served() == []
    paused.cut()
    paused.wait(1)
    assert paused.served() == waiting


def test_however_long_it_waits_others_call_other_models() -> None:
    """Its service is not kept for it, which it has again before those behind it when the pause ends."""
    paused = site()
    reached(paused, paused.granted(model("small")), 10 * MINUTE)
    waiting = paused.parked(model("small"))
    paused.wait(9 * MINUTE)
    paused.granted(model("large"))
    later = paused.parked(model("small"))
    paused.wait(MINUTE)
    assert paused.served() == [waiting, later]


def test_an_admin_ends_the_pauses_of_models_too_and_sees_them() -> None:
    paused = site()
    reached(paused, paused.granted(model("small")), DAY)
    waiting = paused.parked(model("small"))
    (status, _) = paused.desk.status().services
    assert status.paused_models == ("small",)
    assert status.paused_until_ms is None
    paused.desk.resume_service(ResumeService(service="s"), paused.now_ms)
    assert paused.served() == [waiting]
    assert paused.desk.status().services[0].paused_models == ()


def test_under_the_rules_of_old_ledgers_the_service_is_paused() -> None:
    """A worker of 0.1.0 that goes on with the ledger knows no other pause."""
    paused = Site(config(budgets={"acme": capped(total=10**6)}), rules=1)
    reached(paused, paused.granted(model("small")), 12 * SECOND)
    paused.parked(model("large"))
    assert paused.desk.status().services[0].paused_until_ms == paused.now_ms + 12 * SECOND


def test_the_models_that_are_remembered_are_bounded() -> None:
    gate = Gate(Breaker(5, 30_000))
    for number in range(2 * MODELS_PAUSED_MAX):
        gate.pause_model(f"m{number}", 1_000 + number, 0)
    assert len(gate.models_paused_until_ms) == MODELS_PAUSED_MAX
    assert min(gate.models_paused_until_ms.values()) == 1_000 + MODELS_PAUSED_MAX
    gate.pause_model("m", 10_000, 5_000)
    assert gate.models_paused_until_ms == {"m": 10_000}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pause"), st.sampled_from(["a", "b", "c"]), st.integers(1, 90)),
        st.tuples(st.just("call"), st.permutations(["a", "b", "c"]).map(lambda each: each[:2]), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 60)),
        st.tuples(st.just("cut"), st.just(""), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
@given(steps=steps)
def test_no_call_waits_while_one_of_its_models_is_free(steps: list[tuple[str, str | list[str], int]]) -> None:
    """After each step; and when all pauses are over, all that waited were granted."""
    paused, ends, waiting = site(), dict.fromkeys("abc", 0), dict[str, list[str]]()
    for what, which, number in steps:
        match what:
            case "pause":
                assert isinstance(which, str)
                report = AttemptReport(hold_id="", service="s", model=which, pause_ms=number * SECOND)
                paused.desk.report(report, paused.now_ms)
                ends[which] = max(ends[which], paused.now_ms + number * SECOND)
            case "call":
                for _ in range(number):
                    request = paused.request(*(model(name) for name in which))
                    free = [name for name in which if ends[name] <= paused.now_ms]
                    answer = paused.desk.handle(request, paused.now_ms)
                    assert answer.kind == ("granted" if free else "parked")
                    if free:
                        assert paused.desk.ledger.holds[request.hold_id].grant.model == free[0]
                    else:
                        waiting[request.hold_id] = list(which)
            case "wait":
                paused.wait(number * SECOND)
            case _:
                paused.cut()
        for hold_id in paused.served():
            del waiting[hold_id]
        for names in waiting.values():
            assert all(ends[name] > paused.now_ms for name in names)
    paused.wait(3 * MINUTE)
    assert set(paused.served()) == set(waiting)
    assert not paused.desk.state.parked
    assert paused.balance("budget:acme", "total").pending_nanos == len(paused.desk.ledger.holds) * USD
