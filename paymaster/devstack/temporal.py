"""The embedded Temporal: `temporal server start-dev` on loopback, tuned for short steps."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from paymaster.devstack.errors import StackError
from paymaster.devstack.ports import LOOPBACK, free_ports
from paymaster.devstack.process import POLL_S, GuardedProcess, Server, minimal_environment
from paymaster.temporal_program import DYNAMIC_CONFIG

_STARTS_S = 30.0
_STARTS_MAX = 5  # with other ports each time


class TemporalServer(Server):
    """One Temporal server with namespace `default`, at the same address after a restart."""

    def __init__(
        self,
        binary: Path,
        log_file: Path,
        *,
        db_file: Path | None = None,
        port: int | None = None,
        headless: bool = False,
        dynamic_config: Mapping[str, bool | int | float | str] | None = None,
        search_attributes: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        """`db_file` keeps workflows over a restart; None = they are in memory. `port` None = a free one, chosen at the
        first start; the Web UI has `port` + 1000, as usual for Temporal, or a free one. `headless` = no Web UI.
        `dynamic_config` adds to the server's dynamic configuration. `search_attributes` are registered at start: name
        to type (`Keyword`, `Int`, …). `keep_open` as in `GuardedProcess`.
        """
        self._binary = binary
        self._log_file = log_file
        self._db_file = db_file
        self._wanted_port = port
        self._headless = headless
        self._dynamic_config = {**DYNAMIC_CONFIG, **(dynamic_config or {})}
        self._search_attributes = dict(search_attributes or {})
        self._keep_open = keep_open
        self._ports: tuple[int, int, int, int] | None = None  # front end, Web UI, metrics, HTTP

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`; known after the first start."""
        return f"{LOOPBACK}:{self._known_ports()[0]}"

    @property
    def ui_url(self) -> str | None:
        """The Web UI; None if headless."""
        return None if self._headless else f"http://{LOOPBACK}:{self._known_ports()[1]}"

    @property
    def metrics_url(self) -> str:
        """The server's own metrics, in Prometheus' text format."""
        return f"http://{LOOPBACK}:{self._known_ports()[2]}/metrics"

    async def start(self) -> None:
        """Starts the server and returns when it answers.

        Raises StackError, with the end of the log, if it dies or does not answer within 30 s.
        """
        for remaining in reversed(range(_STARTS_MAX)):
            # At a restart the same again: whoever has the address expects it to come back.
            ports = self._ports or self._choose_ports()
            try:
                await self._start(ports)
            except _PortTaken as error:  # by somebody else, since we looked
                if remaining == 0:
                    raise StackError(str(error)) from None
            else:
                self._ports = ports
                return

    def _known_ports(self) -> tuple[int, int, int, int]:
        if self._ports is None:
            raise RuntimeError("Temporal has not been started")
        return self._ports

    def _choose_ports(self) -> tuple[int, int, int, int]:
        wanted = self._wanted_port or 0
        wanted_ui = wanted + 1000 if wanted and not self._headless else 0
        front, ui, metrics, http = free_ports([wanted, wanted_ui, 0, 0])
        return front, ui, metrics, http

    async def _start(self, ports: tuple[int, int, int, int]) -> None:
        front, ui, metrics, http = (str(port) for port in ports)
        command: list[str | Path] = [self._binary, "server", "start-dev", "--ip", LOOPBACK, "--log-level", "warn"]
        command += ["--port", front, "--metrics-port", metrics, "--http-port", http]
        command += ["--headless"] if self._headless else ["--ui-port", ui]
        if self._db_file is not None:
            command += ["--db-filename", self._db_file]
        for name, value in self._dynamic_config.items():
            command += ["--dynamic-config-value", f"{name}={json.dumps(value)}"]
        for name, kind in self._search_attributes.items():
            command += ["--search-attribute", f"{name}={kind}"]

        process = self._process = GuardedProcess(
            command,
            env=minimal_environment(HOME=str(self._log_file.parent)),  # not the user's own Temporal configuration
            log_file=self._log_file,
            # A graceful stop takes 1.5 s, which what is in memory only is not worth.
            stop_signal=signal.SIGKILL if self._db_file is None else signal.SIGTERM,
            keep_open=self._keep_open,
        )
        try:
            await self._until_it_answers(process, int(http))
        except BaseException:
            await process.stop()
            raise

    async def _until_it_answers(self, process: GuardedProcess, http_port: int) -> None:
        # Over HTTP, which the server translates into its own gRPC: a client of the SDK would fix the SDK's process-wide
        # runtime, which is the program's to configure.
        namespace = f"http://{LOOPBACK}:{http_port}/api/v1/namespaces/default"
        deadline = time.monotonic() + _STARTS_S
        async with httpx.AsyncClient(trust_env=False) as client:  # no proxy for loopback
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    log = process.log_tail()
                    if "address already in use" in log:
                        raise _PortTaken(f"Temporal's port is in use:\n{log}")
                    raise StackError(f"Temporal died at start. The end of its log, {self._log_file}:\n{log}")
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(namespace)).is_success:
                        return
                await asyncio.sleep(POLL_S)
        raise StackError(
            f"Temporal did not answer within {_STARTS_S:.0f} s. The end of its log, {self._log_file}:\n"
            + process.log_tail()
        )


class _PortTaken(Exception):
    pass
