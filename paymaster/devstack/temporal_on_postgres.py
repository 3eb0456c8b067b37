"""Temporal's own server on the embedded PostgreSQL: what production runs, in one process on loopback.

Its lists of workflows (visibility) are in SQLite all the same: their tables in PostgreSQL need the extension
`btree_gin`, which the wheel with the embedded PostgreSQL lacks.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import httpx

from paymaster.devstack.errors import StackError
from paymaster.devstack.ports import LOOPBACK, free_ports
from paymaster.devstack.postgres import PORT, USER, PostgresServer
from paymaster.devstack.process import POLL_S, GuardedProcess, Server, minimal_environment
from paymaster.devstack.temporal_programs import TemporalPrograms
from paymaster.temporal_program import DYNAMIC_CONFIG

_PLUGIN = "postgres12_pgx"
"""The one of the server's two drivers for PostgreSQL that takes a socket's folder as `host`."""
_DATABASE = "temporal"
_SERVICES = ("frontend", "history", "matching", "worker")
_HISTORY_SHARDS = 4
"""That of the server's own configuration for development."""
_CONNECTIONS_MAX = 12
"""For each of the four services: PostgreSQL takes 100, of which workers and tests need the rest."""
_AS_EMBEDDED: Mapping[str, bool] = {"system.forceSearchAttributesCacheRefreshOnRead": True}
"""What `temporal server start-dev` sets: a search attribute is there as soon as it is registered."""
_STARTS_S = 90.0
_TOOL_TAKES_S = 120.0

_connect: Any = asyncpg.connect  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]: no types


class _Ports(NamedTuple):
    grpc: tuple[int, ...]
    """One for each service, the frontend's first."""
    membership: tuple[int, ...]
    http: int
    metrics: int


class TemporalOnPostgres(Server):
    """One Temporal server with namespace `default`, without a Web UI, at the same address after a restart."""

    ui_url: None = None

    def __init__(
        self,
        programs: TemporalPrograms,
        postgres: PostgresServer,
        folder: Path,
        log_file: Path,
        *,
        dynamic_config: Mapping[str, bool | int | float | str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        """`postgres` runs whenever this server does. `folder` is made, for its configuration. `dynamic_config` adds to
        the server's dynamic configuration. `keep_open` as in `GuardedProcess`.
        """
        self._programs = programs
        self._postgres = postgres
        self._folder = folder
        self._log_file = log_file
        self._dynamic_config = {**DYNAMIC_CONFIG, **_AS_EMBEDDED, **(dynamic_config or {})}
        self._keep_open = keep_open
        self._ports: _Ports | None = None

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`; known after the first start."""
        return f"{LOOPBACK}:{self._known_ports().grpc[0]}"

    @property
    def metrics_url(self) -> str:
        """The server's own metrics, in Prometheus' text format."""
        return f"http://{LOOPBACK}:{self._known_ports().metrics}/metrics"

    async def start(self) -> None:
        """Makes the tables, starts the server and returns when it answers.

        Raises StackError, with the end of the log, if it dies or does not answer within 90 s.
        """
        if self._ports is None:
            await self._make_tables()
            each = len(_SERVICES)
            ports = tuple(free_ports([0] * (2 * each + 2)))
            self._ports = _Ports(ports[:each], ports[each : 2 * each], *ports[2 * each :])
        process = self._process = GuardedProcess(
            [self._programs.server, "--config-file", self._write_configuration(), "--allow-no-auth", "start"],
            env=minimal_environment(),
            log_file=self._log_file,
            stop_signal=signal.SIGKILL,  # what counts is committed, and a graceful stop would wait for its own clients
            keep_open=self._keep_open,
        )
        try:
            await self._until_it_answers(process)
        except BaseException:
            await process.stop()
            raise

    def _known_ports(self) -> _Ports:
        if self._ports is None:
            raise RuntimeError("Temporal has not been started")
        return self._ports

    async def _make_tables(self) -> None:
        connection = await _connect(host=str(self._postgres.socket_dir), port=PORT, user=USER, database="postgres")
        try:
            is_new = not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE)
            if is_new:
                await connection.execute(f"CREATE DATABASE {_DATABASE}")
        finally:
            await connection.close()
        if is_new:
            await self._run_tool("setup-schema", "--version", "0.0")
        await self._run_tool("update-schema", "--schema-name", "postgresql/v12/temporal")

    async def _run_tool(self, *arguments: str) -> None:
        place = ["--endpoint", "localhost", "--port", str(PORT), "--user", USER, "--database", _DATABASE]
        attributes = ["--plugin", _PLUGIN, "--connect-attributes", urlencode(self._attributes())]
        command = [self._programs.sql_tool, *place, *attributes, *arguments]
        async with GuardedProcess(command, env=minimal_environment(), log_file=self._log_file) as tool:
            if await tool.wait(_TOOL_TAKES_S) != 0:
                raise StackError(f"Temporal's tables can't be made. The log, {self._log_file}:\n{tool.log_tail()}")

    def _attributes(self) -> dict[str, str]:
        return {"host": str(self._postgres.socket_dir)}

    def _write_configuration(self) -> Path:
        """In JSON, which is YAML too."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        dynamic = self._folder / "dynamic.yaml"
        dynamic.write_text(json.dumps({name: [{"value": value}] for name, value in self._dynamic_config.items()}))
        configuration = self._folder / "temporal.yaml"
        configuration.write_text(json.dumps(self._configuration(dynamic)))
        return configuration

    def _configuration(self, dynamic: Path) -> dict[str, Any]:
        ports = self._known_ports()
        services = {
            name: {"rpc": {"grpcPort": grpc, "membershipPort": membership, "bindOnIP": LOOPBACK}}
            for name, grpc, membership in zip(_SERVICES, ports.grpc, ports.membership, strict=True)
        }
        services["frontend"]["rpc"]["httpPort"] = ports.http
        here = {"enabled": True, "initialFailoverVersion": 1, "rpcName": "frontend", "rpcAddress": self.address}
        return {
            "log": {"stdout": True, "level": "warn"},
            "persistence": {
                "defaultStore": "postgresql",
                "visibilityStore": "sqlite",
                "numHistoryShards": _HISTORY_SHARDS,
                "datastores": {"postgresql": {"sql": self._data()}, "sqlite": {"sql": self._visibility()}},
            },
            "global": {
                "membership": {"maxJoinDuration": "30s", "broadcastAddress": LOOPBACK},
                "metrics": {"prometheus": {"listenAddress": f"{LOOPBACK}:{ports.metrics}", "timerType": "histogram"}},
            },
            "services": services,
            "clusterMetadata": {
                "failoverVersionIncrement": 10,
                "masterClusterName": "active",
                "currentClusterName": "active",
                "clusterInformation": {"active": here},
            },
            "dcRedirectionPolicy": {"policy": "noop"},
            "dynamicConfigClient": {"filepath": str(dynamic), "pollInterval": "60s"},
        }

    def _data(self) -> dict[str, Any]:
        return {
            "pluginName": _PLUGIN,
            "databaseName": _DATABASE,
            "connectAddr": f"localhost:{PORT}",
            "connectProtocol": "tcp",  # it asks for one, and the attribute decides
            "connectAttributes": self._attributes(),
            "user": USER,
            "maxConns": _CONNECTIONS_MAX,
            "maxIdleConns": _CONNECTIONS_MAX,
        }

    def _visibility(self) -> dict[str, Any]:
        return {
            "pluginName": "sqlite",
            "databaseName": str(self._folder / "visibility.db"),
            "connectAddr": "localhost",
            "connectProtocol": "tcp",
            "connectAttributes": {"cache": "private", "setup": "true", "journal_mode": "wal", "synchronous": "0"},
            "maxConns": 1,
            "maxIdleConns": 1,
        }

    async def _until_it_answers(self, process: GuardedProcess) -> None:
        """Makes the namespace `default`, which a server of its own does not have, as soon as it can."""
        namespaces = f"http://{LOOPBACK}:{self._known_ports().http}/api/v1/namespaces"
        wanted = {"namespace": "default", "workflowExecutionRetentionPeriod": "86400s"}
        deadline = time.monotonic() + _STARTS_S
        async with httpx.AsyncClient(trust_env=False) as client:  # no proxy for loopback
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise StackError(
                        f"Temporal died at start. The end of its log, {self._log_file}:\n{process.log_tail()}"
                    )
                with contextlib.suppress(httpx.TransportError):
                    # Made before it is asked for: for a while the server remembers what was not there.
                    made = await client.post(namespaces, json=wanted)
                    is_there = made.is_success or made.status_code == 409
                    if is_there and (await client.get(f"{namespaces}/default/workflows")).is_success:
                        return
                await asyncio.sleep(POLL_S)
        raise StackError(
            f"Temporal did not answer within {_STARTS_S:.0f} s. The end of its log, {self._log_file}:\n"
            + process.log_tail()
        )
