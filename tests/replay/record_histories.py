"""Records the histories that test_replay.py replays: `make histories`, after a change that old histories cannot follow.

Before the first release such a change just has the histories recorded again. After it, calls and ledgers of the version
before are running when the new one starts: then the change has to be patched (`workflow.patched`), and the old
histories stay.
"""

import asyncio
import gzip
import json
import re
import sys
import tempfile
from pathlib import Path

from counting_server import CountingServer, FakeService, Received, Reply
from paymaster_process import MODEL, ROOT, Databases, Site, configuration, running_site, until
from purchasing_agents import QUEUE, Buys, Errand, buyers_running
from records import record as record_of
from temporalio.client import WorkflowHandle

from paymaster import LLMRequest, purchase
from paymaster.client import Backlog, generate, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import (
    CALLS_TASK_QUEUE,
    PauseService,
    RaiseCap,
    ResumeService,
    backlog_workflow_id,
    budget_workflow_id,
    json_bytes,
)
from paymaster.values.limits import PIECE_BYTES_MAX
from paymaster.values.money import TokenUsage
from workflows.content_agent import ArticleRequest, ContentAgentWorkflow

FOLDER = ROOT / "tests" / "replay" / "histories"
SMALL = ("acme/small", "acme/smaller")
"""Budgets in which one call leaves too little for another."""
EVENTS_IN_A_RUN = 60
"""After so many the server suggests continue-as-new, so that the ledger's runs are short."""

LONG = 100_000
"""Characters of a history from which on it is kept compressed."""


async def record() -> None:
    limits = {"limit.historyCount.suggestContinueAsNew": EVENTS_IN_A_RUN}
    with CountingServer() as server, tempfile.TemporaryDirectory() as folder:
        good, bad, counted = (server.service(name) for name in ("good", "bad", "counted"))
        tables = configuration(
            [good, bad, counted],
            routes={"writer": [good], "falling": [bad, good], "counted": [counted]},
            budgets={"acme": {"cap_usd": {"total": "10"}}} | {name: {"cap_usd": {"total": "0.002"}} for name in SMALL},
            only={"counted": {"api": "anthropic", "bound": "counted", "stream": False}},
        )
        async with (
            EmbeddedStack(model=False, headless=True, dynamic_config=limits) as stack,
            running_site(
                stack.temporal_address, await Databases(stack.database_url).create(), Path(folder), tables
            ) as site,
        ):
            await generate(site.client, _ask("granted"))
            await _keep(site, "call-granted", "call/granted")

            bad.reply = lambda request: Reply(400)
            bad.script.extend([Reply(500), Reply(200, cut=True), Reply(400)])
            await try_generate(site.client, _ask("failed-over", route="falling"))
            await _keep(site, "call-failed-over", "call/failed-over")

            good.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=50)
            for budget in SMALL:
                await generate(site.client, _ask(f"uses up {budget}", budget=budget))
            parked = await start(site.client, _ask("parked", budget="acme/small"))
            await _until_parked(site)
            await site.ledger.raise_cap(RaiseCap(account="budget:acme/small", window="total", by="0.01"))
            await parked.result()
            await _keep(site, "call-parked-and-raised", "call/parked")

            waiting = await start(site.client, _ask("cancelled-parked", budget="acme/smaller"))
            await _until_parked(site)
            await _cancelled(waiting)
            await _keep(site, "call-cancelled-parked", "call/cancelled-parked")

            good.hold()
            sent = await start(site.client, _ask("cancelled-sent"))
            await until(lambda: good.held == 1, "it is in flight")
            await sent.cancel()
            good.release()
            await _cancelled(sent)
            await _keep(site, "call-cancelled-sent", "call/cancelled-sent")

            article = ArticleRequest(topic="tides", sections=2, budget="acme", route="writer")
            await site.client.execute_workflow(
                ContentAgentWorkflow.run, article, id="content-agent", task_queue=CALLS_TASK_QUEUE
            )
            await _keep(site, "content-agent", "content-agent")

            await _record_counting(site, counted)
            await record_purchases(site)

            await stack.postgres.stop()
            await generate(site.client, _ask("while the database is away"))
            await stack.postgres.start()
            backlog = site.client.get_workflow_handle(backlog_workflow_id("default"))

            async def stored() -> bool:
                return await backlog.query("waiting", result_type=int) == 0

            await until(stored, "the backlog has stored it", 60)
            await _keep(site, "usage-backlog", backlog.id)
            await _record_pieces_of_a_backlog(site, stack)

            for number in range(20):  # until the ledger has had several runs
                await generate(site.client, _ask(f"one of many {number}"))
            await _keep_runs_of_the_ledger(site)


async def _record_counting(site: Site, counted: FakeService) -> None:
    """Of a call that is parked when it is told to count its tokens."""
    counted.reply = _claude
    await site.ledger.pause_service(PauseService(service=counted.name))
    waiting = await start(site.client, _ask("counted", route="counted", budget="acme/small", prompt=" word" * 4_000))
    await _until_parked(site)
    await site.ledger.resume_service(ResumeService(service=counted.name))
    await waiting.result()
    await _keep(site, "call-parked-and-counted", "call/counted")


def _claude(request: Received) -> Reply:
    usage = {"input_tokens": 4_000, "output_tokens": 5}
    if request.path.endswith("/count_tokens"):
        return Reply(body=json.dumps(usage).encode())
    content = [{"type": "text", "text": "hello"}]
    answer = {"type": "message", "model": MODEL, "content": content, "stop_reason": "end_turn", "usage": usage}
    return Reply(body=json.dumps(answer).encode())


async def record_purchases(site: Site) -> None:
    """Of a workflow, which is kept too; of a program, when it was parked; of one that is cancelled when it may pay."""
    async with buyers_running(site.temporal_address, site.namespace):
        buyer = await site.client.start_workflow(Buys.run, Errand(), id="buyer", task_queue=QUEUE)
        await buyer.result()
    [bought] = [each async for each in site.client.list_workflows("WorkflowType = 'PurchaseWorkflow'")]
    await _keep(site, "buyer", buyer.id)
    await _keep(site, "purchase-of-a-workflow", bought.id)

    async with purchase("acme", up_to="9", what="search", client=site.client) as first:
        waiting = asyncio.ensure_future(_buy(site))
        await _until_parked(site)
        first.nothing()
    await _keep(site, "purchase-parked", f"purchase/{await waiting}")

    last = purchase("acme", up_to="1", what="search", client=site.client)
    handle = site.client.get_workflow_handle(f"purchase/{(await last.__aenter__()).id}")
    await handle.cancel()
    await asyncio.gather(handle.result(), return_exceptions=True)
    await _keep(site, "purchase-cancelled", handle.id)


async def _buy(site: Site) -> str:
    async with purchase("acme", up_to="8", what="search", client=site.client) as bought:
        bought.cost("0.01")
    return bought.id


async def _record_pieces_of_a_backlog(site: Site, stack: EmbeddedStack) -> None:
    """More waits than a run may hand on to the next one: a run that starts a piece, the piece, and a run after it."""
    await stack.postgres.stop()
    backlog, id = Backlog(site.client, "default"), backlog_workflow_id("default")
    records = [record_of(number, {"a": "x" * 16_000}) for number in range(70)]
    assert sum(map(json_bytes, records)) > PIECE_BYTES_MAX
    await asyncio.gather(*map(backlog.add_record, records))
    first = later = (await site.client.get_workflow_handle(id).describe()).run_id
    for number in range(EVENTS_IN_A_RUN):
        await backlog.add_void(f"run/void-{number}")
        later = (await site.client.get_workflow_handle(id).describe()).run_id
        if later != first:
            break
    await stack.postgres.start()
    piece = site.client.get_workflow_handle(f"{id}/{first}/1")
    await piece.result()

    async def stored() -> bool:
        return await site.client.get_workflow_handle(id).query("waiting", result_type=int) == 0

    await until(stored, "the backlog has stored it", 60)
    await _keep(site, "usage-backlog-in-pieces", id, first)
    await _keep(site, "usage-backlog-after-a-piece", id, later)
    await _keep(site, "usage-backlog-piece", piece.id)


def _ask(call_id: str, *, route: str = "writer", budget: str = "acme", prompt: str = "Say hello") -> LLMRequest:
    return LLMRequest(route=route, budget=budget, prompt=prompt, call_id=call_id)


async def _until_parked(site: Site) -> None:
    async def parked() -> bool:
        return (await site.ledger.status()).parked == 1

    await until(parked, "the call is parked")


async def _cancelled(call: WorkflowHandle[object, object]) -> None:
    await call.cancel()
    await asyncio.gather(call.result(), return_exceptions=True)


async def _keep(site: Site, name: str, workflow_id: str, run_id: str | None = None) -> None:
    history = await site.client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    text = _of_no_machine(history.to_json()) + "\n"
    if len(text) > LONG:
        (FOLDER / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        (FOLDER / f"{name}.json").write_text(text)
    sys.stdout.write(f"{name}: {len(history.events)} events\n")


def _of_no_machine(history: str) -> str:
    """Without folders and host names, which a replay does not read."""
    history = re.sub(r'("stackTrace": )"(?:[^"\\]|\\.)*"', r'\1""', history)
    return re.sub(r'"\d+@[^"]+"', '"worker"', history)  # identities, and names of sticky task queues


async def _keep_runs_of_the_ledger(site: Site) -> None:
    """The first, which began without a state, the second, which got one, and the one that is running."""
    ledger = budget_workflow_id("default")

    async def listed() -> bool:
        return len([run async for run in site.client.list_workflows(f'WorkflowId = "{ledger}"')]) >= 3

    await until(listed, "the ledger had three runs")
    runs = [run async for run in site.client.list_workflows(f'WorkflowId = "{ledger}"')]
    runs.sort(key=lambda run: run.start_time)
    for name, run in (("first", runs[0]), ("second", runs[1]), ("latest", runs[-1])):
        await _keep(site, f"budget-{name}-run", ledger, run.run_id)


if __name__ == "__main__":
    for old in FOLDER.glob("*.json*"):
        old.unlink()
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(record())
