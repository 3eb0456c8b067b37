"""`paymaster calls` and `paymaster top` on a running Paymaster: what calls do now, why they wait, and giving one up."""

import asyncio
import os
import pty
import re
import subprocess
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import PAYMASTER, Databases, Site, configuration, running_site, until
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.cli.exits import EXIT_ERROR
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import PauseService, ResumeService
from paymaster.observability.search_attributes import register
from paymaster.plugin import PaymasterPlugin
from paymaster.storage.status_rows import copied_ledger
from paymaster.storage.usage_rows import entries_of_call
from paymaster.values.money import format_usd, nanos_to_usd, usd_to_nanos

pytestmark = pytest.mark.timeout(120)
UI = "http://127.0.0.1:8233"


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("told")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"day": "5"}}})
    tables["console"] = {"temporal_ui": UI}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables, workers=0) as site:
        await register(site.client)
        await site.start_workers(1)
        yield site


def ask(call_id: str, budget: str = "acme/told") -> LLMRequest:
    return LLMRequest(route="writer", budget=budget, prompt="x", call_id=call_id)


async def said(site: Site, *arguments: str, code: int = 0) -> str:
    """What a command prints, on stdout and stderr."""
    ended = await site.command(*arguments)
    assert ended.code == code, ended
    return ended.output + ended.errors


async def until_listed(site: Site, *arguments: str, are: set[str]) -> list[Any]:
    """Visibility comes later than what it tells of."""
    calls: list[Any] = []

    async def listed() -> bool:
        calls[:] = (await site.document("calls", "list", *arguments))["calls"]
        return {each["call_id"] for each in calls} == are

    await until(listed, f"{are} are listed")
    return calls


async def parked(site: Site, *calls: WorkflowHandle[Any, Any]) -> None:
    async def are_parked() -> bool:
        copied = await copied_ledger(site.engine, site.ledger.name)
        return copied is not None and {each.workflow_id for each in copied.status.waiting} == {c.id for c in calls}

    await until(are_parked, "the calls wait, and the copy says so")


async def test_a_call_that_ended_is_listed_and_shown_with_its_attempt(site: Site) -> None:
    wanted = ask("done-1").model_copy(update={"metadata": {"customer": "7", "team": "a"}})
    result: LLMResult = await (await start(site.client, wanted)).result()
    [listed] = await until_listed(site, "--budget", "acme/told", are={"done-1"})
    assert (listed["state"], listed["budget"], listed["asked"]) == ("completed", "acme/told", "told/model-1")
    assert listed["waits_for"] is None

    shown = await site.document("calls", "show", "call/done-1")
    [attempt] = shown["attempts"]
    assert (shown["state"], attempt["status"]) == ("completed", "completed")
    assert shown["metadata"] == {"customer": "7", "team": "a"}
    assert attempt["cost_usd"] == f"{result.cost_usd:.9f}"
    assert shown["link"].startswith(f"{UI}/namespaces/")
    assert shown["link"].endswith("/workflows/call%2Fdone-1")
    shown_to_people = await said(site, "calls", "show", "done-1")
    assert "writer for acme/told" in shown_to_people
    assert "\nmetadata customer=7, team=a\n" in shown_to_people
    assert "1 attempt, $" in shown_to_people

    cost_nanos = usd_to_nanos(listed["cost_usd"])
    assert abs(cost_nanos - result.cost_nanos) <= 5_000, "Temporal keeps at least five decimals"
    assert (listed["cost_usd"], shown["cost_usd"]) == (f"{nanos_to_usd(cost_nanos):.9f}",) * 2
    assert f" {format_usd(cost_nanos)} " in await said(site, "calls", "list", "--budget", "acme/told")
    assert "there is none in the ledger nope" in await said(site, "calls", "list", "--ledger", "nope")


async def test_metadata_of_a_call_is_what_reports_group_by(site: Site) -> None:
    request = ("call", "writer", "x", "--budget", "acme/told", "--metadata")
    called = await site.document(*request, "customer=42", "--metadata", "note=a=b")
    [row] = await entries_of_call(site.engine, site.ledger.name, called["call_id"])
    assert row.metadata == {"customer": "42", "note": "a=b"}
    rows = (await site.document("usage", "--by", "metadata.customer", "--budget", "acme/told"))["rows"]
    assert [each["calls"] for each in rows if each["metadata.customer"] == "42"] == [1]
    assert "'customer' is not KEY=VALUE" in await said(site, *request, "customer", code=EXIT_ERROR)


async def test_a_parked_call_says_why_it_waits_and_ends_free(site: Site) -> None:
    await site.ledger.pause_service(PauseService(service="told", reason="incident 4711", who="ada"))
    call = await start(site.client, ask("parked-1", budget="acme/waiting"))
    try:
        await parked(site, call)
        [listed] = await until_listed(site, "--parked", "--budget", "acme/waiting", are={"parked-1"})
        assert listed["state"] == "parked"
        assert "paused by ada" in listed["waits_for"]
        assert listed["denied_at"] is not None
        shown = await said(site, "calls", "show", "parked-1")
        assert "incident 4711" in shown
        assert "0 attempts, $0.00" in shown
        top = await said(site, "top", "--once")
        assert "parked-1" in top
        assert "paused by ada (incident 4711)" in top
        assert "\x1b" not in top
        assert "nothing is under way" in await said(site, "calls", "cancel", "parked-1", "--reason", "not needed")
    finally:
        await call.cancel()
        await site.ledger.resume_service(ResumeService(service="told"))
    with pytest.raises(WorkflowFailureError):
        await call.result()
    assert "has ended: cancelled" in await said(site, "calls", "cancel", "parked-1", code=1)


async def test_a_call_that_was_asked_for_again_is_shown_as_it_runs_now(site: Site) -> None:
    """And it is the running one that is cancelled; a generation that is named is shown itself."""
    await site.ledger.pause_service(PauseService(service="told", reason="incident 4712", who="ada"))
    try:
        first = await start(site.client, ask("again-1"))
        await parked(site, first)
        assert (await site.document("calls", "cancel", "again-1"))["ended"]
        second = await start(site.client, ask("again-1"))
        assert second.id == "call/again-1~g2"
        await parked(site, second)
        shown = await site.document("calls", "show", "again-1")
        assert (shown["call_id"], shown["state"]) == ("again-1~g2", "parked")
        assert "incident 4712" in shown["waits_for"]
        assert "again-1 was asked for again" in await said(site, "calls", "show", "again-1")
        assert (await site.document("calls", "cancel", "again-1"))["call_id"] == "again-1~g2"
        assert (await site.document("calls", "show", "again-1~g2"))["state"] == "cancelled"
    finally:
        await site.ledger.resume_service(ResumeService(service="told"))


async def test_a_program_s_log_says_why_its_call_waits(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parked, with why and until when; and once, not at every look. Of a ledger without workers, that there is none."""
    monkeypatch.setattr("paymaster.waiting.FIRST_AFTER_S", 0.2)
    await site.ledger.pause_service(PauseService(service="told", reason="incident 4713", who="ada"))
    waits = asyncio.create_task(try_generate(site.client, ask("slow-1")))
    await until(lambda: "incident 4713" in caplog.text, "the log says why")
    await site.ledger.resume_service(ResumeService(service="told"))
    assert (await waits).outcome is Outcome.COMPLETED
    [told] = [record.getMessage() for record in caplog.records if record.name == "paymaster.waiting"]
    assert told.startswith("call/slow-1 waits: parked: ")
    assert re.search(r"; denied at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\. Why it waits now: `paymaster calls show", told)

    elsewhere = await Client.connect(
        site.client.service_client.config.target_host,
        namespace=site.client.namespace,
        plugins=[PaymasterPlugin(ledger="nobody-works")],
    )
    lonely = asyncio.create_task(try_generate(elsewhere, ask("lonely-1")))
    none = "no worker of ledger nobody-works runs (none polls paymaster@nobody-works)"
    await until(lambda: none in caplog.text, "the log says of which ledger there is none")
    lonely.cancel()


async def test_a_sent_call_runs_on_and_is_paid_for(site: Site, service: FakeService) -> None:
    service.hold()
    call = await start(site.client, ask("sent-1"))
    await until(lambda: service.held == 1, "it is sent")
    cancelled = await site.document("calls", "cancel", "sent-1")
    assert cancelled == {"call_id": "sent-1", "was_sent": True, "ended": False}
    service.release()
    with pytest.raises(WorkflowFailureError):
        await call.result()
    [attempt] = (await site.document("calls", "show", "sent-1"))["attempts"]
    assert (attempt["state"], attempt["status"]) == ("final", "completed")
    assert float(attempt["cost_usd"]) > 0


async def test_a_call_that_nobody_knows_is_said_to_be_none(site: Site) -> None:
    assert "there is no call nobody" in await said(site, "calls", "show", "nobody", code=1)
    assert "Temporal has no call nobody" in await said(site, "calls", "cancel", "nobody", code=1)
    assert (await site.document("calls", "list", "--run", "no/such"))["calls"] == []


async def test_top_leaves_the_terminal_as_it_was(site: Site) -> None:
    """On a terminal of its own, which nobody but it writes to."""
    await (await start(site.client, ask("seen-1"))).result()
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)
    config = str(site.folder / "paymaster.toml")
    own = {"PAYMASTER_CONFIG": config, "TERM": "xterm", "COLUMNS": "160", "LINES": "60"}
    top = subprocess.Popen(
        [PAYMASTER, "top"],
        cwd=site.folder,
        env=site.environment | own,
        stdin=its,
        stdout=its,
        stderr=its,
    )
    shown = b""
    while b"seen-1" not in shown:
        shown += await asyncio.to_thread(os.read, ours, 65_536)
    os.write(ours, b"q")
    while b"\x1b[?1049l" not in shown:  # the end of the second screen
        shown += await asyncio.to_thread(os.read, ours, 65_536)
    assert await asyncio.to_thread(top.wait, 30) == 0
    assert b"\x1b[?1049h" in shown
    assert termios.tcgetattr(its) == before


async def test_a_call_that_waits_says_why(site: Site) -> None:
    """On stderr, until it has its answer."""
    await site.ledger.pause_service(PauseService(service="told", reason="incident 4712", who="ada"))
    config = str(site.folder / "paymaster.toml")
    with (site.folder / "words").open("w+") as words:
        call = subprocess.Popen(
            [PAYMASTER, "call", "writer", "x", "--budget", "acme"],
            env=site.environment | {"PAYMASTER_CONFIG": config},
            stdout=subprocess.DEVNULL,
            stderr=words,
        )
        said = site.folder / "words"
        await until(lambda: "incident 4712" in said.read_text(), "it says why", 60.0)
        await site.ledger.resume_service(ResumeService(service="told"))
        assert await asyncio.to_thread(call.wait, 30) == 0
    assert "parked: " in said.read_text()
    assert "denied at " in said.read_text()
    assert "no worker" not in said.read_text()
