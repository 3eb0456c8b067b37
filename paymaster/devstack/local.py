"""Paymaster on the embedded stack: servers, a migrated database and a worker. What `demo` and `dev` run."""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from paymaster import PaymasterPlugin
from paymaster.client import quiet_runtime
from paymaster.devstack.errors import StackError
from paymaster.devstack.process import POLL_S, GuardedProcess, clean_environment
from paymaster.devstack.progress import Progress, tell_if_slow
from paymaster.devstack.stack import EmbeddedStack
from paymaster.ledger.handle import Ledger
from paymaster.observability.search_attributes import register
from paymaster.settings import load_settings
from paymaster.storage.schema import migrate

WORKER_STARTS_WITHIN_S = 75.0
"""A worker gives up by itself, with words for it, when its ledger does not answer for a minute."""
NAMESPACE_KEEPS_S = 86_400
"""The shortest time for which Temporal keeps what has ended."""
NAMESPACE_USABLE_WITHIN_S = 60.0
"""Each of a server's parts looks for new namespaces now and then: every 10 s as it comes."""
WORKER_GRACE_S = 8.0
"""For the calls that are running when the stack is stopped; all that is left of it is gone after this time."""


class LocalPaymaster:
    """A stack, its migrated database and a worker. Leaving the `async with` block ends worker and servers."""

    client: Client
    ledger: Ledger

    def __init__(
        self,
        stack: EmbeddedStack,
        config_file: Path,
        worker_program: Path,
        *,
        ledger: str,
        overrides: Mapping[str, str] | None = None,
        keep_settings: bool,
        local_model: str | None,
        other_temporal: str | None = None,
        progress: Progress = lambda line: None,
    ) -> None:
        """`worker_program`: the `worker.py` to run. `ledger`: its name in the configuration. `overrides`: variables
        `PAYMASTER__…` for the worker. `keep_settings`: whether the shell's own `PAYMASTER_…` variables reach it.
        `local_model`: the name of the service that the local model is to be; None when there is none. `other_temporal`:
        the address of a server that is used instead of the stack's, in a namespace of its own, so that no worker there
        takes its calls.
        """
        self.stack = stack
        self.namespace = "default" if other_temporal is None else f"paymaster-{uuid4().hex[:8]}"
        self._other_temporal = other_temporal
        self._config_file = config_file
        self._worker_program = worker_program
        self._ledger_name = ledger
        self._overrides = dict(overrides or {})
        self._keep_settings = keep_settings
        self._local_model = local_model
        self._progress = progress
        self._worker: GuardedProcess | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.stack.start()
            await migrate(self.stack.database_url)
            if self._other_temporal is not None:
                await self._make_namespace()
            await self._start_worker()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    @property
    def worker_log(self) -> Path:
        return self.stack.log_dir / "worker.log"

    @property
    def has_own_temporal(self) -> bool:
        return self._other_temporal is None

    @property
    def temporal_address(self) -> str:
        return self._other_temporal or self.stack.temporal_address

    def environment(self) -> dict[str, str]:
        """What points a worker, or any other command, at this stack."""
        environment = {"TEMPORAL_ADDRESS": self.temporal_address, "PAYMASTER_CONFIG": str(self._config_file)}
        if self._other_temporal is not None:
            environment["TEMPORAL_NAMESPACE"] = self.namespace
        environment["PAYMASTER__DATABASE__URL"] = self.stack.database_url
        if self._local_model is not None:
            environment[f"PAYMASTER__SERVICES__{self._local_model.upper()}__BASE_URL"] = self.stack.model_base_url
        return environment | self._overrides

    async def until_worker_ends(self) -> None:
        """Raises StackError, with the end of its log, when the worker ends by itself."""
        assert self._worker is not None
        code = await self._worker.wait()
        raise StackError(f"the worker ended with exit code {code}:\n{self._worker.log_tail()}")

    async def _make_namespace(self) -> None:
        """Raises StackError when the server can't be reached or lets nobody make one."""
        retention = Duration(seconds=NAMESPACE_KEEPS_S)
        request = RegisterNamespaceRequest(namespace=self.namespace, workflow_execution_retention_period=retention)
        try:
            client = await Client.connect(self.temporal_address, namespace=self.namespace, runtime=quiet_runtime())
            await client.workflow_service.register_namespace(request)
            async with tell_if_slow(self._progress, f"Temporal: making the namespace {self.namespace}"):
                await _until_usable(client)
        except (RPCError, RuntimeError) as error:
            raise StackError(
                f"no namespace for the demo could be made at {self.temporal_address}: {error}. It must be a Temporal "
                "server without TLS that lets everybody make namespaces, like `temporal server start-dev`"
            ) from error

    async def _start_worker(self) -> None:
        environment = clean_environment(**self.environment())
        if not self._keep_settings:
            own = self.environment()
            environment = {
                k: v for k, v in environment.items() if k in own or not k.startswith(("PAYMASTER_", "OTEL_"))
            }
        settings = load_settings(self._config_file, environ=environment)
        self.client = await Client.connect(
            self.temporal_address,
            namespace=self.namespace,
            plugins=[PaymasterPlugin(settings)],
            runtime=quiet_runtime(),
        )
        self.ledger = Ledger(self.client, self._ledger_name)
        await register(self.client)
        ready_file = self.stack.log_dir / "worker.ready"
        ready_file.unlink(missing_ok=True)
        self._worker = GuardedProcess(
            [sys.executable, self._worker_program, "--config", self._config_file, "--ready-file", ready_file],
            env=environment,
            log_file=self.worker_log,
            grace_s=WORKER_GRACE_S,
        )
        async with tell_if_slow(self._progress, "Worker: starting"):
            await _until_ready(self._worker, ready_file)

    async def _stop(self) -> None:
        try:
            if self._worker is not None:
                await self._worker.stop()
        finally:
            await self.stack.stop()


async def _until_ready(worker: GuardedProcess, ready_file: Path) -> None:
    """The worker itself says so, and the ledger is not asked meanwhile: see `_checks` in worker.py."""
    deadline = time.monotonic() + WORKER_STARTS_WITHIN_S
    while not await asyncio.to_thread(ready_file.exists):
        if worker.poll() is not None:
            raise StackError(f"the worker ended at its start:\n{worker.log_tail()}")
        if time.monotonic() > deadline:
            raise StackError(f"the worker is not ready after {WORKER_STARTS_WITHIN_S:.0f} s:\n{worker.log_tail()}")
        await asyncio.sleep(POLL_S)


async def _until_usable(client: Client) -> None:
    deadline = asyncio.get_running_loop().time() + NAMESPACE_USABLE_WITHIN_S
    while True:
        try:
            await client.count_workflows()
            return
        except RPCError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
