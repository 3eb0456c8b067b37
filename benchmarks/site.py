"""What the benchmarks measure: Paymaster's worker and the one without a budget beside it, on one embedded stack."""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe

from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text
from sqlalchemy.engine import make_url
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack, GuardedProcess, clean_environment
from paymaster.errors import LedgerNotFound
from paymaster.ledger.handle import Ledger
from paymaster.messages import LLMRequest
from paymaster.observability.search_attributes import register
from paymaster.plugin import PaymasterPlugin
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import migrate

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "Write two sentences about how the tides work, for a reader who has never seen the sea. " * 12
"""About a thousand characters."""
_STARTS_WITHIN_S = 60.0
_NUMBERS = itertools.count(1)
_CONFIGURATION = """
[services.now]
api = "openai"
base_url = "{provider}/now/v1"
models.bench-model = {{ max_output_tokens = 400, price = {{ input = "1.00", output = "4.00" }} }}

[services.later]
api = "openai"
base_url = "{provider}/later/v1"
timeout = "600s"
retry.maximum_attempts = 1
models.bench-model = {{ max_output_tokens = 400, price = {{ input = "1.00", output = "4.00" }} }}

[services.tokens]
api = "openai"
base_url = "{provider}/tokens/v1"
timeout = "600s"
retry.maximum_attempts = 1
models.bench-model = {{ max_output_tokens = 10000, price = {{ input = "1.00", output = "4.00" }} }}

[routes]
tokens = ["tokens/bench-model"]
now = ["now/bench-model"]
later = ["later/bench-model"]

[budgets."bench"]
cap_usd = {{ day = "1000000", total = "1000000" }}

[budgets."customers/*"]
cap_usd = {{ day = "1000000" }}

[gateway]
address = "127.0.0.1:0"
budget = "bench/agent"
streams.secret_key = "bench-streams"
"""


@dataclass(frozen=True)
class Site:
    """A namespace, a database, a provider and two workers: Paymaster's, and the one without a budget."""

    client: Client
    stack: EmbeddedStack
    provider_url: str
    config_file: Path
    provider: GuardedProcess
    worker: GuardedProcess
    """`python worker.py`."""
    unbudgeted_worker: GuardedProcess
    """`python -m benchmarks.unbudgeted`."""
    environment: dict[str, str]
    """What a process of Paymaster is started with."""
    folder: Path
    """For logs."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.client)

    def request(self, route: str = "now") -> LLMRequest:
        return LLMRequest(route=route, budget="bench/agent", prompt=PROMPT)


@asynccontextmanager
async def running_site(stack: EmbeddedStack, folder: Path) -> AsyncGenerator[Site]:
    """On a stack that runs. Everything that is started here is gone at the end."""
    name = f"bench_{os.getpid()}_{next(_NUMBERS)}"
    database_url = await _new_database(stack.database_url, name)
    client = await Client.connect(stack.temporal_address)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86_400))
    )
    client = await Client.connect(stack.temporal_address, namespace=name, plugins=[PaymasterPlugin()])
    await register(client)
    async with GuardedProcess(
        [sys.executable, "-m", "benchmarks.provider"],
        env=clean_environment(),
        cwd=ROOT,
        log_file=folder / "provider.log",
    ) as provider:
        port = await said_by(provider)
        provider_url = f"http://127.0.0.1:{port}"
        config_file = folder / "paymaster.toml"
        config_file.write_text(_CONFIGURATION.format(provider=provider_url))
        environment = clean_environment(
            TEMPORAL_ADDRESS=stack.temporal_address,
            TEMPORAL_NAMESPACE=name,
            PAYMASTER__DATABASE__URL=database_url,
            PAYMASTER_CONFIG=str(config_file),
            PAYMASTER_KEY_BENCH_STREAMS=token_urlsafe(32),
        )
        async with (
            GuardedProcess(
                [sys.executable, ROOT / "worker.py"], env=environment, cwd=ROOT, log_file=folder / "worker.log"
            ) as worker,
            GuardedProcess(
                [sys.executable, "-m", "benchmarks.unbudgeted"],
                env=environment,
                cwd=ROOT,
                log_file=folder / "unbudgeted.log",
            ) as unbudgeted_worker,
        ):
            processes = provider, worker, unbudgeted_worker
            site = Site(client, stack, provider_url, config_file, *processes, environment, folder)
            await _until_it_answers(site.ledger, site.worker)
            yield site


@asynccontextmanager
async def ledger_of_its_own(site: Site) -> AsyncGenerator[tuple[Ledger, GuardedProcess]]:
    """A new ledger beside the default one, and a worker process for it, which is gone at the end."""
    ledger = Ledger(site.client, f"bench-{next(_NUMBERS)}")
    async with GuardedProcess(
        [sys.executable, ROOT / "worker.py"],
        env=site.environment | {"PAYMASTER__LEDGER__NAME": ledger.name},
        cwd=ROOT,
        log_file=site.folder / f"worker-of-{ledger.name}.log",
    ) as worker:
        await _until_it_answers(ledger, worker)
        yield ledger, worker


async def _new_database(server_url: str, name: str) -> str:
    admin = create_engine(server_url).execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with admin.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
    finally:
        await admin.dispose()
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    await migrate(url)
    return url


async def said_by(process: GuardedProcess, begins: str = "") -> str:
    """The first line that begins so of what a process says, once it says it. Raises RuntimeError."""
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        lines = [line for line in process.log_tail().splitlines() if line.startswith(begins)]
        if lines:
            return lines[0]
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.command} does not start:\n{process.log_tail()}")
        await asyncio.sleep(0.02)


async def _until_it_answers(ledger: Ledger, worker: GuardedProcess) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            await ledger.status()
        except LedgerNotFound as error:
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker does not start:\n{worker.log_tail()}") from error
            await asyncio.sleep(0.1)
        else:
            return
