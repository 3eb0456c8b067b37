"""What an admin does while calls run: pauses, takes back, resumes, and sends nonsense by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer
from paymaster_process import (
    Databases,
    OwnWorkers,
    Site,
    configuration,
    own_workers,
    readable_history,
    results_of,
    running_site,
    settled_books,
    until,
)
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError

from paymaster import LLMRequest, Outcome
from paymaster.admission.desk import Desk
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.errors import AdminRefused
from paymaster.messages import AttemptReport, CapState, PauseService, RaiseCap, ResumeService, SetCap
from paymaster.providers.bounds import input_bytes
from paymaster.settings.desk_config import desk_config
from paymaster.values.money import nanos_to_usd

pytestmark = pytest.mark.timeout(90)


def ask(route: str, on_exhausted: str = "wait", name: str = "Say hello") -> LLMRequest:
    return LLMRequest.model_validate(
        {"route": route, "budget": f"acme/{route}", "prompt": name, "on_exhausted": on_exhausted}
    )


BOUND_NANOS = (input_bytes(ask("first")) + 1_024) * 1_000 + 100 * 4_000
NONSENSE: tuple[object, ...] = (
    {"account": "budget:nowhere", "window": "total", "by": "1"},
    {"account": "budget:acme", "window": "fortnight", "by": "1"},
    {"account": "budget:acme", "window": "day", "by": "1"},
    {"account": "budget:acme", "window": "total"},
    {"account": "budget:acme", "window": "total", "by": "a lot"},
    {"account": "budget:acme", "window": "total", "by": 0.1 + 1e-17, "bye": 1},
    {"account": "budget:acme", "window": "total", "by": 1e-300},
    {"account": "budget:acme", "window": "total", "by": "NaN"},
    {"account": "budget:acme", "window": "total", "by": "1e999999999"},
    {"account": "budget:acme", "window": "total", "by": "1e-999999999"},
    {"account": "budget:acme", "window": "total", "by": "1.00000000000000000000000000000000001"},
    {"account": "budget:acme", "window": "total", "by": "-1"},
    {"account": "budget:acme\ud800", "window": "total", "by": "1"},
    {"account": "budget:acme", "window": "total", "by": "1", "reason": "half \ud800"},
    {"account": "budget:" + "x" * 1_500_000, "window": "total", "by": "1"},
    {"account": "budget:acme", "window": "total", "by": "1", "y" * 1_500_000: 1},
    {"account": "budget:acme", "window": "total", "by": "1", "half \ud800": 1},
    {"account": "budget:acme", "window": "total", "by": True},
    ["budget:acme", "total", "1"],
    "raise it",
    None,
)


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    """Route `both` has two services, route `admin-first` the first one alone."""
    first, second = server.service("admin-first"), server.service("admin-second")
    tables = configuration(
        [first, second],
        routes={"first": [first], "both": [first, second]},
        budgets={"acme": {"cap_usd": {"total": "1"}}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


async def by_update(site: Site, name: str) -> None:
    change = {"service": "admin-first", "reason": "bill unclear", "who": "ada"}
    if name == "pause_service":
        state = await site.ledger.pause_service(PauseService.model_validate(change))
    else:
        state = await site.ledger.resume_service(ResumeService.model_validate(change))
    assert (state.service, state.paused) == ("admin-first", name == "pause_service")


async def by_plain_json(site: Site, name: str) -> None:
    """Sends a signal without a converter of ours, just JSON: so the Temporal UI does it."""
    plain = await Client.connect(site.temporal_address, namespace=site.namespace)
    change = {"service": "admin-first", "reason": "bill unclear", "who": "ada"}
    await plain.get_workflow_handle("budget/default").signal(name, change)


async def until_status(site: Site, **wanted: int) -> None:
    async def so_it_is() -> bool:
        status = await site.ledger.status()
        return all(getattr(status, name) == value for name, value in wanted.items())

    await until(so_it_is, f"{wanted}")


@pytest.mark.parametrize("tell", [by_update, by_plain_json])
async def test_calls_to_a_paused_service_fall_back_or_park_and_go_on_when_it_is_resumed(
    site: Site, server: CountingServer, tell: Callable[[Site, str], Awaitable[None]]
) -> None:
    """With `fail` too: a pause is no lack of money. Nothing at all is sent to it meanwhile."""
    first, second = server.service("admin-first"), server.service("admin-second")
    count, count_second = first.count, second.count
    await tell(site, "pause_service")

    async def paused() -> bool:
        return (await site.service_status("admin-first")).paused_by == "ada (bill unclear)"

    await until(paused, "the service is paused")
    parked = [await start(site.client, ask("first", mode)) for mode in ("wait", "fail")]
    fell_back = await generate(site.client, ask("both"))
    assert (fell_back.service, fell_back.waited_ms) == ("admin-second", 0)
    await until_status(site, parked=2)
    details = [call.detail for call in (await site.ledger.status()).waiting]
    assert details == ["admin-first is paused by ada (bill unclear)"] * 2
    assert (first.count, second.count) == (count, count_second + 1)

    await tell(site, "resume_service")
    results = await results_of(parked)
    assert [(result.outcome, result.service) for result in results] == [(Outcome.COMPLETED, "admin-first")] * 2
    assert all(result.waited_ms > 0 for result in results)
    assert first.count == count + 2
    await settled_books(site, first, second)


async def test_a_bad_signal_stops_nothing_and_is_seen_and_a_good_one_after_it_works(
    site: Site, server: CountingServer
) -> None:
    """Each wrong one shows in the status, and the first as alerts, with what is wrong; calls go on; no cap changes."""
    plain = await Client.connect(site.temporal_address, namespace=site.namespace)
    budget = plain.get_workflow_handle("budget/default")
    cap = (await site.balance("budget:acme")).cap_nanos
    texts: list[str] = []

    async def refused(name: str) -> None:
        """Everything up to a signal of this name, which is unknown."""
        await budget.signal(name)

        async def the_last() -> bool:
            texts[:] = (await site.ledger.status()).refused_messages
            return texts[-1].startswith(f"{name} : there is no such signal; there are: raise_cap, set_cap,")

        await until(the_last, f"every bad signal before {name} is refused")

    seen: set[str] = set()
    for message in NONSENSE:
        await budget.signal("raise_cap", message)
    await refused("raise")
    assert len(texts) == min(20, len(NONSENSE) + 1)
    seen.update(texts)
    await budget.signal("raise_cap")
    await budget.signal("raise_cap", args=["one", "two"])
    await budget.signal("raise_cap", b"\xff\x00 not JSON")
    await budget.signal("raise_cap", nested(100_000))
    for wrong_update in ([], ["one", "two"], [{"account": "budget:acme", "window": "total", "by": "1e999999999"}]):
        with pytest.raises((WorkflowUpdateFailedError, RPCError)):
            await budget.execute_update("raise_cap", args=wrong_update, rpc_timeout=timedelta(seconds=5))
    await budget.signal("pause_service", {"service": "nobody"})
    await budget.signal("report_attempts", {"reports": [{"hold_id": 7}]})
    await budget.signal("rise_cap", {"account": "budget:acme", "window": "total", "by": "1"})
    await refused("pause")
    assert (await generate(site.client, ask("both"))).outcome is Outcome.COMPLETED
    assert len(texts) == 20
    seen.update(texts)
    alerts = {row["text"] for row in await site.alerts("refused_message")}
    assert len(alerts) >= 5
    seen |= alerts
    for wrong in (
        "there are: budget:acme",
        "window: Input should be",
        "by: Field required",
        "not a message",
        "rise_cap",
    ):
        assert any(wrong in text for text in seen), wrong
    assert max(map(len, seen)) < 1_500, "what is refused would fill the ledger's state"
    assert (await site.balance("budget:acme")).cap_nanos == cap
    assert await site.cap_changes() == []

    await budget.signal("raise_cap", {"account": "budget:acme", "window": "total", "by": 0.000000007})

    async def raised() -> bool:
        return (await site.balance("budget:acme")).cap_nanos == (cap or 0) + 7

    await until(raised, "the good signal after them works")


async def test_a_defect_in_one_admins_command_stops_nobody_and_is_seen(
    stack: EmbeddedStack, database_url: str, server: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent as a signal and as an update, it is refused with what went wrong and alerted, and the ledger goes on."""
    raise_cap, report = Desk.raise_cap, Desk.report

    def sometimes_wrong(desk: Desk, change: RaiseCap, now_ms: int) -> CapState:
        if change.reason == "the defect":
            raise KeyError("nobody thought of this")
        return raise_cap(desk, change, now_ms)

    def always_wrong(desk: Desk, message: AttemptReport, now_ms: int) -> None:
        raise IndexError(report.__name__)

    monkeypatch.setattr(Desk, "raise_cap", sometimes_wrong)
    monkeypatch.setattr(Desk, "report", always_wrong)
    tables = configuration([server.service("defect")], budgets={"acme": {"cap_usd": {"total": "1"}}})
    change = RaiseCap(account="budget:acme", window="total", by="1", reason="the defect")
    async with (
        running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site,
        own_workers(site) as workers,
        workers.ledger,
        workers.activities,
    ):
        await site.ledger.start(desk_config(site.settings))
        await site.ledger.signal_raise_cap(change)
        with pytest.raises(AdminRefused, match="internal error: KeyError"):
            await site.ledger.raise_cap(change)
        await site.ledger.report([AttemptReport(hold_id="x", service="defect")])
        state = await site.ledger.raise_cap(change.model_copy(update={"reason": "a good one"}))
        assert state.cap_nanos == 2 * 10**9

        async def alerted() -> bool:
            return len(await site.alerts("refused_message")) == 3

        await until(alerted, "all three are alerted")
        refused = (await site.ledger.status()).refused_messages
        assert [message.partition(" ")[0] for message in refused] == ["raise_cap", "raise_cap", "report_attempts"]
        assert all("internal error: " in message for message in refused)


def nested(depth: int) -> Any:
    """Deeper than a parser can follow, sent as it is."""
    from temporalio.api.common.v1 import Payload
    from temporalio.common import RawValue

    return RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b"[" * depth + b"]" * depth))


async def a_pause(site: Site, service: str) -> None:
    await site.ledger.pause_service(PauseService(service=service, reason="stop", who="ada"))


async def a_lower_cap(site: Site, service: str) -> None:
    to = str(nanos_to_usd(BOUND_NANOS * 3 // 2))
    await site.ledger.set_cap(SetCap(account="budget:acme", window="total", to=to, reason="stop", who="ada"))


@pytest.mark.parametrize("take_back", [a_pause, a_lower_cap])
async def test_a_grant_that_is_withdrawn_before_it_is_used_sends_nothing(
    stack: EmbeddedStack,
    database_url: str,
    server: CountingServer,
    tmp_path: Path,
    take_back: Callable[[Site, str], Awaitable[None]],
) -> None:
    """The call hears of its grant and of the withdrawal together: it gives the hold back and asks again.

    Paymaster's workers run in this process, so that the order is certain: the calls' own is stopped meanwhile.
    """
    service = server.service(f"withdrawn-by-{take_back.__name__.replace('_', '-')}")
    cap = str(nanos_to_usd(BOUND_NANOS * 3 // 2))
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": cap}}})
    async with (
        running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site,
        AsyncExitStack() as running,
    ):
        workers = await running.enter_async_context(own_workers(site))
        again: OwnWorkers = await running.enter_async_context(own_workers(site))
        await running.enter_async_context(workers.ledger)
        await running.enter_async_context(workers.activities)
        service.hold()
        async with workers.calls:
            first = await start(site.client, ask(service.name))
            await until(lambda: service.held == 1, "the first call is in flight")
            second = await start(site.client, ask(service.name))
            await until_status(site, holds=1, parked=1)

        # Nobody runs calls now. The second one is granted, and told so; then the grant is taken back.
        change = RaiseCap(account="budget:acme", window="total", by=cap)
        await site.ledger.raise_cap(change)
        await until_status(site, holds=2, parked=0, outbox=0)
        await take_back(site, service.name)
        await until_status(site, holds=2, outbox=0)
        await running.enter_async_context(again.calls)
        await until_status(site, holds=1, parked=1)
        assert service.count == 1, "the withdrawn call was sent"
        history = await readable_history(second)
        assert history.count("WORKFLOW_EXECUTION_SIGNALED") == 2, "it was not told both, so this proves nothing"

        await site.ledger.resume_service(ResumeService(service=service.name))
        await site.ledger.raise_cap(change)
        service.release()
        results = await results_of([first, second])
        assert [result.outcome for result in results] == [Outcome.COMPLETED] * 2
        assert [result.attempts for result in results] == [1, 1]
        assert service.count == 2
        await settled_books(site, service)
