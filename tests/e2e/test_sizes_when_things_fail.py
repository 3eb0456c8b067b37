"""Large answers when the database is away, a worker dies, keys encrypt, and calls are gone from Temporal."""

import asyncio
import json
import os
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService
from large_answers import USAGE, stream
from paymaster_process import (
    MODEL,
    PRICE,
    Databases,
    Site,
    configuration,
    own_workers,
    running_site,
    settled_books,
    until,
)
from sqlalchemy import text
from stored_bodies import look_now, stored_bodies
from temporalio.client import WorkflowExecutionStatus
from temporalio.testing import ActivityEnvironment

from activities.sweep_bodies import SweepBodiesActivities
from paymaster import AnswerGone, LLMRequest, LLMResult, Outcome
from paymaster.client import read_answer, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Wire
from paymaster.messages.call_steps import BodySweep
from paymaster.security.payloads import PayloadUnreadable
from workflows import stored_answers

pytestmark = pytest.mark.timeout(180)
ANSWER_NANOS = USAGE.input_tokens * 1_000 + USAGE.output_tokens * 4_000
DIES = Path(__file__).with_name("worker_that_stores_and_dies.py")
TOKENS = 30_000
"""Of which Temporal cannot carry the answer."""


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    service = server.service(request.node.name.replace("_", "-"))
    service.usage = lambda _: USAGE
    return service


def tables(service: FakeService, **more: Any) -> dict[str, object]:
    models = {MODEL: {"max_output_tokens": 60_000, "price": PRICE}}
    own = {"models": models, **more}
    return configuration([service], budgets={"acme": {"cap_usd": {"total": "100"}}}, service=own)


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(stack.temporal_address, database_url, tmp_path, tables(service)) as site:
        yield site


def request(service: FakeService) -> LLMRequest:
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    return LLMRequest(route=service.name, budget="acme/x", wire=Wire(dialect="openai", body=json.dumps(asked).encode()))


def is_stored(result: LLMResult) -> bool:
    return result.wire is not None and result.wire.stored is not None


@pytest.fixture
async def own_database() -> AsyncIterator[EmbeddedStack]:
    """A PostgreSQL that can be stopped."""
    async with EmbeddedStack(temporal=False, model=False) as stack:
        yield stack


async def test_an_answer_waits_for_a_database_that_is_away(
    stack: EmbeddedStack, own_database: EmbeddedStack, service: FakeService, tmp_path: Path
) -> None:
    """It is not asked for again, and costs once. A worker that is stopped meanwhile says what the answer cost."""
    url = await Databases(own_database.database_url).create()
    async with running_site(stack.temporal_address, url, tmp_path, tables(service, timeout="1s")) as site:
        reply, answer = stream(TOKENS)
        service.script.extend([reply, reply])
        service.hold()
        first = await start(site.client, request(service))
        await until(lambda: service.held == 1, "the request is out")
        await own_database.postgres.stop()
        service.release(1)
        await until(lambda: site.logs().count("waits to be stored") > 3, "it has waited for a while", 60)
        await own_database.postgres.start()
        result = await asyncio.wait_for(first.result(), 60)
        assert (result.outcome, result.attempts, result.cost_nanos) == (Outcome.COMPLETED, 1, ANSWER_NANOS)
        assert await read_answer(site.client, result) == answer
        assert service.count == 1

        second = await start(site.client, request(service))
        await until(lambda: service.held == 1, "the second request is out")
        await own_database.postgres.stop()
        waited = site.logs().count("waits to be stored")
        service.release()
        await until(lambda: site.logs().count("waits to be stored") > waited, "the second one waits")
        stopping = asyncio.create_task(site.workers[0].terminate(60))
        await until(lambda: "stopping; calls that are running" in site.logs(), "the worker stops")
        await stopping
        await own_database.postgres.start()
        await site.start_workers()
        result = await asyncio.wait_for(second.result(), 60)
        assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "answer_not_stored")
        assert (result.attempts, result.cost_nanos, service.count) == (1, ANSWER_NANOS, 2)
        await settled_books(site, service)


async def test_a_worker_dies_between_storing_and_answering(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path
) -> None:
    """One bill, at the bound as it is not known; and what it stored is swept when the call is gone."""
    own = tables(service, max_unconfirmed=0)
    async with running_site(stack.temporal_address, database_url, tmp_path, own, workers=0) as site:
        (dying,) = await site.start_workers(program=[DIES])
        service.script.append(stream(TOKENS)[0])
        call = await start(site.client, request(service))
        await dying.process.wait(timeout=60)
        await site.start_workers()
        result = await asyncio.wait_for(call.result(), 90)
        assert (result.outcome, result.reason, service.count) == (Outcome.UNAVAILABLE, "worker_lost", 1)
        assert len(await stored_bodies(site.engine)) == 1
        await settled_books(site, service)
        sweep = site.client.get_workflow_handle("body-sweep/default")
        assert (await sweep.describe()).status is WorkflowExecutionStatus.RUNNING
        await forget(site, call.id)
        assert not await swept(site)
        assert await stored_bodies(site.engine) == {}


async def forget(site: Site, workflow_id: str) -> None:
    """Has what is stored for this workflow belong to one that Temporal does not have, and be looked at."""
    gone = text("UPDATE call_bodies SET workflow_id = 'call/gone' WHERE workflow_id = :workflow_id")
    async with site.engine.begin() as connection:
        assert (await connection.execute(gone, {"workflow_id": workflow_id})).rowcount > 0
    await look_now(site.engine)


async def swept(site: Site, times: int = 1) -> bool:
    """Whether anything is left after so many sweeps at once."""
    activities = SweepBodiesActivities(site.client, site.engine)
    sweep = BodySweep(ledger="default")
    left = await asyncio.gather(*(ActivityEnvironment().run(activities.sweep_bodies, sweep) for _ in range(times)))
    return any(left)


async def test_two_sweeps_delete_only_what_temporal_forgot(site: Site, service: FakeService) -> None:
    """A parked call's, one's that has ended, and those of another ledger and namespace stay."""
    replies = [stream(TOKENS, seed) for seed in (1, 2)]
    service.script.extend(reply for reply, _ in replies)
    results = [await try_generate(site.client, request(service)) for _ in replies]
    assert all(map(is_stored, results))
    before = await stored_bodies(site.engine)
    async with site.engine.begin() as connection:
        for column in ("ledger", "namespace"):
            others = ", ".join("'other'" if each == column else each for each in ("ledger", "namespace"))
            await connection.execute(
                text(
                    "INSERT INTO call_bodies (reference, piece, ledger, namespace, workflow_id, sha256, data) "
                    f"SELECT reference || '{column}', piece, {others}, 'call/gone', sha256, data FROM call_bodies "
                    "WHERE workflow_id <> 'call/gone'"
                )
            )
    await look_now(site.engine)
    assert await swept(site, 2)
    everything = await stored_bodies(site.engine)
    assert before.items() <= everything.items()
    assert len(everything) == 6
    await forget(site, f"call/{results[0].call_id}")
    assert await swept(site, 2)
    with pytest.raises(AnswerGone):
        await read_answer(site.client, results[0])
    assert await read_answer(site.client, results[1]) == replies[1][1]


async def test_the_sweep_ends_when_nothing_is_left(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_answers, "SWEEP_EVERY", stored_answers.SWEEP_EVERY / 36_000)
    service.script.extend([stream(TOKENS)[0]] * 2)
    async with (
        running_site(stack.temporal_address, database_url, tmp_path, tables(service), workers=0) as site,
        own_workers(site) as workers,
        workers.ledger,
        workers.activities,
        workers.calls,
    ):
        assert is_stored(await try_generate(site.client, request(service)))
        sweep = site.client.get_workflow_handle("body-sweep/default")
        assert (await sweep.describe()).status is WorkflowExecutionStatus.RUNNING
        async with site.engine.begin() as connection:
            await connection.execute(text("DELETE FROM call_bodies"))
        await asyncio.wait_for(sweep.result(), 30)
        assert is_stored(await try_generate(site.client, request(service)))
        assert (await sweep.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_stored_answers_are_encrypted(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the database and has no key reads nothing of them."""
    monkeypatch.setenv("PAYMASTER_KEY_OF_PAYLOADS", b64encode(os.urandom(32)).decode())
    settings = tables(service) | {"encryption": {"keys": ["of-payloads"]}}
    environment = {name: os.environ[name] for name in ("PAYMASTER_KEY_OF_PAYLOADS",)}
    async with running_site(stack.temporal_address, database_url, tmp_path, settings, environment=environment) as site:
        reply, answer = stream(TOKENS)
        service.script.append(reply)
        result = await try_generate(site.client, request(service))
        assert await read_answer(site.client, result) == answer
        with pytest.raises(PayloadUnreadable):
            await stored_bodies(site.engine)
        codec = site.client.data_converter.payload_codec
        assert list((await stored_bodies(site.engine, codec)).values()) == [answer]
        packed = zlib.compress(answer)
        async with site.engine.connect() as connection:
            found = (await connection.execute(text("SELECT data FROM call_bodies"))).scalars().all()
        assert all(packed[at : at + 100] not in data for data in found for at in (0, 1_000, len(packed) - 100))
