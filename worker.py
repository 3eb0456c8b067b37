"""The worker: connects, registers, runs. The only file that knows every part.

Three Temporal Workers in one process. `calls` and `ledger` are apart because the waiting `reserve`s of the calls would
hold every slot that the ledger needs to answer them; the ledger is stopped last, so that what is running can settle.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.converter import DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.runtime import LoggingConfig
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker, WorkerDeploymentConfig

from activities.answer_calls import AnswerCallsActivities
from activities.await_result import AwaitResultActivities
from activities.body_store import BodyStore
from activities.call_service import CallServiceActivities
from activities.catch_up import CatchUpActivities
from activities.count_input import CountInputActivities
from activities.count_tokens import CountTokensActivities
from activities.load_spend import LoadSpendActivities
from activities.measure_request import MeasureRequestActivities
from activities.read_piece import ReadPieceActivities
from activities.recall_parked import RecallParkedActivities
from activities.record_usage import RecordUsageActivities
from activities.request_bodies import RequestBodies
from activities.reserve import ReserveActivities
from activities.run_roots import RunRoots
from activities.send_alerts import SendAlertsActivities
from activities.standing import StandingActivities
from activities.store_notices import StoreNoticesActivities
from activities.store_status import StoreStatusActivities
from activities.sweep_bodies import SweepBodiesActivities
from activities.used_call_ids import UsedCallIds
from operations.service import PaymasterServiceHandler
from paymaster.client import connect
from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.keys.api_key import KeySource, KeyUnavailable
from paymaster.keys.ring import KeyRing, kept_keys
from paymaster.ledger.backlog_sender import Backlog
from paymaster.ledger.batching import LedgerTraffic
from paymaster.ledger.commits import client_of_commits, ledger_commits
from paymaster.ledger.copied_status import CopiedStatus
from paymaster.ledger.group_commit import GroupCommit
from paymaster.ledger.handle import Ledger
from paymaster.ledger.joining import join_ledger
from paymaster.ledger.price_lists import KeptPrices
from paymaster.ledger.query_guard import QueryGuard
from paymaster.ledger.versions import worker_identity
from paymaster.live.pushes import Pushes
from paymaster.loop_executor import LoopExecutor
from paymaster.messages import (
    Answer,
    AttemptReport,
    Command,
    json_bytes,
)
from paymaster.messages.temporal_names import (
    activities_task_queue,
    calls_task_queue,
    ledger_of_task_queue,
    ledger_task_queue,
    nexus_task_queue,
)
from paymaster.observability.alert_buttons import AlertButtons
from paymaster.observability.event_loop import watched_event_loop
from paymaster.observability.logs import configure_logs
from paymaster.observability.measurements import measure_batch, measure_turn
from paymaster.observability.search_attributes import are_registered
from paymaster.observability.telemetry import Telemetry, telemetry_of
from paymaster.providers.connections import Connections
from paymaster.providers.counting import check_extra, encodings_wanted
from paymaster.providers.provider import CannotCount
from paymaster.providers.tokenizer import Tokenizer
from paymaster.redaction import redact_crashes
from paymaster.reports.spending_watch import SpendingWatch
from paymaster.security.composition import ComposedConverter
from paymaster.security.failures import RedactingFailureConverter
from paymaster.security.payloads import OwnWorkflowsPayloadConverter
from paymaster.security.team_storage import storage_names, stored_at_once, team_storage, workers_storage
from paymaster.settings import (
    ConfigurationError,
    LogSettings,
    Settings,
    WorkerSettings,
    format_duration,
    load_settings,
)
from paymaster.settings.desk_config import desk_config
from paymaster.storage.engine import create_engine
from paymaster.storage.partitions import follow_months
from paymaster.storage.schema import SchemaOutdated, check_schema
from paymaster.values.collection import keep_what_is_there
from paymaster.values.extras import ExtraMissing
from workflows.content_agent import ContentAgentWorkflow
from workflows.counting import InputCountWorkflow
from workflows.eager_calls import EagerCalls
from workflows.ledger import BudgetWorkflow
from workflows.live_details import LiveDetails
from workflows.llm_call import SEND_MARGIN, LLMCallWorkflow
from workflows.purchase import PurchaseWorkflow
from workflows.standing import StandingWorkflow
from workflows.stored_answers import AnswerPieceWorkflow, BodySweepWorkflow
from workflows.usage_backlog import UsageBacklogPieceWorkflow, UsageBacklogWorkflow

if TYPE_CHECKING:
    from paymaster.observability.health import Check

Role = Literal["all", "workflows", "activities"]
CALLS_AT_ONCE = 1_000
"""Service calls that one process waits for; they are idle connections most of the time."""
CALL_POLLERS = PollerBehaviorSimpleMaximum(20)
"""For the workflows of calls; with the usual 5 the ledger is sent fewer commands at a time (docs/performance.md).

Not for service calls: with 20, or with the SDK's autoscaling, a Temporal that is short of processor now and then starts
an attempt that no worker ever gets. Not for the ledger, of which there is one: each poll that a frozen worker leaves
open can take a task of it, for 10 s."""
HEARTBEATS_EVERY = timedelta(seconds=8)
"""The shortest interval between heartbeats of one call sent to Temporal: 1,000 calls send 125 a second."""
REPORT_WITHIN_S = 5.0
"""For telling the ledger of a failed attempt; its settlement says it again."""
WHO = f"worker on {socket.gethostname()}"
"""Who brings a configuration, in the ledger's alerts and in the database."""
SDK_THREADS = "1"
"""Of the SDK's part in Rust, which else has as many as there are processors. It has a third of the work of the one
thread of Python that it serves, and several wake each other for nothing."""
LEDGERS_CACHED = 10
"""Runs of the ledger that one process keeps in memory: the one that goes on, and those that another process took over,
each with its whole state, until they are pushed out."""
logger = logging.getLogger("paymaster.worker")  # this module's own name is another where it is the program


async def run_worker(
    settings: Settings,
    role: Role,
    stop: asyncio.Event,
    core_logs: LoggingConfig = LoggingConfig.default,
    on_ready: Callable[[], object] = lambda: None,
) -> None:
    """Runs until `stop` is set, then lets what is running finish, within the grace period.

    `on_ready` is called as soon as this worker takes work.

    Raises RuntimeError when Temporal can't be reached, SchemaOutdated when the database needs `paymaster migrate`,
    KeyUnavailable without a key for the payloads' encryption, ExtraMissing where tokens are to be counted without
    the tokenizer.
    """
    if settings.database.url is None:
        raise ConfigurationError(["database.url: a worker stores every attempt; name a PostgreSQL"])
    check_extra(settings.services)
    async with telemetry_of(settings, core_logs, served_at=settings.worker.health_address) as telemetry:
        await _run(settings, settings.database.url.get_secret_value(), role, stop, telemetry, on_ready)


class Clients(NamedTuple):
    """Those of one process."""

    calls: Client
    ledger: Client
    """For what concerns no single call: the ledger serves all at once, and belongs to no call's trace."""
    commits: Client
    """For commands to the ledger (`client_of_commits`)."""


async def _connected(settings: Settings, telemetry: Telemetry) -> Clients:
    calls = await connect(settings, plugins=telemetry.plugins, runtime=telemetry.runtime)
    ledger = await connect(settings, runtime=telemetry.runtime) if telemetry.plugins else calls
    return Clients(calls, ledger, await client_of_commits(ledger))


async def _run(
    settings: Settings,
    database_url: str,
    role: Role,
    stop: asyncio.Event,
    telemetry: Telemetry,
    on_ready: Callable[[], object],
) -> None:
    clients = await _connected(settings, telemetry)
    ledger = Ledger(clients.ledger, settings.ledger.name)
    engine, ready = create_engine(database_url), asyncio.Event()
    connections, keys = Connections(settings.services), kept_keys(settings)
    pushes = Pushes(settings.gateway.streams, keys)
    try:
        await check_schema(engine)
        prices = KeptPrices(engine, settings.ledger.name)
        await prices.try_to_look()
        findable = role != "activities" and await _is_findable(clients.calls)
        eager = EagerCalls()
        workers = workers_of(settings, role, clients, engine, connections, keys, pushes, eager, findable=findable)
        async with AsyncExitStack() as running:
            running.enter_context(watched_event_loop())
            for besides in _besides(settings, role, engine, ledger, prices):
                running.callback(asyncio.create_task(besides).cancel)
            if settings.worker.health_address is not None:
                from paymaster.observability.health import HealthServer  # here: it takes a tenth of a start to import

                checks = _checks(settings, clients.calls, engine, keys, workers, ready)
                health = HealthServer(settings.worker.health_address, checks, telemetry.exposition)
                await running.enter_async_context(health)
            keep_what_is_there()  # before a worker takes its first task: a call must not stay
            for worker in workers:
                await running.enter_async_context(worker)
            if role != "activities":
                eager.follow(await join_ledger(ledger, desk_config(settings), engine, stop, who=WHO))
                await running.enter_async_context(telemetry.watching(ledger, CopiedStatus(engine, ledger.name)))
            ready.set()
            on_ready()
            logger.info("worker ready (%s)", role)
            await stop.wait()
            logger.info("stopping; calls that are running may take %s", format_duration(_grace_period(settings)))
            # Together, so that one grace period is enough for all; the ledger answers them until they have ended.
            await asyncio.gather(*(worker.shutdown() for worker in workers if not _is_of_ledger(worker)))
    finally:
        for each in (keys, connections, pushes):
            await each.close()
        await engine.dispose()


def _is_of_ledger(worker: Worker) -> bool:
    """Whether it answers the others."""
    return worker.task_queue == ledger_task_queue(ledger_of_task_queue(worker.task_queue))


def _besides(
    settings: Settings, role: Role, engine: AsyncEngine, ledger: Ledger, prices: KeptPrices
) -> Iterator[Coroutine[Any, Any, None]]:
    """What a worker does besides, for as long as it runs."""
    yield prices.follow()
    yield follow_months(engine)
    yield _warn_of_missing_encodings(settings, role)
    if role != "activities" and (settings.alerts.forecasts or settings.alerts.anomalies):
        yield SpendingWatch(settings.alerts, engine, ledger.name, ledger.report_spending).follow()


async def _warn_of_missing_encodings(settings: Settings, role: Role) -> None:
    """Where the configuration says that tokens are counted, before a call needs it."""
    tokenizer = Tokenizer()
    for name in encodings_wanted(settings, named_only=True) if role != "workflows" else ():
        try:
            await tokenizer.encoding(name)
        except CannotCount as error:
            logger.error("%s", error)


async def _is_findable(client: Client) -> bool:
    """Whether calls may set search attributes; looked up once, so that none is in the way of a call later."""
    found = await are_registered(client)
    if not found:
        logger.warning(
            "calls are not found by budget, service or cost in the Temporal UI: namespace %s lacks the search "
            "attributes; `paymaster migrate` registers them, then start this worker again",
            client.namespace,
        )
    return found


def _grace_period(settings: Settings) -> timedelta:
    """How long running calls may take after SIGTERM: as long as any service may, unless the settings say less."""
    longest = max((service.timeout for service in settings.services.values()), default=timedelta())
    return settings.worker.grace_period or longest + SEND_MARGIN


def _checks(
    settings: Settings,
    client: Client,
    engine: AsyncEngine,
    keys: KeySource,
    workers: Sequence[Worker],
    ready: asyncio.Event,
) -> "dict[str, Check]":
    """What has to be right for this process to be of use."""
    from paymaster.observability.health import ANSWERS_WITHIN_S  # here: it brings an HTTP server along

    async def temporal() -> str | None:
        serving = await client.service_client.check_health(timeout=timedelta(seconds=ANSWERS_WITHIN_S))
        return None if serving else "not serving"

    async def database() -> str | None:
        try:
            await check_schema(engine)
        except SchemaOutdated as error:
            return str(error)
        return None

    async def api_keys() -> str | None:
        problems: list[str] = []
        for name in sorted({service.key for service in settings.services.values() if service.key is not None}):
            try:
                await keys.get(name)
            except KeyUnavailable as error:
                problems.append(str(error))
        return "; ".join(problems) or None

    async def running() -> str | None:
        return None if all(worker.is_running for worker in workers) else "not all of this process's workers run"

    async def ledger() -> str | None:  # not by a query: on Temporal 1.32 one that waits can fail what it waits for
        return None if ready.is_set() else "it has not answered this worker yet"

    return {"temporal": temporal, "database": database, "keys": api_keys, "workers": running, "ledger": ledger}


def workers_of(
    settings: Settings,
    role: Role,
    clients: Clients,
    engine: AsyncEngine,
    connections: Connections,
    keys: KeyRing,
    pushes: Pushes | None = None,
    eager: EagerCalls | None = None,
    *,
    findable: bool = False,
) -> list[Worker]:
    """The workers of one process in the order of starting; the ledger's is stopped last.

    `pushes` None: no gateway gets an answer while it comes. `eager` None: a process with every role sends no call's
    request eagerly. `findable`: whether calls may set search attributes.
    """
    name = settings.payloads.storage
    storage = None if name is None else team_storage(name)
    marks_plain = bool(settings.encryption.keys or settings.encryption.codec)
    client = _changed(
        clients.calls,
        lambda converter: replace(converter, marks_plain=marks_plain, external_storage=workers_storage(storage)),
    )
    ledger = Ledger(clients.ledger, settings.ledger.name)
    commits = _commits(settings, clients.commits, traffic := LedgerTraffic())
    reports = GroupCommit[AttemptReport, None](ledger.report, size_of=json_bytes, give_up_after_s=REPORT_WITHIN_S)
    catching_up = CatchUpActivities(ledger.name, engine, commits, reports)
    backlog = Backlog(clients.ledger, ledger.name)
    used = UsedCallIds(client, engine, ledger.name)
    reservations = ReserveActivities(settings, commits, backlog, RunRoots(client), used, findable=findable)
    records = RecordUsageActivities(ledger.name, engine, commits, backlog, traffic.rows_worth_waiting_for)
    of_service = _activities_of_services(settings, client, engine, connections, keys, reports, pushes)
    of_call = [reservations.reserve, reservations.void, records.record_usage, catching_up.catch_up]
    ledger_worker = _ledger_worker(settings, clients.ledger)
    calls_worker = _calls_worker(settings, client, of_call, of_service if role == "all" else (), eager or EagerCalls())
    asking = [catching_up.catch_up, StandingActivities(ledger, commits).standing]
    others = [*of_service, *_activities_for_the_ledger(settings, client, engine, keys), *asking]
    activities_worker = _activities_worker(settings, client, others)
    match role:
        case "all":
            return [ledger_worker, activities_worker, calls_worker, *_nexus_workers(settings, client, engine)]
        case "workflows":
            return [ledger_worker, calls_worker, *_nexus_workers(settings, client, engine)]
        case "activities":
            return [activities_worker, _activities_worker(settings, client, of_service, calls_task_queue)]


def _commits(settings: Settings, client: Client, traffic: LedgerTraffic) -> GroupCommit[Command, Answer]:
    ledger, config = Ledger(client, settings.ledger.name), desk_config(settings)
    return ledger_commits(ledger, config, traffic=traffic, who=WHO, on_sent=measure_batch, on_turn=measure_turn)


def _ledger_worker(settings: Settings, client: Client) -> Worker:
    guard = QueryGuard()
    # It fetches nothing from anywhere: one signal that points to what is not there would stop it.
    client = _changed(client, lambda converter: replace(converter, external_storage=workers_storage(None)))
    worker = Worker(
        _bounding(client),
        task_queue=ledger_task_queue(settings.ledger.name),
        workflows=[BudgetWorkflow],
        deployment_config=_deployment(settings.worker),
        identity=worker_identity(),
        interceptors=[LiveDetails()],
        unsandboxed_workflow_runner=guard,
        max_workflow_task_external_storage_concurrency=stored_at_once(client.data_converter),
        tuner=guard.tuner,
        max_cached_workflows=LEDGERS_CACHED,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )
    guard.watch(worker)
    return worker


def _activities_worker(
    settings: Settings,
    client: Client,
    activities: Sequence[Callable[..., object]],
    task_queue_of: Callable[[str], str] = activities_task_queue,
) -> Worker:
    return Worker(
        client,
        task_queue=task_queue_of(settings.ledger.name),
        activities=activities,
        max_concurrent_activities=CALLS_AT_ONCE,
        max_heartbeat_throttle_interval=HEARTBEATS_EVERY,
        deployment_config=_deployment(settings.worker),
        identity=worker_identity(),
        graceful_shutdown_timeout=_grace_period(settings),
    )


def _activities_of_services(
    settings: Settings,
    client: Client,
    engine: AsyncEngine,
    connections: Connections,
    keys: KeyRing,
    reports: GroupCommit[AttemptReport, None],
    pushes: Pushes | None,
) -> list[Callable[..., object]]:
    """Those that have a request before them, and ask a service."""
    bodies, names = BodyStore(client, engine, settings.ledger.name), storage_names(client.data_converter)
    requests = RequestBodies(engine, settings.ledger.name, client.data_converter.payload_codec)
    return [
        MeasureRequestActivities(requests).measure_request,
        CallServiceActivities(
            settings.services, keys, connections, reports, bodies, names, requests, pushes
        ).call_service,
        CountTokensActivities(settings.services, keys, connections, requests).count_tokens,
        CountInputActivities(settings, keys, connections).count_input,
    ]


def _activities_for_the_ledger(
    settings: Settings, client: Client, engine: AsyncEngine, keys: KeyRing
) -> list[Callable[..., object]]:
    """Those that wait for nobody's answer but a workflow's: what the ledger, the backlog and agents ask for."""
    webhook_url = settings.alerts.webhook_url
    alerts = SendAlertsActivities(
        webhook_url.get_secret_value() if webhook_url else None,
        settings.alerts.webhook_format,
        AlertButtons(settings, keys),
    )
    return [
        AwaitResultActivities(client).await_result,
        LoadSpendActivities(client, engine).load_spend,
        RecallParkedActivities(client, settings.ledger.name).recall_parked,
        AnswerCallsActivities(client).answer_calls,
        StoreNoticesActivities(engine).store_notices,
        StoreStatusActivities(engine).store_status,
        alerts.send_alerts,
        ReadPieceActivities(client, engine, settings.ledger.name).read_piece,
        SweepBodiesActivities(client, engine).sweep_bodies,
    ]


def _calls_worker(
    settings: Settings,
    client: Client,
    of_call: Sequence[Callable[..., object]],
    of_service: Sequence[Callable[..., object]],
    eager: EagerCalls,
) -> Worker:
    """`of_service`: what it takes from the task queue of calls besides workflows. Empty: nothing, and sends nothing."""
    return Worker(
        _bounding(client),
        task_queue=calls_task_queue(settings.ledger.name),
        workflows=[
            LLMCallWorkflow,
            PurchaseWorkflow,
            UsageBacklogWorkflow,
            UsageBacklogPieceWorkflow,
            BodySweepWorkflow,
            AnswerPieceWorkflow,
            StandingWorkflow,
            InputCountWorkflow,
            ContentAgentWorkflow,
        ],
        activities=[*of_call, *of_service],
        no_remote_activities=not of_service,
        interceptors=[LiveDetails(), eager] if of_service else [LiveDetails()],
        max_concurrent_activities=CALLS_AT_ONCE,
        max_heartbeat_throttle_interval=HEARTBEATS_EVERY,
        max_concurrent_local_activities=500,
        workflow_task_executor=LoopExecutor(),
        max_workflow_task_external_storage_concurrency=stored_at_once(client.data_converter),
        workflow_task_poller_behavior=CALL_POLLERS,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        deployment_config=_deployment(settings.worker),
        identity=worker_identity(),
        graceful_shutdown_timeout=_grace_period(settings),
    )


def _nexus_workers(settings: Settings, client: Client, engine: AsyncEngine) -> list[Worker]:
    """The one for callers of other namespaces, where there is an endpoint for them. Its errors are in words that a
    caller without our keys can read, and hold nothing of a request: so it has a client of its own."""
    if not settings.nexus.endpoints:
        return []
    stored = ReadPieceActivities(client, engine, settings.ledger.name)
    worker = Worker(
        _changed(client, lambda converter: replace(converter, failure_converter_class=RedactingFailureConverter)),
        task_queue=nexus_task_queue(settings.ledger.name),
        nexus_service_handlers=[PaymasterServiceHandler(settings.nexus.endpoints, stored)],
        deployment_config=_deployment(settings.worker),
        identity=worker_identity(),
    )
    return [worker]


def _bounding(client: Client) -> Client:
    """This client for workers of Paymaster's own workflows, which read nothing that is too large to be read."""
    return _changed(client, lambda converter: replace(converter, payload_converter_class=OwnWorkflowsPayloadConverter))


def _changed(client: Client, change: Callable[[ComposedConverter], DataConverter]) -> Client:
    """This client with another data converter."""

    def changed(converter: DataConverter | None) -> DataConverter:
        assert isinstance(converter, ComposedConverter)  # the plugin's
        return change(converter)

    config = client.config()
    config["plugins"] = [*config["plugins"], SimplePlugin("paymaster-own-workers", data_converter=changed)]
    return Client(**config)


def _deployment(settings: WorkerSettings) -> WorkerDeploymentConfig | None:
    """None: not versioned."""
    if settings.deployment is None or settings.build_id is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=settings.deployment, build_id=settings.build_id),
        use_worker_versioning=True,
        # The ledger runs for ever and a call may be parked for days: to pin them would keep every old version running.
        # That new code can go on with old histories is what the replay tests are for.
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="worker.py", description="Runs a Paymaster worker until SIGTERM or Ctrl-C.")
    parser.add_argument("--role", choices=get_args(Role), default="all", help="what this process does (default: all)")
    parser.add_argument(
        "--config", type=Path, help="the configuration file (default: PAYMASTER_CONFIG or paymaster.toml)"
    )
    parser.add_argument("--ready-file", type=Path, help="a file to make as soon as it takes work (default: none)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TOKIO_WORKER_THREADS", SDK_THREADS)  # read when the SDK's runtime is made
    on_ready = options.ready_file.touch if options.ready_file else lambda: None
    configure_logs(LogSettings())  # for what is wrong with the settings themselves
    redact_crashes()
    try:
        settings = load_settings(options.config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run_until_stopped(settings, options.role, on_ready))
    except (ConfigurationError, KeyUnavailable, ExtraMissing) as error:
        logger.error("%s", error)
        return 2
    except (SchemaOutdated, LedgerNotFound, AdminRefused, RuntimeError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


async def _run_until_stopped(settings: Settings, role: Role, on_ready: Callable[[], object]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    try:
        await run_worker(settings, role, stop, configure_logs(settings.logs), on_ready)
    finally:
        # Without this the interpreter now and then aborts at exit: the SDK's objects must go while the loop still runs.
        gc.collect()
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
