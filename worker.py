"""The worker: connects, registers, runs. The only file that knows every part.

Three Temporal Workers in one process. `calls` and `ledger` are apart because the waiting `reserve`s of the calls would
hold every slot that the ledger needs to answer them; the ledger is stopped last, so that what is running can settle.
"""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.converter import DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.runtime import LoggingConfig
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker, WorkerDeploymentConfig

from activities.answer_calls import AnswerCallsActivities
from activities.await_result import AwaitResultActivities
from activities.call_service import CallServiceActivities
from activities.catch_up import CatchUpActivities
from activities.load_spend import LoadSpendActivities
from activities.recall_parked import RecallParkedActivities
from activities.record_usage import RecordUsageActivities
from activities.reserve import ReserveActivities
from activities.send_alerts import SendAlertsActivities
from activities.store_notices import StoreNoticesActivities
from paymaster.admission.state import RULES
from paymaster.client import connect
from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.keys.api_key import KeySource, KeyUnavailable
from paymaster.keys.ring import KeyRing, kept_keys
from paymaster.ledger.backlog_sender import Backlog
from paymaster.ledger.batching import LedgerTraffic
from paymaster.ledger.group_commit import GroupCommit
from paymaster.ledger.handle import Ledger
from paymaster.ledger.query_guard import QueryGuard
from paymaster.ledger.versions import worker_identity
from paymaster.messages import (
    ACTIVITIES_TASK_QUEUE,
    CALLS_TASK_QUEUE,
    LEDGER_TASK_QUEUE,
    Answer,
    AttemptReport,
    Command,
    ConfigState,
    DeskConfig,
    StoredRows,
    json_bytes,
)
from paymaster.observability.event_loop import watched_event_loop
from paymaster.observability.logs import configure_logs
from paymaster.observability.measurements import measure_batch
from paymaster.observability.search_attributes import are_registered
from paymaster.observability.telemetry import Telemetry, telemetry_of
from paymaster.providers.connections import Connections
from paymaster.redaction import redact_crashes
from paymaster.security.composition import ComposedConverter
from paymaster.security.payloads import OwnWorkflowsPayloadConverter
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
from paymaster.storage.ledger_state_rows import latest_granted_ms
from paymaster.storage.schema import SchemaOutdated, check_schema
from paymaster.values.collection import keep_what_is_there
from paymaster.values.extras import ExtraMissing
from workflows.content_agent import ContentAgentWorkflow
from workflows.ledger import BudgetWorkflow
from workflows.live_details import LiveDetails
from workflows.llm_call import SEND_MARGIN, LLMCallWorkflow
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
LEDGER_ANSWERS_WITHIN_S = 60.0
"""At start. Temporal gives the task of a dead worker to another one after 10 s, and one with which several died after
ever longer pauses, in which it takes no update."""
REPORT_WITHIN_S = 5.0
"""For telling the ledger of a failed attempt; its settlement says it again."""
WHO = f"worker on {socket.gethostname()}"
"""Who brings a configuration, in the ledger's alerts and in the database."""
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
    KeyUnavailable without a key for the payloads' encryption.
    """
    if settings.database.url is None:
        raise ConfigurationError(["database.url: a worker stores every attempt; name a PostgreSQL"])
    async with telemetry_of(settings, core_logs) as telemetry:
        await _run(settings, settings.database.url.get_secret_value(), role, stop, telemetry, on_ready)


async def _run(
    settings: Settings,
    database_url: str,
    role: Role,
    stop: asyncio.Event,
    telemetry: Telemetry,
    on_ready: Callable[[], object],
) -> None:
    client = await connect(settings, plugins=telemetry.plugins, runtime=telemetry.runtime)
    # The ledger serves all calls at once: it belongs to no call's trace.
    ledger_client = await connect(settings, runtime=telemetry.runtime) if telemetry.plugins else client
    ledger = Ledger(ledger_client, settings.ledger.name)
    engine = create_engine(database_url)
    connections = Connections(settings.services)
    keys = kept_keys(settings)
    ready = asyncio.Event()
    try:
        await check_schema(engine)
        findable = role != "activities" and await _is_findable(client)
        workers = _workers(settings, role, client, engine, connections, keys, ledger_client, findable=findable)
        async with AsyncExitStack() as running:
            running.enter_context(watched_event_loop())
            if settings.worker.health_address is not None:
                from paymaster.observability.health import HealthServer  # here: it takes a tenth of a start to import

                checks = _checks(settings, client, engine, keys, workers, ready)
                health = HealthServer(settings.worker.health_address, checks, telemetry.exposition)
                await running.enter_async_context(health)
            keep_what_is_there()  # before a worker takes its first task: a call must not stay
            for worker in workers:
                await running.enter_async_context(worker)
            if role != "activities":
                config = desk_config(settings)
                applied = await _configured(ledger, config, stop)
                if applied.digest != config.digest:
                    logger.warning("the ledger keeps the configuration that it has: %s", applied.detail)
                if applied.kept:
                    logger.warning(
                        "a worker's start removes nothing, so the ledger keeps what this file lacks: %s; "
                        "`paymaster config diff` shows it, `paymaster config apply` removes it",
                        applied.kept,
                    )
                if applied.rules < RULES:
                    logger.warning(
                        "the ledger goes by the rules of an older version (%d, the newest are %d); when no older "
                        "worker runs any more: `paymaster upgrade`",
                        applied.rules,
                        RULES,
                    )
                await _compare_rows(ledger, engine)
                running.enter_context(telemetry.watching(ledger))
            ready.set()
            on_ready()
            logger.info("worker ready (%s)", role)
            await stop.wait()
            logger.info("stopping; calls that are running may take %s", format_duration(_grace_period(settings)))
            # Together, so that one grace period is enough for all; the ledger answers them until they have ended.
            await asyncio.gather(*(worker.shutdown() for worker in workers if worker.task_queue != LEDGER_TASK_QUEUE))
    finally:
        await keys.close()
        await connections.close()
        await engine.dispose()


async def _configured(ledger: Ledger, config: DeskConfig, stop: asyncio.Event) -> ConfigState:
    """Gives the ledger its configuration. It may need a while: a worker that died with its task in hand, say.

    Raises LedgerNotFound when it does not answer at all, and AdminRefused when it refuses.
    """
    give_up_at, command_id = time.monotonic() + LEDGER_ANSWERS_WITHIN_S, uuid4().hex
    while True:
        try:
            return await ledger.start(config, command_id, who=WHO)
        except LedgerNotFound as error:
            if stop.is_set() or time.monotonic() > give_up_at:
                raise
            logger.warning("asking again: %s", error)
            await asyncio.sleep(1)


async def _compare_rows(ledger: Ledger, engine: AsyncEngine) -> None:
    """Tells the ledger of the newest stored entry: if Temporal was put back to an earlier time, it reads what was spent
    since. Without an answer the worker starts all the same."""
    try:
        newest = StoredRows(latest_granted_ms=await latest_granted_ms(engine, ledger.name))
        again = await ledger.compare_rows(newest)
    except (LedgerNotFound, AdminRefused, SQLAlchemyError, OSError, TimeoutError) as error:
        logger.warning("whether the database has entries that the ledger does not know was not looked at: %s", error)
        return
    if again.accounts:
        logger.warning("the database has newer entries than the ledger: it reads again what was spent")


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


def _workers(
    settings: Settings,
    role: Role,
    client: Client,
    engine: AsyncEngine,
    connections: Connections,
    keys: KeyRing,
    ledger_client: Client | None = None,
    *,
    findable: bool = False,
) -> list[Worker]:
    """In the order of starting; the ledger's is stopped last. `ledger_client` None: the same client."""
    ledger_client = ledger_client or client
    if settings.encryption.keys or settings.encryption.codec:
        client = _changed(client, lambda converter: replace(converter, marks_plain=True))
    ledger = Ledger(ledger_client, settings.ledger.name)
    config = desk_config(settings)

    async def commit(commands: Sequence[Command]) -> Sequence[Answer]:
        measure_batch(len(commands))
        answers = await ledger.apply(commands, config, who=WHO)
        traffic.sent(commands, answers)
        return answers

    traffic = LedgerTraffic()
    commits = GroupCommit[Command, Answer](
        commit,
        size_of=json_bytes,
        worth_waiting_for=traffic.worth_waiting_for,
    )
    own, own_ledger = _bounding(client), _bounding(ledger_client)
    grace_period = _grace_period(settings)
    deployment, identity = _deployment(settings.worker), worker_identity()
    guard = QueryGuard()
    ledger_worker = Worker(
        own_ledger,
        task_queue=LEDGER_TASK_QUEUE,
        workflows=[BudgetWorkflow],
        deployment_config=deployment,
        identity=identity,
        interceptors=[LiveDetails()],
        unsandboxed_workflow_runner=guard,
        tuner=guard.tuner,
        max_cached_workflows=LEDGERS_CACHED,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )
    guard.watch(ledger_worker)
    reports = GroupCommit[AttemptReport, None](ledger.report, size_of=json_bytes, give_up_after_s=REPORT_WITHIN_S)
    webhook_url = settings.alerts.webhook_url
    catching_up = CatchUpActivities(settings.ledger.name, engine, commits, reports)
    activities_worker = Worker(
        client,
        task_queue=ACTIVITIES_TASK_QUEUE,
        activities=[
            CallServiceActivities(settings.services, keys, connections, reports).call_service,
            AwaitResultActivities(client).await_result,
            LoadSpendActivities(client, engine).load_spend,
            RecallParkedActivities(client).recall_parked,
            AnswerCallsActivities(client).answer_calls,
            StoreNoticesActivities(engine).store_notices,
            SendAlertsActivities(
                webhook_url.get_secret_value() if webhook_url else None, settings.alerts.webhook_format
            ).send_alerts,
            catching_up.catch_up,
        ],
        max_concurrent_activities=CALLS_AT_ONCE,
        max_heartbeat_throttle_interval=HEARTBEATS_EVERY,
        deployment_config=deployment,
        identity=identity,
        graceful_shutdown_timeout=grace_period,
    )
    backlog = Backlog(ledger_client, settings.ledger.name)
    reservations = ReserveActivities(settings, commits, backlog, findable=findable)
    records = RecordUsageActivities(settings.ledger.name, engine, commits, backlog)
    calls_worker = Worker(
        own,
        task_queue=CALLS_TASK_QUEUE,
        workflows=[LLMCallWorkflow, UsageBacklogWorkflow, UsageBacklogPieceWorkflow, ContentAgentWorkflow],
        activities=[reservations.reserve, reservations.void, records.record_usage, catching_up.catch_up],
        interceptors=[LiveDetails()],
        max_concurrent_local_activities=500,
        workflow_task_poller_behavior=CALL_POLLERS,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        deployment_config=deployment,
        identity=identity,
        graceful_shutdown_timeout=min(grace_period, timedelta(seconds=60)),
    )
    match role:
        case "all":
            return [ledger_worker, activities_worker, calls_worker]
        case "workflows":
            return [ledger_worker, calls_worker]
        case "activities":
            return [activities_worker]


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
    on_ready = options.ready_file.touch if options.ready_file else lambda: None
    configure_logs(LogSettings())  # for what is wrong with the settings themselves
    redact_crashes()
    try:
        settings = load_settings(options.config)
        asyncio.run(_run_until_stopped(settings, options.role, on_ready))
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
