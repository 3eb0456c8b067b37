"""No input holds the event loop: the watch that measures it, and answers of every nasty kind through call_service."""

import asyncio
import gzip
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import pytest
from pydantic import JsonValue
from pydantic_core import to_json
from raw_server import Caller, RawServer, failure_of
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire import BASE_URLS, GRANT, build

from activities.send_alerts import SendAlertsActivities
from paymaster import redaction
from paymaster.calls.request_limits import denial_of
from paymaster.messages import (
    Alert,
    Alerts,
    Attempt,
    Billing,
    ChatMessage,
    Completion,
    Delivery,
    LLMRequest,
    ServiceCall,
    Tool,
)
from paymaster.observability.event_loop import WARNED_FROM_S, EventLoopWatch
from paymaster.redaction import remember
from paymaster.settings import Api
from paymaster.values.limits import JSON_VALUES_MAX

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
MB = 1_000_000
LIMITS_S = {2 * MB: 0.05, 7_900_000: 0.1}
"""How long the loop may be held, by the size of what came in."""
HELD_BY_A_REQUEST_S = 0.05


async def test_a_held_event_loop_is_measured_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The measure is as long as it was held; from half a second on it is told in words."""
    recorded: list[float] = []
    watch = asyncio.create_task(EventLoopWatch(recorded.append, every_s=0.01).run())
    await asyncio.sleep(0.02)
    with caplog.at_level(logging.WARNING):
        time.sleep(0.3)
        await asyncio.sleep(0.02)
        assert caplog.messages == []
        time.sleep(1.0)
        await asyncio.sleep(0.1)
    watch.cancel()
    assert max(recorded) >= 0.95
    (said,) = caplog.messages
    assert said.startswith("nothing ran for")
    assert WARNED_FROM_S <= 0.5


# ---------------------------------------------------------------- what comes in


def head(*lines: str, status: int = 200) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} x", *lines, "", ""]).encode("latin-1")


def filled(begin: str, piece: str, end: str, size: int) -> bytes:
    """The piece again and again, to so many bytes."""
    return (begin + piece * ((size - len(begin) - len(end)) // len(piece.encode())) + end).encode()


def answer(content: str, size: int, begin: str = "") -> bytes:
    """Of the format `openai`, whose text is the content again and again."""
    usage = '"usage": {"prompt_tokens": 1, "completion_tokens": 1}'
    body = filled(
        f'{{{usage}, "choices": [{{"finish_reason": "stop", "message": {{"content": "{begin}', content, '"}}]}', size
    )
    return head("content-type: application/json") + body


def stream(*events: str, size: int, last: str = "data: [DONE]\n\n") -> bytes:
    return head("content-type: text/event-stream") + filled(
        "", "".join(f"data: {event}\n\n" for event in events), last, size
    )


def tool_delta(arguments: str, index: int = 0) -> str:
    call = {"index": index, "id": "1", "function": {"name": "f", "arguments": arguments}}
    return json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]})


def token(text: str) -> str:
    return json.dumps({"id": "x" * 120, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


INPUTS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "a long text": ("openai", lambda size: answer("a", size)),
    "CJK text": ("openai", lambda size: answer("\u4e2d", size)),
    "backslashes behind a webhook's path": ("openai", lambda size: answer("\\\\", size, "the alerts: ")),
    "a webhook's path again and again": ("openai", lambda size: answer("/api/alert", size, "alerts ")),
    "escapes": ("openai", lambda size: answer("\\u00e9", size)),
    "half surrogate pairs": ("openai", lambda size: answer("\\ud800", size)),
    "commas and quotes in a text": ("openai", lambda size: answer(',\\"[{', size)),
    "lists": ("openai", lambda size: head() + filled("[", "[],", "0]", size)),
    "objects": ("openai", lambda size: head() + filled("[", '{"":0},', "0]", size)),
    "numbers": ("openai", lambda size: head() + filled("[", "0,", "0]", size)),
    "digits": ("openai", lambda size: head() + filled("[", "1", "]", size)),
    "nested": ("openai", lambda size: head() + filled("", '{"a":', "1", size)),
    "no JSON": ("openai", lambda size: head() + filled("", '"', "", size)),
    "single-token events": ("openai", lambda size: stream(token("a"), size=size)),
    "the smallest events": ("openai", lambda size: stream("{}", size=size)),
    "empty lines": ("openai", lambda size: head("content-type: text/event-stream") + b"\n" * size),
    "carriage returns": ("openai", lambda size: head("content-type: text/event-stream") + b"\r\n" * (size // 2)),
    "lines of nothing": ("openai", lambda size: head("content-type: text/event-stream") + b"ab\n" * (size // 3)),
    "one event": ("openai", lambda size: stream(token("a" * (size - 1_000)), size=size)),
    "events of many values": ("openai", lambda size: stream("[" + "[]," * 45_000 + "0]", size=size)),
    "tool arguments in pieces": ("openai", lambda size: stream(tool_delta("aaaa"), size=size)),
    "tools without number": (
        "openai",
        lambda size: (
            head("content-type: text/event-stream")
            + "".join(f"data: {tool_delta('', number)}\n\n" for number in range(size // 110)).encode()
        ),
    ),
    "tool arguments of many values": (
        "openai",
        lambda size: stream(
            tool_delta("[" + "[]," * 30_000 + "0]"), size=size, last=f"data: {tool_delta('')}\n\ndata: [DONE]\n\n"
        ),
    ),
    "anthropic: tool input in pieces": (
        "anthropic",
        lambda size: stream(
            '{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"aaaa"}}',
            size=size,
            last='data: {"type":"message_stop"}\n\n',
        ),
    ),
    "gemini: many parts": (
        "gemini",
        lambda size: stream('{"candidates":[{"content":{"parts":[' + "{}," * 30_000 + "{}]}}]}", size=size),
    ),
    "responses: deltas": (
        "openai-responses",
        lambda size: stream('{"type":"response.output_text.delta","delta":"a"}', size=size),
    ),
    "an error's message": (
        "openai",
        lambda size: head(status=400) + filled('{"error": {"message": "', "reached your specified ", '"}}', size),
    ),
    "an error's details": (
        "openai",
        lambda size: head(status=429) + filled('{"error": {"details": [', '{"reason":"a"},', "0]}}", size),
    ),
    "an error that is a page": ("openai", lambda size: head(status=502) + filled("<html>", "<p>", "", size)),
    "a long header": (
        "openai",
        lambda size: head(*(f"{name}: {'1' * 30_000}" for name in ("retry-after", "x-request-id")), status=429),
    ),
    "many headers": ("openai", lambda size: head(*(["a: b"] * (size // 6)), status=429)),
    "as many headers as are read": ("openai", lambda size: head(*(["a:"] * 4_000), status=429)),
    "a compressed answer of zeros": (
        "openai",
        lambda size: head("content-encoding: gzip") + gzip.compress(b"0" * (size + 4 * MB if size > 4 * MB else size)),
    ),
}


class ThreadedServer(RawServer):
    """On a loop of its own in another thread, so that its work is not the client's."""

    @contextmanager
    def running(self) -> Generator[str]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        listening = self.listening()
        try:
            yield asyncio.run_coroutine_threadsafe(listening.__aenter__(), loop).result(10)
        finally:
            asyncio.run_coroutine_threadsafe(listening.__aexit__(None, None, None), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


@asynccontextmanager
async def calling() -> AsyncGenerator[Caller]:
    server = ThreadedServer()
    with server.running() as url:
        caller = Caller(url, server)
        yield caller
        await caller.connections.close()


async def held_s(run: Callable[[], object]) -> float:
    """The longest time that the loop was held meanwhile, of this process's processor: other work does not count."""
    recorded: list[float] = [0.0]
    watch = EventLoopWatch(recorded.append, every_s=0.002, clock=time.process_time, record_every_s=0)
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.sleep(0.01)
        recorded.clear()
        await run()  # pyright: ignore[reportGeneralTypeIssues]
        await asyncio.sleep(0.01)
    finally:
        task.cancel()
    return max(recorded)


def attempt_of(found: Completion | ApplicationError) -> Attempt:
    (attempt,) = found.attempts if isinstance(found, Completion) else failure_of(found).attempts
    return attempt


@pytest.mark.parametrize("size", [2 * MB, pytest.param(7_900_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", INPUTS)
async def test_no_answer_holds_the_event_loop(kind: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a service sends, up to 8 MB, and work in threads counted."""
    monkeypatch.setattr(redaction, "known_secrets", {})
    remember("/api/alerts")
    api, made = INPUTS[kind]
    async with calling() as caller:
        caller.server.raw = made(size)
        found: list[Completion | ApplicationError] = []

        async def call() -> None:
            found.append(await caller.call(api, ActivityEnvironment()))

        limit_s = LIMITS_S[size]
        longest_s = await held_s(call)
        for _ in range(4):  # a busy machine has slower processors
            longest_s = min(longest_s, await held_s(call)) if longest_s > limit_s / 2 else longest_s
    attempt = attempt_of(found[0])
    print(f"{kind}, {size} bytes: {longest_s * 1000:.0f} ms; {attempt.error_class}: {(attempt.error or '')[:60]}")
    assert attempt.error_class != "defect"
    assert (attempt.billing is not Billing.BILLED) or attempt.usage
    assert longest_s < limit_s


# ---------------------------------------------------------------- requests and webhooks


def schema_of(properties: int) -> dict[str, JsonValue]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(properties)}}


def dense() -> dict[str, LLMRequest]:
    """Requests with as many values, and of as many bytes, as may be."""
    asked = LLMRequest(route="r", budget="acme", prompt="x")
    few = JSON_VALUES_MAX - 100
    return {
        "text": asked.model_copy(update={"prompt": "\u4e2d" * 600_000}),
        "controls": asked.model_copy(update={"prompt": "\x01" * 300_000}),
        "schema": asked.model_copy(update={"json_schema": schema_of(few // 2)}),
        "messages": asked.model_copy(update={"messages": (ChatMessage(role="user", content="x"),) * (few // 9)}),
        "tools": asked.model_copy(update={"tools": tuple(Tool(name=f"t{number}") for number in range(few // 7))}),
    }


@pytest.mark.parametrize("kind", dense())
@pytest.mark.parametrize("api", sorted(BASE_URLS))
def test_no_request_holds_the_event_loop(kind: str, api: Api) -> None:
    """Read from Temporal, written in the service's format and dumped; each at the bounds of `denial_of`."""
    request = dense()[kind]
    assert denial_of(request) is None
    call = ServiceCall(grant=GRANT, request=request)
    converter = pydantic_data_converter.payload_converter
    (payload,) = converter.to_payloads([call])
    # A schema is written for its service in a thread, which test_schemas.py looks at.
    built = build(request, api).body if request.json_schema is not None else None
    steps: dict[str, Callable[[], object]] = {
        "written for Temporal": lambda: converter.to_payloads([call]),
        "read from Temporal": lambda: converter.from_payloads([payload], [ServiceCall]),
        "built and dumped": lambda: to_json(built or build(request, api).body),
    }
    for step, run in steps.items():
        took_s = _seconds(run)
        for _ in range(7):  # a processor that others use too is slower at times
            took_s = min(took_s, _seconds(run)) if took_s > HELD_BY_A_REQUEST_S / 2 else took_s
        print(f"{kind}, {step}: {took_s * 1000:.0f} ms")
        assert took_s < HELD_BY_A_REQUEST_S, step


def _seconds(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


@pytest.mark.parametrize("kind", ["a compressed answer of zeros", "lists"])
async def test_no_answer_of_a_webhook_holds_the_event_loop(kind: str) -> None:
    """Its body is not read; what it says with its status is what counts."""
    server = ThreadedServer()
    server.raw = INPUTS[kind][1](7_900_000)
    with server.running() as url:
        alert = Alert(sequence=1, what="threshold", account="acme", text="half is spent", at_ms=0)
        activities = SendAlertsActivities(f"{url}/api/alerts")
        batch = Alerts(ledger="default", epoch="e", alerts=(alert,))
        found: list[object] = []

        async def send() -> None:
            try:
                found.append(await ActivityEnvironment().run(activities.send_alerts, batch))
            except ApplicationError as error:
                found.append(error)

        longest_s = await held_s(send)
    assert longest_s < LIMITS_S[7_900_000]
    assert found == [Delivery(delivered=(1,))]
