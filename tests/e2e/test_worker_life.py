"""A worker as an orchestrator and a log collector see it: live, ready or why not, its log, its version."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from counting_server import ANSWER, CountingServer, FakeService, Reply
from paymaster_process import ROOT, Databases, Site, configuration, free_address, running_site, until
from sqlalchemy import text
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.service import RPCError

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack, clean_environment
from paymaster.observability.health import HealthServer
from paymaster.storage.schema import SCHEMA_REVISION

pytestmark = pytest.mark.timeout(90)
COUNTS_THREADS = """
import sys
from pathlib import Path
import worker
from temporalio.runtime import Runtime, TelemetryConfig

assert worker.main(["--config", sys.argv[1]]) == 2
threads = Path("/proc/self/task")
before = len([*threads.iterdir()])
runtime = Runtime(telemetry=TelemetryConfig(logging=None))
print(len([*threads.iterdir()]) - before)
"""


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("life")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        service={"key": "life-key"},
        worker={"health_address": free_address()},
    )
    environment = {"PAYMASTER_KEY_LIFE_KEY": "a-key-of-this-test"}
    async with running_site(
        stack.temporal_address, await databases.create(), module_folder, tables, environment=environment
    ) as site:
        yield site


async def asked(address: str | None, path: str) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://{address}{path}", timeout=10)
        return response.status_code, response.json()


def events(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.logs().splitlines()]


async def test_a_worker_is_ready_until_the_schema_is_not_the_one_that_it_needs(site: Site) -> None:
    address = site.settings.worker.health_address
    assert await asked(address, "/live") == (200, {"live": True})
    all_well = {"temporal": "ok", "database": "ok", "keys": "ok", "workers": "ok", "ledger": "ok"}
    assert await asked(address, "/ready") == (200, {"ready": True, "checks": all_well})

    async with site.engine.begin() as connection:
        await connection.execute(text("UPDATE paymaster_schema SET version_num = '0000'"))
    try:
        status, found = await asked(address, "/ready")
        assert (status, found["ready"]) == (503, False)
        assert "run `paymaster migrate`" in found["checks"]["database"]
        assert found["checks"] | {"database": "ok"} == all_well
        assert (await asked(address, "/live"))[0] == 200
    finally:
        async with site.engine.begin() as connection:
            await connection.execute(text("UPDATE paymaster_schema SET version_num = :it"), {"it": SCHEMA_REVISION})
    assert (await asked(address, "/ready"))[0] == 200


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("3", 3)])
def test_the_sdks_part_in_rust_has_one_thread(said: str | None, threads: int, tmp_path: Path) -> None:
    """A worker that ends at once, for want of a configuration, has said how many the SDK makes, unless somebody did."""
    environment = clean_environment() | ({} if said is None else {"TOKIO_WORKER_THREADS": said})
    program = [sys.executable, "-c", COUNTS_THREADS, str(tmp_path / "none.toml")]
    counted = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert counted.stdout.splitlines()[-1] == str(threads)


async def test_every_line_of_the_log_is_an_object_and_says_which_call_it_is_about(
    site: Site, service: FakeService
) -> None:
    service.script.extend([Reply(500), ANSWER])
    request = LLMRequest(route="life", budget="acme/writer", prompt="Say hello", call_id="logged")
    assert (await try_generate(site.client, request)).outcome is Outcome.COMPLETED
    (failed,) = [event for event in events(site) if event["event"].startswith("attempt failed")]
    call = await site.client.get_workflow_handle("call/logged").describe()
    assert failed["level"] == "warning"
    assert (failed["call_id"], failed["workflow_id"], failed["run_id"]) == ("logged", "call/logged", call.run_id)
    assert (failed["activity"], failed["attempt"]) == ("call_service", 1)
    assert "temporal_activity" not in failed
    ready = next(event for event in events(site) if event["event"] == "worker ready (all)")
    assert ready["logger"] == "paymaster.worker"
    assert ready["timestamp"].endswith("Z")


async def test_a_worker_without_a_key_is_not_ready_and_one_of_a_version_waits_until_that_is_current(
    stack: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path
) -> None:
    """Both on one worker: an orchestrator sees what is missing, and nothing runs on a version that nobody released."""
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        service={"key": "nobody-set-this"},
        worker={"health_address": free_address(), "deployment": "paymaster", "build_id": "2026.11.1"},
    )
    # Not `start_workers`: without a current version the ledger does not answer.
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables, workers=0) as site:
        address = site.settings.worker.health_address
        starting = site.launch_worker()

        async def not_ready() -> bool:
            try:
                return (await asked(address, "/ready"))[0] == 503
            except httpx.TransportError:
                assert starting.process.poll() is None, starting.log()
                return False

        await until(not_ready, "the worker says that it is not ready")
        checks = (await asked(address, "/ready"))[1]["checks"]
        assert "set NOBODY_SET_THIS (or PAYMASTER_KEY_NOBODY_SET_THIS, which counts first)" in checks["keys"]

        async def made_current() -> bool:
            request = SetWorkerDeploymentCurrentVersionRequest(
                namespace=site.namespace, deployment_name="paymaster", build_id="2026.11.1"
            )
            try:
                await site.client.workflow_service.set_worker_deployment_current_version(request)
            except RPCError:  # the server does not know the version before its worker has asked for work
                return False
            return True

        await until(made_current, "the version is current")
        await starting.ready()
        call = await start(site.client, LLMRequest(route="life", budget="acme/writer", prompt="Say hello"))
        result = await call.result()
        assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "no_key")
        version = (await call.describe()).raw_description.workflow_execution_info.versioning_info.deployment_version
        assert (version.deployment_name, version.build_id) == ("paymaster", "2026.11.1")


async def test_a_check_that_hangs_or_fails_is_not_ready_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paymaster.observability.health.ANSWERS_WITHIN_S", 0.05)
    address = free_address()

    async def hangs() -> str | None:
        await asyncio.Event().wait()
        return None

    async def fails() -> str | None:
        raise RuntimeError("postgresql://user:secret@host")

    async def well() -> str | None:
        return None

    async with HealthServer(address, {"hangs": hangs, "fails": fails, "well": well}, bytes):
        status, found = await asked(address, "/ready")
    assert status == 503
    assert found["checks"] == {"hangs": "no answer within 0 s", "fails": "failed with RuntimeError", "well": "ok"}


async def test_who_does_not_read_its_answers_does_not_hold_the_worker_back() -> None:
    address = free_address()
    host, _, port = address.rpartition(":")
    async with HealthServer(address, {}, lambda: bytes(50_000_000)):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 10
    writer.close()


async def test_an_address_that_is_taken_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=re.escape(f"worker.health_address '{address}' cannot be used")):
            async with HealthServer(address, {}, bytes):
                pass
