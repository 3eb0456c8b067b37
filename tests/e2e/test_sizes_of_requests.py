"""Requests and answers of any size, by way of the external storage of an agent's client; what is said without one."""

import hashlib
import json
import random
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from disk_storage import FOLDER, on_disk
from large_answers import USAGE, stream
from paymaster_process import (
    MODEL,
    PRICE,
    ROOT,
    Databases,
    Site,
    configuration,
    running_site,
    settled_books,
    write_configuration,
)
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Plugin
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, ExternalStorage
from temporalio.worker import Replayer, Worker

import paymaster
from paymaster import LLMRequest, Outcome
from paymaster.client import read_answer, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap, Wire
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings

pytestmark = pytest.mark.timeout(180)
SUPPORT = str(Path(__file__).parents[1] / "support")
TEXT = b64encode(random.Random(1).randbytes(5_900_000)).decode()
"""Of 7.9 MB, which do not compress away."""
PLAIN = Settings()
"""Of agents: they know nothing of the workers' settings."""


def body(size: int) -> bytes:
    said = [{"role": "user", "content": TEXT[:size]}]
    return json.dumps({"model": "m", "stream": True, "messages": said}).encode()


def request(size: int) -> LLMRequest:
    return LLMRequest(route="large", budget="acme/x", wire=Wire(dialect="openai", body=body(size)))


@workflow.defn(sandboxed=False)
class Large:
    """Makes a large request by itself, and says what came."""

    @workflow.run
    async def run(self, size: int) -> list[str]:
        result = await paymaster.try_generate(request(size))
        if result.wire is None:
            return [result.outcome, str(result.reason), str(result.detail)]
        inline = len(result.wire.body)
        answer = await paymaster.read_answer(result)
        return [result.outcome, str(inline), hashlib.sha256(answer).hexdigest()]


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    service = server.service("large")
    service.usage = lambda _: USAGE
    return service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


def tables(service: FakeService, **payloads: str) -> dict[str, object]:
    models = {MODEL: {"max_output_tokens": 60_000, "price": PRICE}}
    budgets = {"acme": {"cap_usd": {"total": "100"}}}
    return configuration([service], budgets=budgets, service={"models": models}) | {"payloads": payloads}


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path, folder: Path
) -> AsyncIterator[Site]:
    """Whose workers are told of the storage."""
    environment = {"PYTHONPATH": SUPPORT, FOLDER: str(folder)}
    settings, url = tables(service, storage="disk_storage:storage"), await databases.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        async with running_site(stack.temporal_address, url, module_folder, settings, environment=environment) as site:
            yield site


async def connected(site: Site, storage: ExternalStorage | None, plugins: Sequence[Plugin] = ()) -> Client:
    converter = DataConverter(
        payload_converter_class=pydantic_data_converter.payload_converter_class, external_storage=storage
    )
    return await Client.connect(
        site.temporal_address, namespace=site.namespace, data_converter=converter, plugins=plugins
    )


async def asked(client: Client, workflow_id: str, size: int) -> list[str]:
    async with Worker(client, task_queue=workflow_id, workflows=[Large]):
        return await client.execute_workflow(Large.run, size, id=workflow_id, task_queue=workflow_id)


@pytest.mark.parametrize("settings", [PLAIN, None], ids=["storage-of-the-client", "storage-of-the-settings"])
async def test_eight_megabytes_and_a_long_stream_go_through(
    site: Site, service: FakeService, folder: Path, settings: Settings | None
) -> None:
    """And what is in the agent's history is a few kilobytes."""
    reply, answer = stream(60_000)
    service.script.extend([reply, reply])
    storage = None if settings is None else on_disk(folder)
    plugins = [PaymasterPlugin(settings or site.settings)]
    client = await connected(site, storage, plugins)
    name = f"through-{settings is None}"
    digest = hashlib.sha256(answer).hexdigest()
    assert await asked(client, name, len(TEXT)) == [Outcome.COMPLETED, str(len(answer)), digest]
    assert hashlib.sha256(service.requests[-1].prompt.encode()).digest() == hashlib.sha256(TEXT.encode()).digest()
    history = await client.get_workflow_handle(name).fetch_history()
    assert sum(event.ByteSize() for event in history.events) < 20_000
    replayer = Replayer(workflows=[Large], data_converter=client.data_converter, plugins=plugins)
    await replayer.replay_workflow(history)
    result = await try_generate(client, request(len(TEXT)))
    assert result.wire is not None
    assert result.wire.body == answer
    await settled_books(site, service)


async def test_without_storage_large_requests_are_refused(site: Site, service: FakeService, folder: Path) -> None:
    """In words, and answers are read in pieces, although the workers have a storage: who has none gets none by it."""
    reply, answer = stream(60_000)
    for number, plugins in enumerate(([], [PaymasterPlugin(PLAIN)])):
        client = await connected(site, None, plugins)
        count = service.count
        outcome, reason, detail = await asked(client, f"without-{number}", len(TEXT))
        assert (outcome, reason, service.count) == (Outcome.DENIED, "request_too_long", count)
        assert "bytes as JSON and may have 1,900,000" in detail
        assert "[payloads] storage" in detail
        history = await client.get_workflow_handle(f"without-{number}").fetch_history()
        given_later = DataConverter(
            payload_converter_class=pydantic_data_converter.payload_converter_class, external_storage=on_disk(folder)
        )
        later = Replayer(workflows=[Large], data_converter=given_later, plugins=[PaymasterPlugin(PLAIN)])
        await later.replay_workflow(history)
        service.script.append(reply)
        digest = hashlib.sha256(answer).hexdigest()
        assert await asked(client, f"without-{number}-2", 100) == [Outcome.COMPLETED, "0", digest]
    await settled_books(site, service)


async def test_storage_without_the_plugin(site: Site, service: FakeService, folder: Path) -> None:
    """What its client puts away, workers find. It cannot be known to read answers there: they are stored."""
    reply, answer = stream(60_000)
    service.script.append(reply)
    client = await connected(site, on_disk(folder))
    digest = hashlib.sha256(answer).hexdigest()
    assert await asked(client, "no-plugin", 1_200_000) == [Outcome.COMPLETED, "0", digest]
    service.script.append(reply)
    result = await try_generate(client, request(len(TEXT)))
    assert await read_answer(client, result) == answer


async def test_what_was_put_away_is_refused_in_words_without_payloads(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path, folder: Path
) -> None:
    """Temporal's SDK would stop the call for ever, and the ledger over one signal."""
    async with running_site(stack.temporal_address, database_url, tmp_path, tables(service)) as site:
        client = await connected(site, on_disk(folder))
        count = service.count
        for size in (200_000, 1_200_000):
            result = await try_generate(client, request(size))
            assert (result.outcome, result.reason, service.count) == (Outcome.DENIED, "bad_request", count)
            assert "put into the external storage 'disk', which this worker does not have" in str(result.detail)
            assert '[payloads] storage = "module:object"' in str(result.detail)
        outcome, _, detail = await asked(client, "put-away", 200_000)
        assert (outcome, "[payloads] storage" in detail) == (Outcome.DENIED, True)
        ledger = client.get_workflow_handle("budget/default")
        marked = Payload(metadata={"encoding": b"binary/x", "__temporal_external_storage_reference": b"true"})
        for argument in ("x" * 100_000, RawValue(marked)):
            await ledger.signal("raise_cap", argument)
        change = RaiseCap(account="budget:acme", window="total", by="1", reason="it goes on", who="ada")
        assert (await site.ledger.raise_cap(change)).cap_nanos == 101 * 10**9
        with_plugin = await connected(site, on_disk(folder), [PaymasterPlugin(PLAIN)])
        service.script.append(stream(10)[0])
        assert (await asked(with_plugin, "inline", 1_200_000))[0] == Outcome.COMPLETED


async def test_a_worker_of_activities_without_payloads_sends_nothing(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path, folder: Path
) -> None:
    """And nothing is charged: the settings of one worker differ from those of another."""
    own, environment = tables(service, storage="disk_storage:storage"), {"PYTHONPATH": SUPPORT, FOLDER: str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        async with running_site(
            stack.temporal_address, database_url, tmp_path, own, workers=0, environment=environment
        ) as site:
            write_configuration(tmp_path / "other.toml", tables(service))
            await site.start_workers(program=[ROOT / "worker.py", "--role", "workflows"])
            program = [ROOT / "worker.py", "--role", "activities"]
            await site.start_workers(program=program, file=tmp_path / "other.toml")
            count = service.count
            result = await try_generate(await connected(site, on_disk(folder)), request(len(TEXT)))
            assert (result.outcome, result.reason, result.cost_nanos) == (Outcome.UNAVAILABLE, "not_sent", 0)
            assert "set [payloads] storage" in str(result.detail)
            assert service.count == count
