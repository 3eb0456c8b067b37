"""The gateway's process: connects, listens, and stops without losing what is under way."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Route
from temporalio.client import Client
from temporalio.runtime import LoggingConfig

from paymaster.client import connect
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.app import gateway_app
from paymaster.gateway.clients import open_clients
from paymaster.gateway.connections import bounded, bounds_of
from paymaster.gateway.listening import Server, bound_socket, check_certificate, url_of
from paymaster.gateway.streams import Streams
from paymaster.keys.api_key import ServiceKeys
from paymaster.keys.ring import named_keys
from paymaster.ledger.handle import Ledger
from paymaster.observability.health import ANSWERS_WITHIN_S, Check, HealthServer
from paymaster.observability.telemetry import telemetry_of
from paymaster.settings import ConfigurationError, GatewaySettings, Settings, format_duration
from paymaster.storage.engine import DATABASE_ERRORS, create_engine
from paymaster.storage.schema import check_schema

_CLEARS_UP_WITHIN_S = 12.0
"""For requests that are given up at the end: the call of each is cancelled within 10 s."""
_BACKLOG = 2_048
logger = logging.getLogger(__name__)

MakePages = Callable[[Settings, ServiceKeys, AdminSite], Awaitable[Sequence[Route]]]
"""Makes pages for people, which the gateway serves beside its own answers."""


async def run_gateway(
    settings: Settings,
    stop: asyncio.Event,
    core_logs: LoggingConfig = LoggingConfig.default,
    on_ready: Callable[[str], object] = lambda url: None,
    make_pages: MakePages | None = None,
) -> None:
    """Runs until `stop` is set, then lets requests in flight finish, within the grace period.

    `on_ready` is called with the gateway's URL as soon as requests are answered. Raises ConfigurationError where nobody
    could ask and for a certificate that cannot be used, RuntimeError when Temporal can't be reached, SchemaOutdated
    when the database needs `paymaster migrate`, KeyUnavailable without a key for the payloads' encryption or the
    console's sessions, OSError when an address is taken.
    """
    _check_who_asks(settings)
    gateway, url = settings.gateway, settings.database.url
    async with AsyncExitStack() as running:
        listener = running.enter_context(bound_socket(gateway.address, "gateway.address"))
        telemetry = await running.enter_async_context(
            telemetry_of(settings, core_logs, served_at=gateway.health_address)
        )
        client = await connect(settings, plugins=telemetry.plugins, runtime=telemetry.runtime)
        keys = named_keys(settings)
        running.push_async_callback(keys.close)
        streams = await running.enter_async_context(Streams(gateway.streams, keys))
        engine = None if url is None else create_engine(url.get_secret_value())
        if engine is not None:
            running.push_async_callback(engine.dispose)
            await _check_schema(engine)
        clients = await running.enter_async_context(open_clients(settings, keys, engine))
        pages: Sequence[Route] = ()
        if engine is not None and make_pages is not None:
            pages = await make_pages(settings, keys, AdminSite(settings, Ledger(client, settings.ledger.name), engine))
        config = _config(gateway_app(settings, clients, client, streams, keys, engine, pages), gateway)
        server = _Server(config, bounded(bounds_of(gateway)))
        if gateway.health_address is not None:
            checks, setting = {"temporal": _answers(client)}, "gateway.health_address"
            health = HealthServer(gateway.health_address, checks, telemetry.exposition, setting=setting)
            await running.enter_async_context(health)
        server.on_started = lambda: on_ready(url_of(listener, gateway.tls_certificate))
        running.callback(asyncio.create_task(_end(server, stop, gateway.grace_period)).cancel)
        await server.serve([listener])
        if left := list(server.server_state.tasks):
            await asyncio.wait(left, timeout=_CLEARS_UP_WITHIN_S)


def _check_who_asks(settings: Settings) -> None:
    """Raises ConfigurationError where nobody could ask, or nothing be shown."""
    gateway = settings.gateway
    url = settings.database.url
    if not gateway.clients and gateway.jwt is None and gateway.budget is None and url is None:
        raise ConfigurationError(
            [
                "gateway: nobody could ask; set database.url for clients that `paymaster clients create` makes, make a "
                "table [gateway.clients.NAME] or [gateway.jwt], or on this machine only set gateway.budget for "
                "requests without a key"
            ]
        )
    if settings.console.is_on and url is None:
        raise ConfigurationError(["console: it shows what is in the database; set database.url"])


async def _check_schema(engine: AsyncEngine) -> None:
    """Raises SchemaOutdated. While the database does not answer, all that need none are served."""
    try:
        await check_schema(engine)
    except DATABASE_ERRORS as error:
        logger.warning("the database does not answer, so that its schema is not known: %s", error)


class _Server(Server):
    on_started: Callable[[], object]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()


def _config(app: Starlette, gateway: GatewaySettings) -> uvicorn.Config:
    """Raises ConfigurationError for a certificate that cannot be used."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # below, a line for each client that speaks no HTTP
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, round(gateway.idle_timeout.total_seconds())),
        timeout_graceful_shutdown=max(1, round(gateway.grace_period.total_seconds())),
        ssl_certfile=gateway.tls_certificate,
        ssl_keyfile=gateway.tls_key,
    )
    check_certificate(config, "gateway")
    return config


def _answers(client: Client) -> Check:
    async def temporal() -> str | None:
        serving = await client.service_client.check_health(timeout=timedelta(seconds=ANSWERS_WITHIN_S))
        return None if serving else "not serving"

    return temporal


async def _end(server: uvicorn.Server, stop: asyncio.Event, grace_period: timedelta) -> None:
    await stop.wait()
    logger.info("stopping; requests in flight may take %s", format_duration(grace_period))
    server.should_exit = True
