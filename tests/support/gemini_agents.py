"""Agents that use Google's SDK as its page shows it, in workflows and in activities."""

from datetime import timedelta
from typing import Any

from google.genai import errors
from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from paymaster.integrations.google_genai import Client

BUDGET = "acme/gemini"
Said = dict[str, Any]


@workflow.defn
class ChatsWithGemini:
    """Contents whole and streamed, and embeddings of two texts."""

    @workflow.run
    async def run(self, model: str) -> Said:
        models = Client(BUDGET).aio.models
        whole = await models.generate_content(model=model, contents="Hello")
        stream = await models.generate_content_stream(model=model, contents="Hello")
        texts = [chunk.text async for chunk in stream]
        found = await models.embed_content(model=model, contents=["a", "b"])
        return {"whole": whole.text, "texts": texts, "vectors": [each.values for each in found.embeddings or ()]}


@workflow.defn
class AsksGemini:
    """One request; the answer's text, or the SDK's error."""

    @workflow.run
    async def run(self, model: str, budget: str, streamed: bool) -> Said:
        models = Client(budget).aio.models
        try:
            if streamed:
                stream = await models.generate_content_stream(model=model, contents="Hello")
                return {"text": "".join([chunk.text or "" async for chunk in stream])}
            return {"text": (await models.generate_content(model=model, contents="Hello")).text}
        except errors.APIError as error:
            return {"error": type(error).__name__, "status": error.code, "body": error.details}


@activity.defn
async def ask_gemini(model: str, fails: int) -> str | None:
    """The first `fails` attempts fail behind their request."""
    answer = await Client(BUDGET).aio.models.generate_content(model=model, contents="Hello")
    if activity.info().attempt <= fails:
        raise RuntimeError("the attempt fails behind its call")
    return answer.text


@workflow.defn
class AsksGeminiInActivity:
    @workflow.run
    async def run(self, model: str, fails: int) -> str | None:
        return await workflow.execute_activity(
            ask_gemini,
            args=[model, fails],
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )
