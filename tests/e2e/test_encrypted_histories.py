"""With encryption on, Temporal holds no readable prompt and no readable answer, whatever becomes of the calls."""

import asyncio
import json
import os
import re
import signal
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from agent_workflows import AGENTS_TASK_QUEUE, OneQuestion, agents_running
from counting_server import CountingServer, Received, Reply
from google.protobuf.json_format import MessageToDict
from held_by_temporal import held_by_temporal
from paymaster_process import (
    PAYMASTER,
    Databases,
    Site,
    configuration,
    running_site,
    settled_books,
    until,
    write_configuration,
)
from purchasing_agents import QUEUE, Buys, BuysByActivity, Errand, run_errand
from purchasing_agents import worker as buyers
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    StartWorkflowInput,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import RawValue
from temporalio.worker import Worker as TemporalWorker

import worker
from paymaster import LLMRequest, LLMResult, Outcome, PurchaseDenied, purchase
from paymaster.client import Ledger, start, try_generate
from paymaster.devstack import EmbeddedStack, GuardedProcess
from paymaster.errors import AdminRefused
from paymaster.keys.api_key import EnvironmentKeys, KeyUnavailable
from paymaster.messages import RaiseCap
from paymaster.plugin import PaymasterPlugin
from paymaster.security.encryption import PayloadEncryption
from paymaster.settings import EncryptionSettings, Settings, load_settings

pytestmark = pytest.mark.timeout(120)
OLD, NEW = "payload-key-2025", "payload-key-2026"
KEYS = {f"PAYMASTER_KEY_{name.upper().replace('-', '_')}": b64encode(os.urandom(32)).decode() for name in (OLD, NEW)}
PROMPT, ANSWER, SYSTEM, NOTE, TOPIC = (
    f"Plain-{word}-text-8Qz" for word in ("prompt", "answer", "system", "note", "topic")
)
PRIVATE = (PROMPT, ANSWER, SYSTEM, NOTE, TOPIC)
PLAIN_PLACES = re.compile(
    # How the SDK finds a local activity again: its number, name and times. The result beside it is encrypted.
    r"\.marker_recorded_event_attributes\.details\.data\.payloads"
    # Names of changes to the code of a workflow, by which the SDK replays what began before them.
    r"|\.marker_recorded_event_attributes\.details\.patch-data\.payloads"
    # What one can search by: budget, service, model, outcome, cost, and the server's own.
    r"|.*\.search_attributes\.indexed_fields\.(Paymaster\w+|BuildIds|TemporalChangeVersion)"
)
SERVICES = ("crypt-ok", "crypt-fails", "crypt-held")


def ask(name: str, **more: Any) -> LLMRequest:
    return LLMRequest(route=name, budget=f"acme/{name}", prompt=PROMPT, system=SYSTEM, metadata={"note": NOTE}, **more)


def repeats_the_prompt(request: Received) -> bytes:
    return b'{"error": {"message": "cannot answer %s", "type": "invalid"}}' % request.prompt.encode()


@pytest.fixture(scope="module")
def keys_of_the_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
async def tables(server: CountingServer) -> dict[str, Any]:
    budgets: dict[str, Any] = {f"acme/{name}": {"cap_usd": {"total": "1"}} for name in (*SERVICES, "bought")}
    services = [server.service(name) for name in SERVICES]
    for service in services:
        service.text = lambda request: f"{ANSWER} to {request.prompt}"
    one_at_a_time = {"crypt-held": {"max_concurrent": 1}}
    return configuration(services, budgets=budgets, only=one_at_a_time) | {"encryption": {"keys": [OLD]}}


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack,
    databases: Databases,
    module_folder: Path,
    tables: dict[str, Any],
    keys_of_the_process: None,
) -> AsyncIterator[Site]:
    async with (
        running_site(stack.temporal_address, await databases.create(), module_folder, tables, environment=KEYS) as site,
        agents_running(site.client),
    ):
        yield site


# ---------------------------------------------------------------- what Temporal holds


class _TopicInHeader(Interceptor):
    """What a tracing interceptor does, with something private in it."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        class Outbound(OutboundInterceptor):
            async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
                header = Payload(metadata={"encoding": b"json/plain"}, data=f'"{TOPIC}"'.encode())
                input.headers = {**input.headers, "topic": header}
                return await super().start_workflow(input)

        return Outbound(next)


@workflow.defn(sandboxed=False)
class BrokenAgent:
    """Its task fails with an error that has the topic in it."""

    @workflow.run
    async def run(self, topic: str) -> None:
        workflow.set_current_details(topic)
        raise LookupError(f"nothing known of {topic}")


async def client_with(site: Site, *names: str) -> Client:
    plugin = PaymasterPlugin(Settings(encryption=EncryptionSettings(keys=names)))
    return await Client.connect(site.temporal_address, namespace=site.namespace, plugins=[plugin])


async def until_listed(site: Site, *ids: str) -> None:
    async def listed() -> bool:
        return set(ids) <= {execution.id async for execution in site.client.list_workflows()}

    await until(listed, "Temporal lists every workflow")


async def test_nothing_private_is_readable_in_anything_that_temporal_holds(site: Site, server: CountingServer) -> None:
    """Success, failure, a failed attempt in flight, parked, cancelled, a failing task; summaries, memo, headers.

    The same search finds everything once the payloads are decrypted, so it can fail.
    """
    ok, fails, held_back = (server.service(name) for name in SERVICES[:3])
    assert (await try_generate(site.client, ask("crypt-ok", call_id="ok"))).text == f"{ANSWER} to {PROMPT}"
    fails.reply = lambda request: Reply(400, body=repeats_the_prompt)
    failed = await try_generate(site.client, ask("crypt-fails", call_id="fails"))
    assert failed.outcome is Outcome.UNAVAILABLE
    assert PROMPT in (failed.detail or "")

    client = await Client.connect(
        site.temporal_address,
        namespace=site.namespace,
        plugins=[PaymasterPlugin(site.settings)],
        interceptors=[_TopicInHeader()],
    )
    agent = await client.start_workflow(
        OneQuestion.run,
        ask("crypt-fails", call_id="of-agent"),
        id="agent",
        task_queue=AGENTS_TASK_QUEUE,
        memo={"topic": TOPIC},
        static_summary=TOPIC,
        static_details=TOPIC,
    )
    with pytest.raises(WorkflowFailureError) as failure:
        await agent.result()
    assert PROMPT in str(failure.value.cause)

    held_back.script.append(Reply(500, body=repeats_the_prompt))  # its attempt is in the heartbeats of the next
    held_back.hold()
    flying = await start(site.client, ask("crypt-held", call_id="held"))
    await until(lambda: held_back.held == 1, "the first attempt")
    held_back.release(1)
    await until(lambda: held_back.held == 1 and held_back.count == 2, "the second attempt")
    parked = await start(site.client, ask("crypt-held", call_id="parked"))
    async with TemporalWorker(client, task_queue="broken", workflows=[BrokenAgent]):
        broken = await client.start_workflow(BrokenAgent.run, TOPIC, id="broken", task_queue="broken")

        async def task_failed() -> bool:
            events = (await broken.fetch_history()).events
            return any(event.HasField("workflow_task_failed_event_attributes") for event in events)

        await until(task_failed, "its task failed")
    await site.ledger.raise_cap(
        RaiseCap(account="budget:acme/crypt-ok", window="total", by="1", reason=NOTE, who="ada")
    )
    await until_listed(site, "call/ok", "call/fails", "call/of-agent", "call/parked", "call/held", "agent", "broken")

    async def one_parked() -> bool:
        return (await site.ledger.status()).parked == 1

    await until(one_parked, "one call is parked")
    in_flight = await held_by_temporal(site, OLD)
    await parked.cancel()
    await flying.cancel()
    held_back.release()
    for call in (parked, flying):
        with pytest.raises(WorkflowFailureError):
            await call.result()
    await broken.terminate()
    await settled_books(site, ok, fails, held_back)
    ended = await held_by_temporal(site, OLD)

    for held in (in_flight, ended):
        assert [text for text in PRIVATE if text not in held.opened] == [], "the search would not find it"
        assert [text for text in PRIVATE if text.encode() in held.raw] == []
        assert held.keys == {OLD}
        assert {where: what for where, what in held.plain.items() if not PLAIN_PLACES.fullmatch(where)} == {}


async def test_nothing_private_of_a_purchase_is_readable(site: Site) -> None:
    """Paid in a workflow, in an activity and elsewhere, parked, denied, and failed with an error that has the note."""
    client = await client_with(site, OLD)
    errand = Errand(budget="acme/bought", note=NOTE)
    ids = [f"buys-{name}" for name in ("itself", "by-activity", "in-vain", "later")]

    async def parked() -> bool:
        return (await site.ledger.status()).parked == 1

    async with buyers(client):
        await client.execute_workflow(Buys.run, errand, id=ids[0], task_queue=QUEUE)
        await client.execute_workflow(BuysByActivity.run, errand, id=ids[1], task_queue=QUEUE)
        with pytest.raises(WorkflowFailureError) as failure:
            await client.execute_workflow(Buys.run, replace(errand, fails=True), id=ids[2], task_queue=QUEUE)
        assert NOTE in str(failure.value.cause)
        with pytest.raises(PurchaseDenied, match="bound_above_cap"):
            await run_errand(replace(errand, up_to="2"), client)
        metadata = {"note": NOTE}
        async with purchase("acme/bought", up_to="0.9", what="search", metadata=metadata, client=client) as bought:
            waiting = await client.start_workflow(Buys.run, errand, id=ids[3], task_queue=QUEUE)
            await until(parked, "it waits for what is on hold")
            in_flight = await held_by_temporal(site, OLD)
            bought.nothing()
        await waiting.result()
    await settled_books(site)
    await until_listed(site, *ids, f"purchase/{bought.id}")
    ended = await held_by_temporal(site, OLD)
    for held in (in_flight, ended):
        assert NOTE in held.opened, "the search would not find it"
        assert NOTE.encode() not in held.raw
        assert held.keys == {OLD}
        assert {where: what for where, what in held.plain.items() if not PLAIN_PLACES.fullmatch(where)} == {}
    with pytest.raises(PurchaseDenied, match="plaintext"):
        await run_errand(replace(errand, note="of nobody"), await client_with(site))


# ---------------------------------------------------------------- who has no key, or another one


async def test_who_has_no_key_is_told_which_one(
    site: Site, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of an admin, the client of an agent whose call is made all the same, and a worker."""
    without = {name: table for name, table in tables.items() if name != "encryption"}
    write_configuration(tmp_path / "without.toml", without)
    shown = await site.command("budget", "show", file=tmp_path / "without.toml")
    assert shown.code == 2
    assert f"encrypted with the key '{OLD}', which [encryption] keys does not name here" in shown.errors
    assert "Traceback" not in shown.errors
    assert "budget:acme" in (await site.command("budget", "show")).output
    cap_before = (await site.balance("budget:acme/crypt-ok")).cap_nanos
    raising = ("budget", "raise", "acme/crypt-ok", "--window", "total", "--by", "1", "--reason", "r")
    for command in (raising, ("services", "pause", "crypt-ok", "--reason", "r"), ("config", "apply", "--force")):
        unreadable = await site.command(*command, file=tmp_path / "without.toml")
        assert (unreadable.code, OLD in unreadable.errors) == (2, True), command
    assert (await site.balance("budget:acme/crypt-ok")).cap_nanos == cap_before, "refused, and done all the same"
    assert (await site.service_status("crypt-ok")).paused_by is None
    checks = await site.command("doctor", file=tmp_path / "without.toml")
    assert re.search(f"PROBLEM +ledger: .*{OLD}", checks.output)
    assert "database: " in checks.output

    other = tables | {"encryption": {"keys": [NEW]}}
    write_configuration(tmp_path / "other.toml", other)
    wrong = await site.command("budget", "show", file=tmp_path / "other.toml")
    assert "compare [encryption] keys with those of the workers" in wrong.errors

    request = LLMRequest(route="crypt-ok", budget="acme/crypt-ok", prompt="No secret", call_id="encrypted")
    assert (await try_generate(site.client, request)).text == f"{ANSWER} to No secret"
    without_key = await client_with(site)
    with pytest.raises(KeyUnavailable, match=OLD):
        await try_generate(without_key, request)
    plain = await try_generate(without_key, request.model_copy(update={"call_id": "from-plain"}))
    assert (plain.outcome, plain.reason) == (Outcome.DENIED, "plaintext")
    assert "give the agent's client PaymasterPlugin() with the same keys" in (plain.detail or "")

    stop = asyncio.Event()
    monkeypatch.delenv("PAYMASTER_KEY_PAYLOAD_KEY_2025")
    with pytest.raises(KeyUnavailable, match="PAYMASTER_KEY_PAYLOAD_KEY_2025"):
        await worker.run_worker(load_settings(site.folder / "paymaster.toml", environ=site.environment), "all", stop)


async def test_signals_by_hand_work_and_broken_ones_stop_nothing(site: Site) -> None:
    """Plain JSON, as the Temporal UI sends it, is taken. What cannot be decrypted is refused and seen; calls go on."""
    plain = await Client.connect(site.temporal_address, namespace=site.namespace)
    budget = plain.get_workflow_handle("budget/default")
    cap_before = (await site.balance("budget:acme/crypt-ok")).cap_nanos
    change = {"account": "budget:acme/crypt-ok", "window": "total", "by": "1", "reason": "r", "who": "ada"}
    codec = PayloadEncryption([OLD], EnvironmentKeys)
    other_value = {"PAYMASTER_KEY_PAYLOAD_KEY_2025": b64encode(os.urandom(32)).decode()}
    message = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(change).encode())
    (whole,) = await codec.encode([message])
    (of_another,) = await PayloadEncryption([OLD], lambda: EnvironmentKeys(other_value)).encode([message])
    cut = Payload(metadata=whole.metadata, data=whole.data[:-3])
    for payload in (cut, of_another, whole, message):
        await budget.signal("raise_cap", RawValue(payload))

    async def both_raised() -> bool:
        return (await site.balance("budget:acme/crypt-ok")).cap_nanos == (cap_before or 0) + 2 * 10**9

    await until(both_raised, "the encrypted and the plain one are applied")
    first, second = (await site.ledger.status()).refused_messages
    assert "changed or cut" in first
    assert f"another key that was called '{OLD}'" in second
    assert (await try_generate(site.client, ask("crypt-ok"))).outcome is Outcome.COMPLETED


async def test_the_codec_server_opens_a_history_for_who_has_the_token(site: Site, tables: dict[str, Any]) -> None:
    """`paymaster codec`, asked as the Temporal UI asks."""
    token = os.urandom(16).hex()
    file, log_file = site.folder / "codec.toml", site.folder / "codec.log"
    write_configuration(file, {**tables, "codec": {"token": "codec-token", "port": 0}})
    process = GuardedProcess(
        [PAYMASTER, "codec", "--config", str(file)],
        env=site.environment | {"PAYMASTER_KEY_CODEC_TOKEN": token},
        log_file=log_file,
    )
    try:
        await until(lambda: "Codec server" in log_file.read_text() or process.poll(), "the codec server listens")
        address = log_file.read_text().split()[2]
        started = (await site.client.get_workflow_handle("call/ok").fetch_history()).events[0]
        body = MessageToDict(started.workflow_execution_started_event_attributes.input)
        page = {"Origin": "http://localhost:8233", "X-Namespace": site.namespace}
        async with httpx.AsyncClient(base_url=address, trust_env=False) as browser:
            assert (await browser.post("/decode", json=body, headers=page)).status_code == 401
            answer = await browser.post("/decode", json=body, headers=page | {"Authorization": f"Bearer {token}"})
        assert PROMPT in b64decode(answer.json()["payloads"][0]["data"]).decode()
        process.send_signal(signal.SIGINT)
        assert await process.wait(timeout=20) == 0
        assert token not in log_file.read_text()
    finally:
        await process.stop()


async def test_a_stranger_with_a_key_of_its_own_stops_nobody(site: Site) -> None:
    """What it asks is refused at once, before it is in any history; the ledger answers everybody else."""
    stranger = Ledger(await client_with(site, NEW))
    change = RaiseCap(account="budget:acme/crypt-ok", window="total", by="1", reason="r", who="eve")
    with pytest.raises(AdminRefused, match="encrypted with a key that is not at hand"):
        await stranger.raise_cap(change)
    cap = (await site.balance("budget:acme/crypt-ok")).cap_nanos
    assert (await try_generate(site.client, ask("crypt-ok"))).outcome is Outcome.COMPLETED
    await site.ledger.raise_cap(change)
    assert (await site.balance("budget:acme/crypt-ok")).cap_nanos == (cap or 0) + 10**9


# ---------------------------------------------------------------- rotation


async def test_after_a_rotation_the_new_key_encrypts_and_the_old_histories_stay_readable(
    site: Site, tables: dict[str, Any]
) -> None:
    """The ledger goes on with its old history, and an old result is still there for who asks again."""
    file = site.folder / "rotated.toml"
    write_configuration(file, {**tables, "encryption": {"keys": [NEW, OLD]}})
    with_old_key, rotated = site.client, await client_with(site, NEW, OLD)
    site.client = rotated
    await site.workers[0].kill()
    await site.start_workers(file=file)
    result = await try_generate(rotated, ask("crypt-ok", call_id="after"))
    assert result.text == f"{ANSWER} to {PROMPT}"
    before = await rotated.get_workflow_handle("call/ok", result_type=LLMResult).result()
    assert before.text == result.text
    with pytest.raises(KeyUnavailable, match=NEW):
        await with_old_key.get_workflow_handle("call/after", result_type=LLMResult).result()
    await until_listed(site, "call/after")
    held = await held_by_temporal(site, NEW, OLD)
    assert held.keys == {NEW, OLD}
    assert [text for text in PRIVATE if text.encode() in held.raw] == []
