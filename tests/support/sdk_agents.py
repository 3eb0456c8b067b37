"""Agents that use the SDKs of OpenAI and Anthropic as their pages show them, in workflows and in activities."""

import asyncio
from datetime import timedelta
from hashlib import sha256
from typing import Any

import anthropic
import httpx2
import openai
from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from paymaster.integrations.anthropic import AsyncAnthropic
from paymaster.integrations.openai import AsyncOpenAI
from paymaster.transport import PaymasterTransport, SyncPaymasterTransport

BUDGET = "acme/sdk"
KEY = "sk-the-key-of-the-caller"
Said = dict[str, Any]


def asked(model: str, **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **options}


@workflow.defn
class ChatsWithOpenAI:
    """Chat whole and streamed, Responses whole and streamed, and embeddings of two texts."""

    @workflow.run
    async def run(self) -> Said:
        client = AsyncOpenAI(BUDGET)
        whole = await client.chat.completions.create(**asked("chat"))
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked("chat", stream=True))]
        response = await client.with_options(timeout=5).responses.create(model="responses", input="Hello")
        events = [
            event.type async for event in await client.responses.create(model="responses", input="x", stream=True)
        ]
        found = await client.embeddings.create(model="chat", input=["a", "b"], encoding_format="float")
        return {
            "whole": whole.choices[0].message.content,
            "chunks": [choice.delta.content for chunk in chunks for choice in chunk.choices],
            "response": response.output_text,
            "events": events,
            "vectors": [each.embedding for each in found.data],
        }


@workflow.defn
class ChatsWithClaude:
    """A message whole and streamed."""

    @workflow.run
    async def run(self) -> Said:
        client = AsyncAnthropic(BUDGET)
        whole = await client.messages.create(**asked("claude", max_tokens=50))
        async with client.messages.stream(**asked("claude", max_tokens=50)) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        return {"whole": [block.model_dump() for block in whole.content], "texts": texts, "stop": final.stop_reason}


@workflow.defn
class ChatsWith:
    """One chat with a given model; the answer's text, or the SDK's error."""

    @workflow.run
    async def run(self, model: str, budget: str) -> Said:
        try:
            answer = await AsyncOpenAI(budget).chat.completions.create(**asked(model))
        except openai.APIStatusError as error:
            return told(error)
        return {"text": answer.choices[0].message.content}


@workflow.defn
class CatchesNothing:
    """One chat, or message, with a model that no route is named after."""

    @workflow.run
    async def run(self, sdk: str) -> None:
        if sdk == "openai":
            await AsyncOpenAI(BUDGET).chat.completions.create(**asked("nowhere"))
        else:
            await AsyncAnthropic(BUDGET).messages.create(**asked("nowhere", max_tokens=9))


@workflow.defn
class Digests:
    """What one long answer says, whole or streamed, as its SHA-256, since it is too long for a result."""

    @workflow.run
    async def run(self, model: str, streams: bool) -> str:
        chat = AsyncOpenAI(BUDGET).chat.completions
        if streams:
            chunks = await chat.create(**asked(model, stream=True))
            text = "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])
        else:
            text = (await chat.create(**asked(model))).choices[0].message.content or ""
        return sha256(text.encode()).hexdigest()


def told(error: openai.APIStatusError | anthropic.APIStatusError) -> Said:
    return {"error": type(error).__name__, "status": error.status_code, "body": error.body}


async def heartbeats() -> None:
    """By which an activity learns that it is cancelled."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.2)


@activity.defn
async def chat_in_activity(model: str, fails: int, times: int, budget: str = BUDGET) -> list[str | None]:
    """`times` equal chats on purpose; the first `fails` attempts fail after them."""
    transport = PaymasterTransport(budget)
    client = openai.AsyncOpenAI(api_key=KEY, max_retries=2, http_client=httpx2.AsyncClient(transport=transport))
    beats = asyncio.create_task(heartbeats())
    answers = await asyncio.gather(*(client.chat.completions.create(**asked(model)) for _ in range(times)))
    beats.cancel()
    if activity.info().attempt <= fails:
        raise RuntimeError("the attempt fails behind its calls")
    return [answer.choices[0].message.content for answer in answers]


@workflow.defn
class ChatsInActivity:
    @workflow.run
    async def run(self, model: str, fails: int, times: int, budget: str = BUDGET) -> list[str | None]:
        return await workflow.execute_activity(
            chat_in_activity,
            args=[model, fails, times, budget],
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=5),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )


@workflow.defn
class Summarizes:
    """Runs the activity of docs/transport.md."""

    @workflow.run
    async def run(self, text: str) -> str:
        timeout = timedelta(seconds=20)
        return await workflow.execute_activity("summary", text, start_to_close_timeout=timeout, result_type=str)


def sync_client(transport: SyncPaymasterTransport) -> openai.OpenAI:
    return openai.OpenAI(api_key=KEY, http_client=httpx2.Client(transport=transport))
