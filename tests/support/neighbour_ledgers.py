"""Ledgers beside each other: sites in one namespace and on one database, each with a configuration of its own."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from paymaster_process import Site, write_configuration
from temporalio.client import Client, WorkflowHandle

from paymaster.messages.temporal_names import LEDGER_BEGAN
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import load_settings


@asynccontextmanager
async def neighbour(site: Site, folder: Path, tables: Mapping[str, object]) -> AsyncGenerator[Site]:
    """Another site in that one's namespace and on its database, without a worker yet; at the end its workers are
    killed."""
    folder.mkdir()
    write_configuration(folder / "paymaster.toml", tables)
    settings = load_settings(folder / "paymaster.toml", environ={})
    client = await Client.connect(site.temporal_address, namespace=site.namespace, plugins=[PaymasterPlugin(settings)])
    beside = replace(site, client=client, settings=settings, folder=folder, workers=[])
    try:
        yield beside
    finally:
        for worker in beside.workers:
            worker.process.kill()
        for worker in beside.workers:
            await worker.process.stop()


async def recalls_of(call: WorkflowHandle[object, object]) -> int:
    """How often a call was told that its ledger began anew."""
    history = await call.fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes.signal_name for event in history.events]
    return signals.count(LEDGER_BEGAN.name)
