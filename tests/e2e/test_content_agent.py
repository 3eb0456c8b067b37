"""The example agent: an article from a real model, and one that goes on when a section fails."""

import json
from pathlib import Path

import pytest
from counting_server import CountingServer, Received, Reply
from paymaster_process import MODEL, configuration, running_site, settled_books
from stored_rows import entries_of_call

from paymaster.devstack import MODEL_NAME, EmbeddedStack
from paymaster.messages import CALLS_TASK_QUEUE
from workflows.content_agent import Article, ArticleRequest, ContentAgentWorkflow

pytestmark = pytest.mark.timeout(120)


async def test_a_real_model_writes_an_article_with_all_its_sections(
    stack: EmbeddedStack, database_url: str, model_base_url: str, tmp_path: Path
) -> None:
    """Outline, sections and introduction are calls of their own, each booked with the model's own token counts."""
    tables = {
        "services": {
            "local": {
                "api": "openai",
                "base_url": model_base_url,
                "models": {MODEL_NAME: {"max_output_tokens": 200, "price": {"input": "0.10", "output": "0.40"}}},
            }
        },
        "routes": {"writer": [f"local/{MODEL_NAME}"]},
        "budgets": {"acme": {"cap_usd": {"total": "1"}}},
    }
    request = ArticleRequest(topic="the tides of the sea", sections=2, budget="acme/writer", max_output_tokens=24)
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        article: Article = await site.client.execute_workflow(
            ContentAgentWorkflow.run, request, id="article", task_queue=CALLS_TASK_QUEUE
        )
        assert article.title == "the tides of the sea"
        assert [section.problem for section in article.sections] == [None, None]
        assert all(section.title and section.text for section in article.sections)
        assert article.introduction
        assert article.calls == tuple(f"article/{step}" for step in ("outline", "section-1", "section-2", "edit"))
        for call_id in article.calls:
            (entry,) = await entries_of_call(site.engine, call_id)
            assert (entry.status, entry.model_answered) == ("completed", MODEL_NAME)
            assert entry.usage is not None
            assert entry.usage.input_tokens > 10
            assert 0 < entry.usage.output_tokens <= 24
        await settled_books(site)
        assert (await site.balance("budget:acme")).posted_nanos == article.cost_nanos > 0


async def test_a_failing_section_does_not_stop_the_others(
    stack: EmbeddedStack, database_url: str, server: CountingServer, tmp_path: Path
) -> None:
    """The article names the problem in that section's place and has everything else."""
    service = server.service("sections")
    titles = ["Ebbing", "Flow", "Moon"]

    def text(request: Received) -> str:
        return json.dumps({"titles": titles}) if "response_format" in request.body else f"Text: {request.prompt}"

    def reply(request: Received) -> Reply:
        return Reply(400, message="not about Flow") if '"Flow"' in request.prompt else Reply()

    service.text, service.reply = text, reply
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "1"}}})
    request = ArticleRequest(topic="tides", sections=3, budget="acme/writer", max_output_tokens=40)
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        article: Article = await site.client.execute_workflow(
            ContentAgentWorkflow.run, request, id="article", task_queue=CALLS_TASK_QUEUE
        )
        assert [section.title for section in article.sections] == titles
        ebb, flow, moon = article.sections
        assert ebb.text
        assert moon.text
        assert flow.text is None
        assert str(flow.problem).startswith(f"invalid_request: sections/{MODEL}: HTTP 400: not about Flow")
        assert article.introduction
        assert service.count == 5
        await settled_books(site, service)
        assert (await site.balance("budget:acme")).posted_nanos == article.cost_nanos
