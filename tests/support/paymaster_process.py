"""A Paymaster of its own for a test: namespace, database, configuration, real worker processes, and its promises.

`settled_books` is the one place that checks the promises after whatever a test did.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import signal
import socket
import sys
import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, cast

import warm_start
from counting_server import FakeService
from google.protobuf.duration_pb2 import Duration
from process_table import pause_s
from sqlalchemy import RowMapping, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker as TemporalWorker
from warm_start import WarmProcess

from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.client import Ledger
from paymaster.devstack import GuardedProcess
from paymaster.errors import LedgerNotFound
from paymaster.keys.ring import kept_keys
from paymaster.ledger.commits import client_of_commits
from paymaster.messages import (
    AlertKind,
    DeskStatus,
    LLMRequest,
    LLMResult,
    ServiceStatus,
    Window,
    WindowStatus,
    backlog_workflow_id,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.providers.bounds import input_bytes
from paymaster.providers.connections import Connections
from paymaster.reports.usage import usage_report
from paymaster.settings import Settings, load_settings
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import migrate
from paymaster.values.money import Price, nanos_to_usd
from worker import Clients, workers_of

ROOT = Path(__file__).resolve().parents[2]
PAYMASTER = Path(sys.executable).with_name("paymaster")
MODEL = "model-1"
PRICE = {"input": "1.00", "output": "4.00"}
_NUMBERS = itertools.count(1)
_KEPT_FROM_THE_SHELL = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_READ_BY_IMPORTS = ("PYTHON", "OTEL_")
"""How the names of the variables begin that do nothing any more once everything is imported."""


async def until(happened: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Waits until the function, plain or async, gives something true. Fails with `what` after the deadline.

    Looks again after `pause_s`: a look may ask the worker and Temporal for work.
    """
    began = time.monotonic()
    while True:
        found = happened()
        if await found if inspect.isawaitable(found) else found:
            return
        waited_s = time.monotonic() - began
        assert waited_s < deadline_s, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(pause_s(waited_s))


def free_address() -> str:
    """A host and a port on loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


async def results_of(calls: Sequence[WorkflowHandle[object, LLMResult]], deadline_s: float = 60.0) -> list[LLMResult]:
    """What all the calls gave, in their order. Fails when one has not ended by the deadline."""
    async with asyncio.timeout(deadline_s):
        return list(await asyncio.gather(*(call.result() for call in calls)))


# ---------------------------------------------------------------- parts of the stack, fresh and cheap


class Databases:
    """Migrated databases on one PostgreSQL. Each is a copy of one that was migrated once: some 50 ms."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._template: str | None = None

    async def create(self) -> str:
        """The URL of a new database with the current schema and no rows."""
        if self._template is None:
            self._template = await self._create(None)
            await migrate(self._url(self._template))
        return self._url(await self._create(self._template))

    async def create_empty(self) -> str:
        """The URL of a new database without a schema."""
        return self._url(await self._create(None))

    async def _create(self, template: str | None) -> str:
        name = f"e2e_{next(_NUMBERS)}"
        admin = create_engine(self._server_url).execution_options(isolation_level="AUTOCOMMIT")
        try:
            async with admin.connect() as connection:
                await connection.execute(
                    text(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
                )
        finally:
            await admin.dispose()
        return name

    def _url(self, name: str) -> str:
        return make_url(self._server_url).set(database=name).render_as_string(hide_password=False)


async def new_namespace(address: str) -> str:
    """A namespace of its own: the task queues have fixed names, and nobody else polls them there."""
    name = f"e2e-{next(_NUMBERS)}"
    await register_namespace(address, name)
    return name


async def register_namespace(address: str, name: str) -> None:
    client = await Client.connect(address)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86_400))
    )


# ---------------------------------------------------------------- configuration


def configuration(
    services: Sequence[FakeService],
    *,
    budgets: Mapping[str, Mapping[str, object]],
    routes: Mapping[str, Sequence[FakeService]] | None = None,
    service: Mapping[str, object] | None = None,
    ledger: Mapping[str, object] | None = None,
    only: Mapping[str, Mapping[str, object]] | None = None,
    webhook_url: str | None = None,
    worker: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The tables of a `paymaster.toml`. Each service has one model, and a route of its own name unless told otherwise.

    `service` adds to every service, `only` to single ones. Retries are quick: tests wait for them.
    """
    usual = {
        "api": "openai",
        "timeout": "60s",
        "retry": {"initial_interval": "50ms", "maximum_interval": "200ms", "maximum_attempts": 3},
        "models": {MODEL: {"max_output_tokens": 100, "price": PRICE}},
    }
    named = routes or {each.name: [each] for each in services}
    return {
        "ledger": dict(ledger or {}),
        "services": {
            each.name: {**usual, "base_url": each.base_url, **(service or {}), **(only or {}).get(each.name, {})}
            for each in services
        },
        "routes": {name: [f"{each.name}/{MODEL}" for each in candidates] for name, candidates in named.items()},
        "budgets": {path: dict(table) for path, table in budgets.items()},
        "alerts": {} if webhook_url is None else {"webhook_url": webhook_url},
        "worker": dict(worker or {}),
    }


def _toml(value: object) -> str:
    match value:
        case Mapping():
            items = ", ".join(f"{json.dumps(str(name))} = {_toml(below)}" for name, below in value.items())
            return f"{{ {items} }}"
        case list() | tuple():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case _:
            return json.dumps(value)


def write_configuration(file: Path, tables: Mapping[str, object]) -> None:
    file.write_text("".join(f"{name} = {_toml(table)}\n" for name, table in tables.items()))


# ---------------------------------------------------------------- a running Paymaster


@dataclass(frozen=True)
class Worker:
    """A worker process of its own."""

    process: GuardedProcess | WarmProcess
    log_file: Path

    async def ready(self) -> None:
        """Waits until it takes work."""

        def says_so() -> bool:
            assert self.process.poll() is None, f"the worker died at start:\n{self.log()}"
            return "worker ready" in self.log()

        await until(says_so, "the worker is ready")

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    async def terminate(self, deadline_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait(timeout=deadline_s)

    async def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.process.kill()
        await self.process.wait(timeout=10)


@dataclass
class Site:
    """One Paymaster: ledger, namespace, database, configuration and the worker processes that a test started."""

    client: Client
    temporal_address: str
    namespace: str
    database_url: str
    engine: AsyncEngine
    settings: Settings
    folder: Path
    environment: dict[str, str]
    workers: list[Worker]
    warm: bool = True
    """Whether its workers are forks of a process that has imported everything."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.client, self.settings.ledger.name)

    async def start_workers(
        self, count: int = 1, file: Path | None = None, program: Sequence[str | Path] = ()
    ) -> list[Worker]:
        """Starts worker processes and waits until they take work.

        `file`: another configuration than the site's. `program`: another one than `worker.py`, or that with arguments.
        """
        started = [self.launch_worker(program, file) for _ in range(count)]
        for worker in started:
            await worker.ready()
        if started:
            await until(self._answers, "the ledger answers")
        return started

    def launch_worker(self, program: Sequence[str | Path] = (), file: Path | None = None) -> Worker:
        """Starts one worker process, without waiting. `program`, `file`: those of `start_workers`."""
        log_file = self.folder / f"worker-{len(self.workers) + 1}.log"
        arguments = ["--config", str(file or self.folder / "paymaster.toml")]
        at_import = any(name.startswith(_READ_BY_IMPORTS) for name in self.environment)
        if program or at_import or not self.warm:
            command = [sys.executable, *(program or (ROOT / "worker.py",)), *arguments]
            process = GuardedProcess(command, env=self.environment, cwd=self.folder, log_file=log_file)
        else:
            with log_file.open("wb") as log:
                process = warm_start.start(
                    "worker",
                    arguments,
                    environment=self.environment,
                    folder=self.folder,
                    output=log,
                    errors=log,
                )
        self.workers.append(Worker(process, log_file))
        return self.workers[-1]

    async def _answers(self) -> bool:
        try:
            await self.ledger.status()
        except LedgerNotFound:
            return False
        return True

    def price(self, service: FakeService) -> Price:
        price = self.settings.services[service.name].models[MODEL].price_at(datetime.now(UTC), "configuration")
        assert price is not None
        return price

    def bound_nanos(self, service: FakeService, request: LLMRequest) -> int:
        """What the desk sets aside for this request, by the rule in the design."""
        output_max = self.settings.services[service.name].models[MODEL].max_output_tokens
        assert output_max is not None
        asked = min(request.max_output_tokens or output_max, output_max)
        return self.price(service).bound_nanos(input_bytes(request) + INPUT_OVERHEAD_TOKENS, asked)

    async def balance(self, account: str, window: Window = "total") -> WindowStatus:
        return balance_of(await self.ledger.status(), account, window)

    def logs(self) -> str:
        return "".join(worker.log() for worker in self.workers)

    async def in_backlog(self) -> int:
        """How many records wait in the usage backlog to be stored or settled."""
        backlog = self.client.get_workflow_handle(backlog_workflow_id(self.settings.ledger.name))
        try:
            return await backlog.query("waiting", result_type=int)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return 0
            raise

    async def service_status(self, name: str) -> ServiceStatus:
        """How one service stands."""
        return next(each for each in (await self.ledger.status()).services if each.service == name)

    async def alerts(self, what: AlertKind | None = None) -> list[RowMapping]:
        """The stored alerts of this kind (None: all), in the order in which the ledger gave them."""
        return [row for row in await self._rows("alerts") if what is None or row["what"] == what]

    async def cap_changes(self) -> list[RowMapping]:
        """The stored changes of caps, in their order."""
        return await self._rows("cap_changes")

    async def _rows(self, table: str) -> list[RowMapping]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(text(f"SELECT * FROM {table} ORDER BY at, sequence"))
            return list(rows.mappings())

    async def command(self, *arguments: str, file: Path | None = None) -> "Ended":
        """Runs `paymaster` as an admin does, and gives what it printed and its exit code."""
        environment = self.environment | {"PAYMASTER_CONFIG": str(file or self.folder / "paymaster.toml")}
        with TemporaryFile() as output, TemporaryFile() as errors:
            process = warm_start.start(
                "paymaster",
                arguments,
                environment=environment,
                folder=self.folder,
                output=output,
                errors=errors,
            )
            try:
                code = await process.wait()
            finally:
                process.kill()
            output.seek(0)
            errors.seek(0)
            return Ended(code, output.read().decode(), errors.read().decode())

    async def document(self, *arguments: str, file: Path | None = None) -> Any:
        """What a command prints with `--json`. Fails unless its exit code is 0."""
        ended = await self.command(*arguments, "--json", file=file)
        assert ended.code == 0, ended
        return json.loads(ended.output)


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    output: str
    errors: str


class OwnWorkers(NamedTuple):
    """Paymaster's three workers in the tests' own process, not started yet, so that each can be stopped alone."""

    ledger: TemporalWorker
    activities: TemporalWorker
    calls: TemporalWorker


@asynccontextmanager
async def own_workers(site: Site) -> AsyncGenerator[OwnWorkers]:
    """Take another set to start one of them again. Beside the site's worker processes, if it has any."""
    # A client can have one worker for each task queue; so each of these sets needs a client of its own.
    client = await Client.connect(
        site.temporal_address, namespace=site.namespace, plugins=[PaymasterPlugin(site.settings)]
    )
    clients = Clients(client, client, await client_of_commits(client))
    connections, keys = Connections(site.settings.services), kept_keys(site.settings)
    try:
        yield OwnWorkers(*workers_of(site.settings, "all", clients, site.engine, connections, keys))
    finally:
        await keys.close()
        await connections.close()


async def readable_history(handle: WorkflowHandle[Any, Any]) -> str:
    """The whole history as JSON, with what the payloads contain in plain text instead of base64."""

    def readable(value: Any) -> Any:
        match value:
            case {"metadata": {"encoding": _}, "data": str(data)}:
                return b64decode(data).decode(errors="replace")
            case dict():
                return {name: readable(below) for name, below in cast(dict[str, Any], value).items()}
            case list():
                return [readable(item) for item in cast(list[Any], value)]
            case _:
                return value

    history = await handle.fetch_history()
    return json.dumps(readable(json.loads(history.to_json())))


def balance_of(status: DeskStatus, account: str, window: Window = "total") -> WindowStatus:
    """How one account stands in one window."""
    return next(w for a in status.accounts if a.account == account for w in a.windows if w.window == window)


@asynccontextmanager
async def running_site(
    temporal_address: str,
    database_url: str,
    folder: Path,
    tables: Mapping[str, object],
    *,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    warm: bool = True,
) -> AsyncGenerator[Site]:
    """A Paymaster with its workers running; at the end they are killed, because nothing of it is needed any more.

    `warm`: the workers start without their imports, which is quick and makes their memory no measure of anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_configuration(folder / "paymaster.toml", tables)
    namespace = await new_namespace(temporal_address)
    settings = load_settings(folder / "paymaster.toml", environ={})
    client = await Client.connect(temporal_address, namespace=namespace, plugins=[PaymasterPlugin(settings)])
    engine = create_engine(database_url)
    site = Site(
        client=client,
        temporal_address=temporal_address,
        namespace=namespace,
        database_url=database_url,
        engine=engine,
        settings=settings,
        folder=folder,
        # Nothing else of the shell: a key or a proxy that is set there must not change what a test does.
        environment={name: os.environ[name] for name in _KEPT_FROM_THE_SHELL if name in os.environ}
        | {
            "TEMPORAL_ADDRESS": temporal_address,
            "TEMPORAL_NAMESPACE": namespace,
            "PAYMASTER__DATABASE__URL": database_url,
        }
        | dict(environment or {}),
        workers=[],
        warm=warm,
    )
    try:
        await site.start_workers(workers)
        yield site
    finally:
        for worker in site.workers:
            worker.process.kill()
        for worker in site.workers:
            await worker.process.stop()
        await engine.dispose()


@contextmanager
def frozen(process_id: int) -> Generator[None]:
    """SIGSTOP for a process and its children, and at the end SIGCONT."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children")
    stopped = [process_id]
    os.kill(process_id, signal.SIGSTOP)  # first, so that there are no new ones
    for child in map(int, children.read_text().split()):
        os.kill(child, signal.SIGSTOP)
        stopped.append(child)
    try:
        yield
    finally:
        for stopped_id in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped_id, signal.SIGCONT)


# ---------------------------------------------------------------- the promises


def check_caps(status: DeskStatus) -> None:
    """Promise 1, at any moment: no account has more posted and pending than its cap."""
    for account in status.accounts:
        for window in account.windows:
            if window.cap_nanos is not None:
                used = window.posted_nanos + window.pending_nanos
                assert used <= window.cap_nanos, f"{account.account} is over its cap: {window}"


@asynccontextmanager
async def caps_watched(site: Site) -> AsyncGenerator[None]:
    """Looks at every account again and again while the block runs; fails when one is ever over its cap."""
    looked = 0

    async def watch() -> None:
        nonlocal looked
        while True:
            with contextlib.suppress(LedgerNotFound):  # not answered in time, by a worker that is stopped just now, say
                check_caps(await site.ledger.status())
                looked += 1
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        yield
        await until(lambda: watching.done() or looked, "the caps were looked at")
    finally:
        watching.cancel()
        outcome = (await asyncio.gather(watching, return_exceptions=True))[0]
    assert isinstance(outcome, asyncio.CancelledError), outcome


class Books(NamedTuple):
    """What was found when nothing was in flight any more."""

    calls: int
    """Different calls that have rows."""
    requests: int
    """That the services got."""
    rows: int
    """Attempts that have a row; an attempt with an unconfirmed and a final one counts once."""
    posted_nanos: int
    """By the ledger, to the services."""
    unconfirmed_nanos: int
    """The part of it that nobody knows whether it was billed."""
    difference_nanos: int
    """Between the ledger and the rows, over all accounts."""

    def __str__(self) -> str:
        return (
            f"calls {self.calls}, provider requests {self.requests}, rows {self.rows}, "
            f"posted ${nanos_to_usd(self.posted_nanos)}, unconfirmed ${nanos_to_usd(self.unconfirmed_nanos)}, "
            f"difference ${nanos_to_usd(self.difference_nanos)}"
        )


_COUNTS = text(
    """
    SELECT count(DISTINCT call_id) AS calls, count(DISTINCT attempt_id) AS rows,
        count(DISTINCT attempt_id) FILTER (WHERE service = ANY(:services)) AS of_services
    FROM usage_entries WHERE ledger = :ledger
    """
)
_PAID_TWICE = text(
    """
    SELECT 'hold ' || hold_id FROM api_usage_counted
    WHERE ledger = :ledger AND cost_usd > 0 AND status != 'corrected'
    GROUP BY hold_id HAVING count(*) > 1
    UNION ALL
    SELECT 'call ' || call_id FROM api_usage_counted WHERE ledger = :ledger AND status = 'completed'
    GROUP BY call_id HAVING count(*) > 1
    """
)


async def settled_books(
    site: Site, *services: FakeService, deadline_s: float = 60.0, refused: bool = False
) -> DeskStatus:
    """Waits until nothing is in flight, checks promises 1 to 6 and prints the figures. Returns the ledger's status.

    `refused`: messages that make no sense were sent.

    1. No account is over a cap.
    2. Every hold has ended, and under none of them two attempts were paid.
    3. For every account the stored rows sum up to what the ledger posted, to the nano-dollar.
    4. Every request that the services billed has a row, and no call has two answers.
    5. What each of the services billed is posted, and everything posted that is not unconfirmed was billed.
    6. Nobody waits: no call is parked, none goes on, and everything is delivered.
    """

    status = await site.ledger.status()
    ledger = site.settings.ledger.name

    async def quiet() -> bool:
        nonlocal status
        status = await site.ledger.status()
        loading = any(account.loading for account in status.accounts)
        return not loading and status.holds == status.parked == status.outbox == await site.in_backlog() == 0

    async def no_call_goes_on() -> bool:
        running = "WorkflowType = 'LLMCallWorkflow' AND ExecutionStatus = 'Running'"
        return (await site.client.count_workflows(running)).count == 0

    await until(quiet, "nothing is loading, and no hold, parked call, delivery or backlog is left", deadline_s)
    await until(no_call_goes_on, "every call has ended", deadline_s)
    assert refused or status.refused_messages == ()
    check_caps(status)
    posted: dict[str, int] = {}
    for account in status.accounts:
        assert all(window.pending_nanos == 0 for window in account.windows), account
        posted[account.account] = balance_of(status, account.account).posted_nanos
    stored = await posted_by_account(site.engine, ledger, list(posted))
    names = [service.name for service in services]
    async with site.engine.connect() as connection:
        counts = (await connection.execute(_COUNTS, {"ledger": ledger, "services": names})).one()
        paid_twice = (await connection.execute(_PAID_TWICE, {"ledger": ledger})).scalars().all()
    rows = await usage_report(site.engine, ledger=ledger, by=["service"])
    summed = {f"service:{row.service}": row.cost_nanos for row in rows}
    unconfirmed = {row.service: row.unconfirmed_nanos for row in rows}
    books = Books(
        calls=counts.calls,
        requests=sum(service.count for service in services),
        rows=counts.rows,
        posted_nanos=sum(nanos for account, nanos in posted.items() if account.startswith("service:")),
        unconfirmed_nanos=sum(unconfirmed.values()),
        difference_nanos=sum(abs(nanos - stored[account]) for account, nanos in posted.items()),
    )
    print(books)
    assert stored == posted
    assert all(stored.get(account, nanos) == nanos for account, nanos in summed.items()), "the hourly sums differ"
    assert not paid_twice
    # A refused attempt (429, say) has none when its call was cancelled before it could tell of it.
    assert sum(len(service.billed) for service in services) <= counts.of_services, f"billed without a row: {books}"
    for service in services:
        bill, charged = service.bill_nanos(site.price(service)), posted[f"service:{service.name}"]
        assert charged - unconfirmed.get(service.name, 0) <= bill <= charged, (
            f"{service.name} billed {nanos_to_usd(bill)}, {nanos_to_usd(charged)} is posted"
        )
    return status
