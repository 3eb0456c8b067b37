"""docker-compose.yml without a container engine: its form, its commands as plain processes, and its dashboard.

What other people's images do with it is not tested here.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jsonschema
import pytest
import yaml
from counting_server import ANSWER, CountingServer, Reply
from otlp_receiver import OtlpReceiver
from paymaster_process import PAYMASTER, ROOT, Worker, free_address, new_namespace, until
from sdk_answers import CHAT_CHUNKS
from sqlalchemy import text
from sqlalchemy.engine import make_url
from temporalio.client import Client

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack, GuardedProcess
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from paymaster.storage.engine import create_engine

pytestmark = pytest.mark.timeout(120)
SERVICE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "pattern": r"^[a-z0-9./-]+:v?[0-9]+(\.[0-9]+)+$"},
        "build": {"const": "."},
        "command": {"type": "array", "items": {"type": "string"}},
        "depends_on": {"anyOf": [{"type": "array"}, {"type": "object", "additionalProperties": {"type": "object"}}]},
        "environment": {"type": "object", "additionalProperties": {"type": "string"}},
        "volumes": {"type": "array", "items": {"type": "string"}},
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test"],
            "properties": {
                "test": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "interval": {"type": "string"},
                "timeout": {"type": "string"},
                "start_period": {"type": "string"},
                "retries": {"type": "integer"},
            },
        },
        "profiles": {"type": "array"},
        "restart": {"enum": ["unless-stopped", "on-failure"]},
        "stop_grace_period": {"type": "string"},
    },
    "oneOf": [{"required": ["image"]}, {"required": ["build"]}],
}
"""The part of the Compose schema that this file uses; stricter: every image has a version, every port is loopback's."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def environment_of(compose: Mapping[str, Any], service: str) -> dict[str, str]:
    """A service's variables, filled in by the rules of Compose in a shell with an OpenAI key."""

    def filled(value: str) -> str:
        shell = {"OPENAI_API_KEY": "a-key-of-this-shell"}
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: shell.get(found[1], found[2]), value)

    return {name: filled(value) for name, value in compose["services"][service]["environment"].items()}


def environment_of_image() -> dict[str, str]:
    """What the Dockerfile sets for every command, but for its PATH."""
    lines = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ").splitlines()
    pairs = [pair.split("=", 1) for line in lines if line.startswith("ENV ") for pair in shlex.split(line)[1:]]
    return {name: value for name, value in pairs if name != "PATH"}


def test_the_file_has_the_form_of_a_compose_file(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        try:
            jsonschema.validate(service, SERVICE)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{name}: {error.message}")
        for needed, how in dict.fromkeys(service.get("depends_on", {})).items():
            assert needed in compose["services"], f"{name} depends on {needed}"
            how = service["depends_on"][needed] if isinstance(service["depends_on"], dict) else {}
            if how.get("condition") == "service_healthy":
                assert "healthcheck" in compose["services"][needed], f"{name} waits for {needed} to be healthy"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], volume


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="no docker compose here",
)
def test_docker_compose_accepts_the_file() -> None:
    subprocess.run(["docker", "compose", "--profile", "*", "config", "--quiet"], check=True, cwd=ROOT)


def test_the_image_has_what_the_commands_need_and_no_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert all(":" in line for line in lines if line.startswith("FROM ")), "an image without a version"
    copied = [line.split()[1] for line in lines if line.startswith("COPY ") and len(line.split()) == 3]
    assert {"paymaster", "workflows", "activities", "operations", "migrations", "worker.py"} <= set(copied)
    assert any(line.startswith("USER ") and line != "USER root" for line in lines[lines.index("") + 1 :])
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        if not name.startswith("--"):
            assert f"!{name}" in ignored, f"{name} would not reach the build"


def test_the_engine_waits_for_those_who_stop(compose: dict[str, Any]) -> None:
    """15 s longer than they take, and the image says at which ports they are reached."""
    file = Settings.model_validate(tomllib.loads((ROOT / "deploy" / "paymaster.toml").read_text()))
    for service, grace in (("worker", file.worker.grace_period), ("gateway", file.gateway.grace_period)):
        assert grace is not None
        assert compose["services"][service]["stop_grace_period"] == f"{grace.total_seconds() + 15:.0f}s", service
    exposed = re.findall(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0].split()
    for service in ("worker", "gateway"):
        for port in compose["services"][service]["ports"]:
            assert port.rpartition(":")[2] in exposed, service


def test_the_collector_and_prometheus_listen_where_the_worker_is(compose: dict[str, Any]) -> None:
    worker = environment_of(compose, "worker")
    collector = yaml.safe_load((ROOT / "deploy/collector/collector.yaml").read_text())
    port = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert worker["PAYMASTER__TELEMETRY__OTLP_ENDPOINT"] == f"http://otel-collector:{port}"
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (scraped,) = prometheus["scrape_configs"][0]["dns_sd_configs"]
    assert scraped["names"] == ["worker"]
    assert worker["PAYMASTER__WORKER__HEALTH_ADDRESS"] == f"0.0.0.0:{scraped['port']}"


# ---------------------------------------------------------------- the services that are ours


class Ours(NamedTuple):
    """The migration job has ended; worker and gateway run. Each has its command and environment from the file."""

    health_address: str
    gateway_address: str
    gateway: Worker
    client: Client
    receiver: OtlpReceiver


@pytest.fixture(scope="module")
async def ours(
    compose: dict[str, Any], stack: EmbeddedStack, server: CountingServer, module_folder: Path
) -> AsyncIterator[Ours]:
    database = "compose_" + os.urandom(4).hex()
    await _create_database(stack.database_url, database)
    namespace = await new_namespace(stack.temporal_address)
    health_address, gateway_address, streams_address = free_address(), free_address(), free_address()
    with OtlpReceiver() as receiver:
        addresses = {
            "postgresql+asyncpg://temporal:only-on-this-machine@postgres:5432/paymaster": _url(stack, database),
            "temporal:7233": stack.temporal_address,
            "0.0.0.0:8000": health_address,
            "0.0.0.0:4000": gateway_address,
            "0.0.0.0:7301": streams_address,
            "http://gateway:7301": f"http://{streams_address}",
            '["http://gateway"]': '["127.0.0.1"]',
            "http://otel-collector:4318": receiver.url,
            "/etc/paymaster/paymaster.toml": str(ROOT / "deploy" / "paymaster.toml"),
        }

        def here(service: str) -> dict[str, str]:
            environment = environment_of(compose, service)
            assert len(set(environment.values()) & set(addresses)) >= 3, "the addresses are others now"
            return {
                "PATH": os.environ["PATH"],
                "TEMPORAL_NAMESPACE": namespace,
                **environment_of_image(),
                # The provider's place, and a budget that is used up; everything else is the file's.
                "PAYMASTER__SERVICES__OPENAI__BASE_URL": server.service("compose").base_url,
                "PAYMASTER__BUDGETS": '{"acme/none": {"cap_usd": {"day": "0"}}}',
            } | {name: addresses.get(value, value) for name, value in environment.items()}

        command = compose["services"]["migrate"]["command"]
        assert command[0] == "paymaster"
        migrated = await asyncio.create_subprocess_exec(
            PAYMASTER, *command[1:], cwd=ROOT, env=here("migrate"), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await migrated.communicate()
        assert migrated.returncode == 0, output
        client = await Client.connect(
            stack.temporal_address, namespace=namespace, plugins=[PaymasterPlugin(Settings())]
        )
        async with (
            _running(compose, "worker", here("worker"), module_folder) as worker,
            _running(compose, "gateway", here("gateway"), module_folder) as gateway,
        ):
            await worker.ready()
            await until(lambda: gateway_address in gateway.log(), "the gateway listens")
            yield Ours(health_address, gateway_address, gateway, client, receiver)


@asynccontextmanager
async def _running(
    compose: Mapping[str, Any], service: str, environment: dict[str, str], folder: Path
) -> AsyncGenerator[Worker]:
    """The file's own command for a service."""
    program, *arguments = compose["services"][service]["command"]
    assert program in ("python", "paymaster")
    command, log_file = [str(PAYMASTER.with_name(program)), *arguments], folder / f"{service}.log"
    async with GuardedProcess(command, env=environment, cwd=ROOT, log_file=log_file) as process:
        yield Worker(process, log_file)


def _url(stack: EmbeddedStack, database: str) -> str:
    return make_url(stack.database_url).set(database=database).render_as_string(hide_password=False)


async def _create_database(server_url: str, name: str) -> None:
    admin = create_engine(server_url).execution_options(isolation_level="AUTOCOMMIT")
    async with admin.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await admin.dispose()


async def test_the_worker_of_the_file_answers_calls_and_its_own_health_check(
    ours: Ours, compose: dict[str, Any], server: CountingServer
) -> None:
    server.service("compose").script.extend([Reply(500), ANSWER])
    result = await try_generate(ours.client, LLMRequest(route="writer", budget="acme/docs", prompt="Say hello"))
    assert (result.outcome, result.attempts) == (Outcome.COMPLETED, 2), result
    assert await _healthy(compose, "worker", {"127.0.0.1:8000": ours.health_address})
    check = json.dumps(_health_check(compose, "worker"))
    assert check in (ROOT / "Dockerfile").read_text(), "the image has another check"
    await until(lambda: ours.receiver.metrics, "the collector gets metrics")


async def test_the_gateway_of_the_file_serves_and_is_healthy(
    ours: Ours, compose: dict[str, Any], server: CountingServer
) -> None:
    """Its streams token by token: the first comes while the provider holds the rest."""
    assert await _healthy(compose, "gateway", {"127.0.0.1:4000": ours.gateway_address})
    async with httpx.AsyncClient(base_url=f"http://{ours.gateway_address}/v1", timeout=30) as client:
        body = {"model": "writer", "messages": [{"role": "user", "content": "Say hello"}]}
        answer = await client.post("/chat/completions", json=body)
        assert answer.status_code == 401, answer.text
        headers = {"x-api-key": "only-on-this-machine"}
        answer = await client.post("/chat/completions", json=body, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == "answer to Say hello", answer.text
        service = server.service("compose")
        service.script.append(Reply(stream=[CHAT_CHUNKS[0], None, *CHAT_CHUNKS[1:]]))
        streamed = client.stream("POST", "/chat/completions", json={**body, "stream": True}, headers=headers)
        async with streamed as answer, asyncio.timeout(30):
            pieces = answer.aiter_text()
            first = await anext(pieces)
            service.release()
            rest = "".join([piece async for piece in pieces])
    assert "choices" in first
    assert "[DONE]" in rest


async def _healthy(compose: Mapping[str, Any], service: str, addresses: Mapping[str, str]) -> bool:
    """What the file's check of a service says. `addresses`: where it listens in its container, and here."""
    check = _health_check(compose, service)
    for there, here in addresses.items():
        assert there in check[-1]
        check = [part.replace(there, here) for part in check]
    process = await asyncio.create_subprocess_exec(PAYMASTER.with_name("python"), *check[1:])
    return await process.wait() == 0


def _health_check(compose: Mapping[str, Any], service: str) -> list[str]:
    kind, *command = compose["services"][service]["healthcheck"]["test"]
    assert (kind, command[0]) == ("CMD", "python")
    return command


async def test_every_metric_of_the_dashboard_is_one_of_the_worker(ours: Ours, server: CountingServer) -> None:
    """After a call that was answered, one that was denied, and one whose failure alerts."""
    server.service("compose").script.append(Reply(401))
    for budget, outcome in (("acme/docs", Outcome.UNAVAILABLE), ("acme/none", Outcome.DENIED)):
        request = LLMRequest(route="writer", budget=budget, prompt="Say hello", on_exhausted="fail")
        assert (await try_generate(ours.client, request)).outcome is outcome
    panels = json.loads((ROOT / "deploy/grafana/dashboards/paymaster.json").read_text())["panels"]
    labels = re.compile(r"by \([^)]*\)|\{[^}]*\}")
    expressions = [labels.sub("", target["expr"]) for panel in panels for target in panel["targets"]]
    wanted = {
        name
        for expression in expressions
        for name in re.findall(r"\b(?:paymaster|gen_ai|temporal)_[a-z_]+", expression)
    }
    assert len(wanted) > 15, wanted
    missing = wanted

    async def all_there() -> bool:
        nonlocal missing
        async with httpx.AsyncClient() as client:
            lines = (await client.get(f"http://{ours.health_address}/metrics", timeout=10)).text.splitlines()
        missing = wanted - {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
        return not missing

    try:
        await until(all_there, "the worker has all metrics of the dashboard", 20)
    except AssertionError:
        pytest.fail(f"no such metrics: {sorted(missing)}")


async def test_the_gateway_of_the_file_stops_when_the_engine_says_so(ours: Ours) -> None:
    """It is the last test that needs it."""
    ours.gateway.process.send_signal(signal.SIGTERM)
    assert await ours.gateway.process.wait(30) == 0
