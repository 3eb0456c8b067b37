"""Nexus and encryption: what callers of another namespace, with the keys and without them, may send and are told."""

import itertools
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer
from nexus_agents import Asks, AsksAnything
from nexus_callers import CALLERS_TASK_QUEUE, callers_of, make_endpoint
from nexusrpc import HandlerError
from paymaster_process import (
    Databases,
    Site,
    configuration,
    readable_history,
    running_site,
    until,
    write_configuration,
)
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import NexusOperationError

from paymaster import LLMResult, Outcome, PaymasterPlugin
from paymaster.devstack import EmbeddedStack
from paymaster.messages import EndpointRequest, call_workflow_id
from paymaster.settings import EncryptionSettings, Settings

pytestmark = pytest.mark.timeout(90)
NUMBERS = itertools.count(1)
KEY = "payload-key-2026"
KEYS = {"PAYMASTER_KEY_PAYLOAD_KEY_2026": b64encode(os.urandom(32)).decode()}
PROMPT = "Plain-prompt-text-8Qz"
REQUEST = EndpointRequest(route="sealed", prompt=PROMPT)


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration([server.service("sealed")], budgets={"acme": {"cap_usd": {"total": "1"}}}) | {
        "nexus": {"endpoints": {"sealed": {"budget": "acme"}}},
        "encryption": {"keys": [KEY]},
    }
    database = await databases.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*next(iter(KEYS.items())))
        async with running_site(stack.temporal_address, database, module_folder, tables, environment=KEYS) as site:
            await make_endpoint(site, "sealed")
            opened = tables | {"encryption": {"keys": [KEY], "allow_plaintext": True}}
            write_configuration(module_folder / "opened.toml", opened)
            yield site


@pytest.fixture(scope="module")
async def with_keys(site: Site) -> AsyncIterator[Client]:
    plugin = PaymasterPlugin(Settings(encryption=EncryptionSettings(keys=(KEY,))))
    async with callers_of(site, plugins=[plugin]) as client:
        yield client


@pytest.fixture(scope="module")
async def without_keys(site: Site) -> AsyncIterator[Client]:
    async with callers_of(site) as client:
        yield client


async def start(client: Client) -> WorkflowHandle[Asks, LLMResult]:
    return await client.start_workflow(
        Asks.run, args=["sealed", REQUEST], id=f"asks-{next(NUMBERS)}", task_queue=CALLERS_TASK_QUEUE
    )


async def histories(site: Site, caller: WorkflowHandle[Asks, LLMResult], result: LLMResult) -> list[str]:
    """The caller's and the call's, as who reads Temporal's database sees them."""
    call = site.client.get_workflow_handle(call_workflow_id(result.call_id))
    return [await readable_history(each) for each in (caller, call)]


async def test_with_the_keys_no_history_holds_the_prompt(site: Site, with_keys: Client) -> None:
    caller = await start(with_keys)
    result = await caller.result()
    assert (result.outcome, result.text) == (Outcome.COMPLETED, f"answer to {PROMPT}")
    assert [PROMPT in history for history in await histories(site, caller, result)] == [False, False]


async def test_without_the_keys_a_call_is_denied_in_words(without_keys: Client, server: CountingServer) -> None:
    before = server.service("sealed").count
    result = await (await start(without_keys)).result()
    assert (result.outcome, result.reason) == (Outcome.DENIED, "plaintext")
    assert "allow_plaintext = true" in (result.detail or "")
    assert server.service("sealed").count == before


@pytest.mark.parametrize("has_keys", [True, False])
async def test_errors_are_in_words_and_hold_nothing_private(
    with_keys: Client, without_keys: Client, has_keys: bool
) -> None:
    client = with_keys if has_keys else without_keys
    caller = await client.start_workflow(
        AsksAnything.run,
        args=["sealed", {"route": "sealed", "prompt": PROMPT, "temperature": PROMPT}],
        id=f"asks-{next(NUMBERS)}",
        task_queue=CALLERS_TASK_QUEUE,
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await caller.result()
    assert isinstance(failed.value.cause, NexusOperationError)
    assert isinstance(failed.value.cause.cause, HandlerError)
    assert failed.value.cause.cause.message.startswith(
        "this is no EndpointRequest: temperature: Input should be a valid number"
    )
    assert (PROMPT in await readable_history(caller)) is not has_keys


async def test_plain_text_goes_in_plain_text_where_it_is_allowed(site: Site, without_keys: Client) -> None:
    worker = site.workers[0]
    await worker.terminate()
    await until(lambda: worker.process.poll() is not None, "the worker has ended")
    await site.start_workers(file=site.folder / "opened.toml")
    caller = await start(without_keys)
    result = await caller.result()
    assert (result.outcome, result.text) == (Outcome.COMPLETED, f"answer to {PROMPT}")
    assert [PROMPT in history for history in await histories(site, caller, result)] == [True, True]
