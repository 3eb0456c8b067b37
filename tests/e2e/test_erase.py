"""`paymaster erase`: a person's prompts, answers and metadata are nowhere afterwards, and the money is where it was."""

import asyncio
import json
import os
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_workflows import AGENTS_TASK_QUEUE, OneQuestion, agents_running
from counting_server import CountingServer, Reply
from disk_storage import FOLDER
from large_answers import stream
from paymaster_process import PAYMASTER, Databases, Ended, Site, configuration, running_site, until
from readable_places import everything_readable
from records import usual_entry
from sqlalchemy import text
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from paymaster import LLMRequest, Outcome, purchase
from paymaster.client import input_count, read_answer, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.erasure import erasing
from paymaster.erasure.erasing import Eraser
from paymaster.erasure.finding import Finder
from paymaster.erasure.wanted import Wanted
from paymaster.messages import PauseService, UsageEntry, Wire, backlog_workflow_id
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(180)
PROMPT, ANSWER, NOTE = (f"Erase-{word}-7Kd" for word in ("prompt", "answer", "note"))
MARKERS = (PROMPT, ANSWER, NOTE)
OTHERS = "Keep-this-2Lm"
KEY = {"PAYMASTER_KEY_PAYLOAD_KEY": b64encode(os.urandom(32)).decode()}
BILLED = TokenUsage(input_tokens=12, output_tokens=30_000)


def ask(route: str, customer: str = "42", **more: Any) -> LLMRequest:
    metadata = {"customer": customer, "note": NOTE if customer == "42" else OTHERS}
    usual = {"route": route, "budget": f"acme/{route}", "prompt": PROMPT if customer == "42" else OTHERS}
    return LLMRequest.model_validate(usual | {"metadata": metadata} | more)


def long_answer() -> LLMRequest:
    """Whose answer is too large for Temporal."""
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    return ask("long", prompt=None, wire=Wire(dialect="openai", body=body), call_id="long-answer")


@pytest.fixture(scope="module")
def keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEY.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[str]:
    """The address of one that deletes at once what has just ended, and not after a minute."""
    at_once = {f"history.{queue}ProcessorUpdateAckInterval": "1s" for queue in ("transfer", "visibility")}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=at_once) as stack:
        yield stack.temporal_address


def tables(server: CountingServer, *names: str, **more: object) -> dict[str, Any]:
    services = [server.service(name) for name in names]
    for service in services:
        service.text = lambda request: f"{ANSWER if PROMPT in request.prompt else OTHERS} {len(request.prompt)}"
    budgets: dict[str, Any] = {"acme": {"cap_usd": {"total": "10"}}, "acme/poor": {"cap_usd": {"total": "0"}}}
    return configuration(services, budgets=budgets) | more


@pytest.fixture(scope="module")
async def site(temporal: str, databases: Databases, server: CountingServer, module_folder: Path) -> AsyncIterator[Site]:
    """With an agent beside it, whose own history is its own to delete."""
    made = tables(server, "short", "long", "held", "poor")
    async with (
        running_site(temporal, await databases.create(), module_folder / "plain", made) as site,
        agents_running(site.client),
    ):
        yield site


@pytest.fixture(scope="module")
async def hidden(
    temporal: str, databases: Databases, server: CountingServer, module_folder: Path, keys: None
) -> AsyncIterator[Site]:
    """Encrypted, with an external storage."""
    folder = module_folder / "storage"
    folder.mkdir()
    more = {"encryption": {"keys": ["payload-key"]}, "payloads": {"storage": "disk_storage:storage"}}
    made = tables(server, "hidden", "poor", **more)
    environment = KEY | {FOLDER: str(folder), "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        async with running_site(
            temporal, await databases.create(), module_folder / "hidden", made, environment=environment
        ) as site:
            yield site


async def by_itself(site: Site, *arguments: str) -> Ended:
    """The command in a process whose PYTHONPATH counts."""
    environment = site.environment | {"PAYMASTER_CONFIG": str(site.folder / "paymaster.toml")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(PAYMASTER, *arguments, env=environment, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    return Ended(process.returncode or 0, output.decode(), errors.decode())


async def erased(site: Site, *arguments: str, code: int = 0) -> Ended:
    is_warm = "PYTHONPATH" not in site.environment
    ended = await (site.command("erase", *arguments) if is_warm else by_itself(site, "erase", *arguments))
    assert ended.code == code, ended
    return ended


async def until_listed(site: Site, *workflow_ids: str) -> None:
    """Visibility comes later than what it tells of."""

    async def listed() -> bool:
        return set(workflow_ids) <= {each.id async for each in site.client.list_workflows()}

    await until(listed, f"{workflow_ids} are listed")


async def money(site: Site) -> list[Any]:
    """What reports say, and each row without its metadata."""
    reports = [await site.document("usage", "--by", by) for by in ("service,model", "budget,day", "status")]
    async with site.engine.connect() as connection:
        rows = await connection.scalars(text("SELECT to_jsonb(u) - 'metadata' FROM usage_entries AS u ORDER BY id"))
        return [*reports, *rows.all()]


async def found(site: Site, *markers: str) -> dict[str, list[str]]:
    """Which of these texts are in histories, rows and stored bodies."""
    places = await everything_readable(site)
    del places["logs"]
    return {name: [each for each in markers if each in place] for name, place in places.items()}


async def delete_history(site: Site, workflow_id: str) -> None:
    """What its owner does."""
    execution = WorkflowExecution(workflow_id=workflow_id)
    asked = DeleteWorkflowExecutionRequest(namespace=site.namespace, workflow_execution=execution)
    await site.client.workflow_service.delete_workflow_execution(asked)

    async def gone() -> bool:
        return workflow_id not in {each.id async for each in site.client.list_workflows()}

    await until(gone, "the agent's history is gone")


async def test_nothing_of_a_person_is_left_and_the_money_is(site: Site, server: CountingServer) -> None:
    """Of calls that were answered, by an agent too, with answers that are stored, read and counted; of one that was
    denied, of a purchase, and of one that waits, which is cancelled when that is wanted."""
    said = {"model": "m-1", "choices": [{"index": 0, "delta": {"content": ANSWER}}]}
    reply, _ = stream(30_000, billed=BILLED)
    server.service("long").script.append(Reply(stream=[f"data: {json.dumps(said)}\n\n", *(reply.stream or ())]))
    long = await try_generate(site.client, long_answer())
    assert long.wire is not None
    assert long.wire.stored is not None
    await read_answer(site.client, long)
    for call_id, customer in (("a", "42"), ("b", "42"), ("of-another", "43")):
        assert (await try_generate(site.client, ask("short", customer, call_id=call_id))).text
    assert (await try_generate(site.client, ask("poor", on_exhausted="fail"))).outcome is Outcome.DENIED
    agent = await site.client.start_workflow(OneQuestion.run, ask("short"), id="agent", task_queue=AGENTS_TASK_QUEUE)
    await agent.result()
    await input_count(site.client, ask("short"))
    bought = purchase(
        "acme/bought", up_to="0.05", what="search", metadata={"customer": "42", "note": NOTE}, client=site.client
    )
    async with bought as this:
        this.cost("0.012")
    await site.ledger.pause_service(PauseService(service="held", reason="x", who="ada"))
    parked = await start(site.client, ask("held", call_id="parked"))
    await until_listed(site, "call/a", "call/b", "call/parked", "agent", "call/of-another")
    before = await money(site)
    there = await found(site, *MARKERS)
    assert there["histories"] == list(MARKERS), "a marker is not found, so this proves nothing"
    assert (there["rows"], there["stored answers"]) == ([NOTE], [ANSWER])

    shown = await erased(site, "--metadata", "customer=42", code=2)
    assert "nobody can be asked here, and nothing was erased" in shown.errors
    assert "  workflows: agent\n" in shown.output
    assert "stay, unless you --cancel:\n  calls: parked\n" in shown.output
    assert await money(site) == before
    partly = await erased(site, "--metadata", "customer=42", "--yes", code=1)
    assert "left: call/parked: it is running" in partly.output
    done = await erased(site, "--metadata", "customer=42", "--yes", "--cancel", "--reason", "ticket 4711")
    assert "Erased: 1 history." in done.output
    with pytest.raises(RPCError, match="not found"):
        await parked.describe()
    await delete_history(site, "agent")

    assert not any((await found(site, *MARKERS)).values()), await found(site, *MARKERS)
    assert (await found(site, OTHERS))["histories"] == [OTHERS], "what is another's stays"
    assert await money(site) == before
    assert (await site.command("reconcile")).code == 0
    assert "nothing is stored" in (await erased(site, "--metadata", "customer=42")).errors
    log = (await site.document("budget", "log"))["changes"]
    assert [each["reason"] for each in log if "erased" in each["what"]] == ["", "ticket 4711"]


async def test_a_call_by_its_id_and_one_that_nobody_knows(site: Site) -> None:
    """Nothing of another call with the same metadata goes."""
    for call_id in ("by-id", "not-by-id"):
        await try_generate(site.client, ask("short", "44", call_id=call_id))
    document = await site.document("erase", "--call", "call/by-id", "--yes")
    assert document["calls"] == ["by-id"]
    assert document["erased"] | {"histories": 1, "rows' metadata": 1} == document["erased"]
    assert document["left"] == {}
    listed = site.client.get_workflow_handle("call/not-by-id")
    assert (await listed.describe()).status is WorkflowExecutionStatus.COMPLETED
    unknown = await erased(site, "--call", "nobody", code=1)
    assert "neither Temporal nor the stored rows have call nobody" in unknown.errors
    assert "Erased: nothing." in (await erased(site, "--call", "by-id", "--yes")).output


async def test_one_that_was_broken_off_is_repeated(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some of the calls are erased and others not."""
    for number in range(5):
        await try_generate(site.client, ask("short", "45", call_id=f"of-45-{number}"))
    await until_listed(site, *(f"call/of-45-{number}" for number in range(5)))

    class Killed(Exception):
        pass

    def die(told: str) -> None:
        raise Killed(told)

    monkeypatch.setattr(erasing, "BATCH", 2)
    finder = Finder(site.client, site.engine, "default", Wanted(metadata={"customer": "45"}))
    with pytest.raises(Killed, match="2 of 5 calls"):
        await Eraser(site.client, site.engine, "default", die).erase(await finder.find())
    assert len((await finder.find()).calls) == 3
    document = await site.document("erase", "--metadata", "customer=45", "--yes")
    assert document["erased"]["histories"] == document["erased"]["rows' metadata"] == 3
    assert document["left"] == {}


async def test_what_waited_in_the_backlog_goes_when_it_has_ended(site: Site) -> None:
    async with site.engine.connect() as connection:
        await connection.execute(text("LOCK TABLE usage_entries IN ACCESS EXCLUSIVE MODE"))
        await try_generate(site.client, ask("short", "46", call_id="late"))
        await connection.rollback()

    async def stored() -> bool:
        return await site.in_backlog() == 0

    await until(stored, "the row is stored")
    backlog = backlog_workflow_id("default")
    left = await erased(site, "--call", "late", "--yes", code=1)
    assert f"left: {backlog}: it is running" in left.output
    await site.client.get_workflow_handle(backlog).terminate()
    assert "Erased: 1 history." in (await erased(site, "--call", "late", "--yes")).output
    assert backlog not in {each.id async for each in site.client.list_workflows()}


async def test_encrypted_histories_and_what_is_stored_elsewhere(hidden: Site, module_folder: Path) -> None:
    """A storage that cannot delete keeps the history, which alone knows what is there, and the row by which it is
    found."""
    folder = module_folder / "storage"
    long = PROMPT + "x" * 100_000
    await try_generate(hidden.client, ask("hidden", prompt=long, call_id="hidden"))
    assert (await try_generate(hidden.client, ask("poor", on_exhausted="fail"))).outcome is Outcome.DENIED
    files = sorted(folder.iterdir())
    assert files
    await until_listed(hidden, "call/hidden")
    kept = files[0].read_bytes()
    files[0].unlink()
    files[0].mkdir()
    left = await erased(hidden, "--metadata", "customer=42", "--yes", code=1)
    assert "left: call/hidden: the external storage 'disk': " in left.output
    files[0].rmdir()
    files[0].write_bytes(kept)
    document = json.loads((await erased(hidden, "--metadata", "customer=42", "--yes", "--json")).output)
    assert document["erased"]["payloads in external storage"] >= 1
    assert (document["left"], list(folder.iterdir())) == ({}, [])
    async with hidden.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM usage_entries WHERE metadata <> '{}'")) == 0
    types = {each.workflow_type async for each in hidden.client.list_workflows()}
    assert "LLMCallWorkflow" not in types


async def test_a_row_whose_run_temporal_cannot_have_holds_up_nothing(site: Site) -> None:
    """Temporal answers INVALID_ARGUMENT to a run id that is no UUID."""
    await try_generate(site.client, ask("short", "47", call_id="of-47"))
    about = {"metadata": {"customer": "47"}, "granted_at_ms": int(time.time() * 1_000)}
    rows = [UsageEntry.model_validate(usual_entry(number) | about) for number in (1, 2)]
    await insert_entries(site.engine, rows)
    done = await erased(site, "--metadata", "customer=47", "--yes")
    assert "  1 history in Temporal, with prompts" in done.output
    assert "Erased: 1 history, 3 rows' metadata." in done.output


@pytest.mark.parametrize(
    ("missing", "told"),
    [("TEMPORAL_ADDRESS", "no Temporal at 127.0.0.1:1"), ("PAYMASTER__DATABASE__URL", "cannot be used")],
)
async def test_without_temporal_or_a_database_nothing_goes(site: Site, missing: str, told: str) -> None:
    nowhere = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "PAYMASTER__DATABASE__URL": "postgresql://nobody@127.0.0.1:1/none"}
    before, site.environment[missing] = site.environment[missing], nowhere[missing]
    try:
        ended = await erased(site, "--call", "of-another", "--yes", code=2)
    finally:
        site.environment[missing] = before
    assert told in ended.errors
    assert (await site.client.get_workflow_handle("call/of-another").describe()).close_time is not None
