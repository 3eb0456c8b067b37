"""OpenTelemetry, with a real receiver: one trace from the agent to the row, sums that are the rows', and no harm."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from counting_server import ANSWER, CountingServer, FakeService, Reply
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_receiver import OtlpReceiver, attributes_of
from paymaster_process import MODEL, Databases, Site, configuration, free_address, running_site, settled_books, until
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text
from stored_rows import entries_of_call
from temporalio.runtime import LoggingConfig

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import CALLS_TASK_QUEUE
from paymaster.observability.exporters import providers
from paymaster.observability.telemetry import telemetry_of
from paymaster.redaction import redact
from paymaster.settings import Settings
from workflows.content_agent import ArticleRequest, ContentAgentWorkflow

pytestmark = pytest.mark.timeout(120)
TOPIC = "the-tides-of-Fundy"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("measured")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, receiver: OtlpReceiver, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1"}}, "acme/none": {"cap_usd": {"total": "0"}}},
        worker={"health_address": free_address()},
    ) | {"telemetry": {"otlp_endpoint": receiver.url, "metrics_every": "500ms"}}
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
    async with running_site(
        stack.temporal_address, await databases.create(), module_folder, tables, environment=environment
    ) as site:
        yield site


def ask(prompt: str, budget: str = "acme/writer") -> LLMRequest:
    return LLMRequest(route="measured", budget=budget, prompt=prompt, on_exhausted="fail")


async def scraped(site: Site) -> dict[str, float]:
    """The worker's /metrics: values by name with labels."""
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://{site.settings.worker.health_address}/metrics", timeout=10)
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def way_up(receiver: OtlpReceiver, span: Span) -> list[str]:
    """The names from a span to its root."""
    by_id = {each.span_id: each for each in receiver.spans}
    names = [span.name]
    while span.parent_span_id:
        span = by_id[span.parent_span_id]
        names.append(span.name)
    return names


async def test_one_trace_leads_from_the_agent_to_the_request_and_to_the_row(site: Site, receiver: OtlpReceiver) -> None:
    article = await site.client.execute_workflow(
        ContentAgentWorkflow.run,
        ArticleRequest(topic=TOPIC, sections=1, budget="acme/writer", route="measured"),
        id="traced",
        task_queue=CALLS_TASK_QUEUE,
    )

    def has_arrived() -> bool:
        return any(span.name == "RunWorkflow:ContentAgentWorkflow" for span in receiver.spans)

    await until(has_arrived, "the agent's span, which ends last, is sent")
    (agent,) = [span for span in receiver.spans if span.name == "RunWorkflow:ContentAgentWorkflow"]
    trace = [span for span in receiver.spans if span.trace_id == agent.trace_id]
    assert [span.name for span in trace if not span.parent_span_id] == ["RunWorkflow:ContentAgentWorkflow"]
    for call_id in article.calls:
        (entry,) = await entries_of_call(site.engine, call_id)
        (row,) = [span for span in trace if entry.attempt_id in attributes_of(span).get("paymaster.attempt_ids", [])]
        assert way_up(receiver, row) == [
            "INSERT api_usage",
            "RunActivity:record_usage",
            "StartActivity:record_usage",
            "RunWorkflow:LLMCallWorkflow",
            "StartChildWorkflow:LLMCallWorkflow",
            "RunWorkflow:ContentAgentWorkflow",
        ]
    requests = [span for span in trace if span.name == "POST"]
    assert len(requests) == len(article.calls) == 3
    for request in requests:
        assert way_up(receiver, request)[:4] == [
            "POST",
            f"chat {MODEL}",
            "RunActivity:call_service",
            "StartActivity:call_service",
        ]
        assert attributes_of(request)["http.response.status_code"] == 200
    chat = attributes_of(next(span for span in trace if span.name == f"chat {MODEL}"))
    assert (chat["gen_ai.provider.name"], chat["gen_ai.operation.name"]) == ("openai", "chat")
    assert (chat["gen_ai.request.model"], chat["gen_ai.response.model"]) == (MODEL, f"{MODEL}-2026-01-01")
    assert (chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == (12, 5)


async def test_sums_of_metrics_are_the_sums_of_the_rows(
    site: Site, receiver: OtlpReceiver, service: FakeService
) -> None:
    """Sent and scraped: tokens, attempts and cost to the nano-dollar; and what the ledger says of itself."""
    service.script.extend([Reply(500), ANSWER])
    await asyncio.gather(*(generate(site.client, ask(f"question {number}")) for number in range(5)))
    denied = await try_generate(site.client, ask("no money", "acme/none"))
    assert (denied.outcome, denied.reason) == (Outcome.DENIED, "bound_above_cap"), denied
    await settled_books(site, service)
    async with site.engine.connect() as connection:
        found = await connection.execute(
            text(
                "SELECT count(*) AS attempts, count(error_class) AS failed, sum(input_tokens) AS input, "
                "sum(output_tokens) AS output, sum(cost_usd * 1000000000)::bigint AS cost FROM usage_entries"
            )
        )
        sums = {name: int(value) for name, value in found.mappings().one().items()}
    assert sums["failed"] == 1

    def sent() -> dict[str, float]:
        return {
            "attempts": receiver.count("gen_ai.client.operation.duration"),
            "failed": receiver.count("gen_ai.client.operation.duration", error_type="server_error"),
            "input": receiver.total("gen_ai.client.token.usage", gen_ai_token_type="input"),
            "output": receiver.total("gen_ai.client.token.usage", gen_ai_token_type="output"),
            "cost": receiver.total("paymaster.cost"),
            "posted": receiver.total("paymaster.account.posted", paymaster_account="budget:acme"),
            "denied": receiver.total("paymaster.denied", paymaster_reason="bound_above_cap"),
        }

    expected = sums | {"posted": sums["cost"], "denied": 1}
    await until(lambda: sent() == expected, f"the sums are {expected}, not {sent()}")
    assert receiver.total("paymaster.account.cap", paymaster_account="budget:acme") == 1_000_000_000
    assert receiver.count("paymaster.reserve.duration") == sums["attempts"] - sums["failed"] + 1  # and the denied one
    assert receiver.count("paymaster.batch.size") > 0
    assert receiver.count("paymaster.event_loop.delay") > 0
    assert {"paymaster.holds", "paymaster.parked", "paymaster.backlog"} <= receiver.metrics.keys()
    assert "paymaster.breaker.state" in receiver.metrics
    own = [name for name in receiver.metrics if name.startswith(("paymaster.", "gen_ai."))]
    assert [name for name in own if receiver.values_of(name, "paymaster.ledger") != {"default"}] == [], (
        "each says whose it is"
    )
    assert any(name.startswith("temporal_") for name in receiver.metrics), "the SDK's own metrics"

    values = await scraped(site)
    assert sum(v for name, v in values.items() if name.startswith("paymaster_cost_nanousd_total")) == sums["cost"]
    assert any(name.startswith("temporal_") for name in values)


async def test_nothing_of_what_was_asked_or_answered_is_sent(site: Site, receiver: OtlpReceiver) -> None:
    await until(lambda: "RunWorkflow:ContentAgentWorkflow" in receiver.text, "the agent's trace is sent")
    assert "tides" not in receiver.text
    assert "answer to" not in receiver.text


async def test_a_collector_that_is_gone_costs_no_call_and_does_not_hold_the_worker(
    site: Site, receiver: OtlpReceiver, service: FakeService
) -> None:
    receiver.stop()
    results = await asyncio.gather(*(generate(site.client, ask(f"on its own {number}")) for number in range(5)))
    assert {result.attempts for result in results} == {1}
    stopped = time.monotonic()
    assert await site.workers[0].terminate(30) == 0
    assert time.monotonic() - stopped < 15


@pytest.mark.full
async def test_content_is_in_the_trace_when_the_settings_say_so(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path
) -> None:
    """And the search above would have found it."""
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    with OtlpReceiver() as receiver:
        # By the standard variable this time.
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        tables |= {"telemetry": {"record_content": True}}
        async with running_site(
            stack.temporal_address, database_url, tmp_path, tables, environment=environment
        ) as site:
            await generate(site.client, ask(TOPIC))
            await until(lambda: f"answer to {TOPIC}" in receiver.text, "the answer is in the trace")
            assert "gen_ai.input.messages" in receiver.text


async def test_a_token_of_the_collector_is_in_no_log_and_a_variable_that_cannot_be_used_is_told(site: Site) -> None:
    """OpenTelemetry itself logs a header that it cannot read, as it is."""
    token = "a-token-of-the-collector"
    variables = {"OTEL_EXPORTER_OTLP_HEADERS": f"Authorization: Bearer {token}", "OTEL_BSP_SCHEDULE_DELAY": "-1"}
    worker = replace(site, environment=site.environment | variables).launch_worker()
    assert await worker.process.wait(timeout=30) == 2
    assert "Header format invalid" in worker.log()
    assert token not in worker.log()
    assert "one of OpenTelemetry's variables (OTEL_…) cannot be used" in worker.log()


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"},
    ],
)
async def test_who_wants_traces_only_gets_no_metrics_sent(
    stack: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path, variables: dict[str, str]
) -> None:
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    database_url = await databases.create()
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, environment=variables) as site:
        assert "traces go to" in site.logs()
        assert "metrics go to" not in site.logs()


def test_each_of_many_capped_windows_is_measured() -> None:
    """OpenTelemetry's usual limit adds up those after the first 2,000."""
    registry = CollectorRegistry()
    meters, _ = providers(Settings(), {}, registry, traces=False, measures=False)

    def posted(options: CallbackOptions) -> list[Observation]:
        return [Observation(number, {"account": f"budget:{number}"}) for number in range(5_000)]

    meters.get_meter("test").create_observable_gauge("posted", [posted])
    assert generate_latest(registry).count(b"\nposted{account=") == 5_000
    meters.shutdown()


async def test_a_collectors_token_is_remembered_and_a_tenants_name_is_not() -> None:
    """What is remembered is taken out of models' answers too."""
    token = f"collector-{uuid4()}"
    headers = f"Authorization=Bearer%20{token},x-tenant=production-eu"
    async with telemetry_of(Settings(), LoggingConfig.default, {"OTEL_EXPORTER_OTLP_HEADERS": headers}):
        assert token not in redact(f"sent with {token}")
        assert redact("our production-eu site") == "our production-eu site"
