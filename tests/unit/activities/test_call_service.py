"""call_service itself: whatever comes over the wire and whenever it is cancelled, it says what may have been billed."""

import asyncio
import gzip
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import Caller, calling, failure_of
from searches import examples
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire import GRANT
from wire_answers import ANSWERS, replaced, sse

from activities.body_store import BodyStore, Prepared
from paymaster.calls.usage_records import entries_of, settlement_of
from paymaster.messages import (
    UNKNOWN_OUTCOME,
    Billing,
    CallRef,
    Completion,
    UsageRecord,
)
from paymaster.settings import Api

CALL = CallRef(workflow_id="call/7", run_id="run-1")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def caller(runner: asyncio.Runner) -> Iterator[Caller]:
    """On a loop of its own, which hypothesis's examples share."""
    running = calling()
    yield runner.run(running.__aenter__())
    runner.run(running.__aexit__(None, None, None))


@st.composite
def answers(draw: st.DrawFn) -> tuple[Api, bytes]:
    """A service, and what it sends: an answer with anything changed in its status, its head or its body; or noise."""
    api: Api = draw(st.sampled_from(sorted(ANSWERS)))
    if draw(st.integers(0, 9)) == 0:
        return api, draw(st.binary(max_size=300))
    whole, stream, _ = ANSWERS[api]
    streamed = draw(st.booleans())
    body = stream.encode() if streamed else json.dumps(replaced(whole, draw)).encode()
    body = bytearray(draw(st.one_of(st.just(body), st.just(b""), st.just(b"<html>"), st.binary(max_size=50))))
    if body and draw(st.booleans()):
        body[draw(st.integers(0, len(body) - 1))] ^= 1 << draw(st.integers(0, 7))
    head = [f"content-type: {'text/event-stream' if streamed else draw(st.sampled_from(['application/json', '']))}"]
    if draw(st.integers(0, 4)) == 0:
        head.append("content-encoding: gzip")
        body = bytearray(draw(st.sampled_from([bytes(body), gzip.compress(body), gzip.compress(body)[:-9]])))
    wrong = draw(st.sampled_from([0, 0, 0, 1, -1, 50]))
    head.append(draw(st.sampled_from([f"content-length: {max(0, len(body) + wrong)}", "transfer-encoding: chunked"])))
    strange = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
    for name in ("retry-after", "retry-after-ms", "x-request-id", "x-should-retry", "x-ratelimit-reset-tokens"):
        if draw(st.integers(0, 3)) == 0:
            head.append(f"{name}: {draw(strange | st.integers().map(str))}")
    status = draw(st.one_of(st.sampled_from([200, 204, 400, 429, 500, 529]), st.integers(0, 1_200)))
    return api, "\r\n".join([f"HTTP/1.1 {status} x", *head, "", ""]).encode("latin-1") + bytes(body)


@settings(max_examples=examples(150), deadline=None)
@given(sent=answers())
def test_whatever_comes_over_the_wire_is_an_answer_or_a_classified_failure_with_a_row(
    runner: asyncio.Runner, caller: Caller, sent: tuple[Api, bytes]
) -> None:
    """And when it may have been billed it is charged at its bound and never sent again under the same hold."""
    api, caller.server.raw = sent
    found = runner.run(asyncio.wait_for(caller.call(api), 30))
    attempts = found.attempts if isinstance(found, Completion) else failure_of(found).attempts
    (attempt,) = attempts
    assert attempt.error_class != "defect"
    record = UsageRecord(call=CALL, grant=GRANT, attempts=attempts, answered=isinstance(found, Completion))
    (entry,) = entries_of(record, "default")
    assert settlement_of(record).cost_nanos == entry.cost_nanos
    if isinstance(found, ApplicationError):
        assert attempt.error_class
        assert (attempt.billing is Billing.NOT_BILLED) or found.non_retryable
        assert (found.type == UNKNOWN_OUTCOME) is (attempt.billing is Billing.UNKNOWN)


async def test_a_defect_is_charged_unless_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither retried, as the policy would have any other error, nor told with what it saw."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a defect with the key sk-live-0123 in its text")

    async with calling() as caller:
        caller.server.raw = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
        before = await caller.call("broken")
        monkeypatch.setattr("paymaster.providers.exchange.read_answer", fails)
        after = await caller.call("openai")
    for error, kind, billing, text in (
        (before, "NotBilled", Billing.NOT_BILLED, "nothing was sent: RuntimeError"),
        (after, UNKNOWN_OUTCOME, Billing.UNKNOWN, "RuntimeError"),
    ):
        assert isinstance(error, ApplicationError)
        assert (error.type, error.non_retryable) == (kind, True)
        (attempt,) = failure_of(error).attempts
        assert (attempt.error_class, attempt.billing, attempt.error) == ("defect", billing, text)
        assert "sk-live" not in str(error)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_a_response_that_is_queued_is_charged_at_its_bound(streamed: bool) -> None:
    """It is never asked for again under the same hold: the service may still make and bill it."""
    response = {"id": "resp_1", "status": "queued", "background": True, "output": [], "usage": None}
    body, kind = json.dumps(response), "application/json"
    if streamed:
        body, kind = sse({"type": "response.queued", "response": response}), "text/event-stream"
    async with calling() as caller:
        caller.server.raw = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n{body}".encode()
        error = await caller.call("openai-responses")
    assert isinstance(error, ApplicationError)
    assert (error.type, error.non_retryable) == (UNKNOWN_OUTCOME, True)
    failure = failure_of(error)
    assert (failure.reason, failure.fall_back, failure.unknown) == ("malformed_answer", True, True)
    grant = GRANT.model_copy(update={"bound_nanos": 1_000})
    (entry,) = entries_of(UsageRecord(call=CALL, grant=grant, attempts=failure.attempts, answered=False), "default")
    assert (entry.state, entry.cost_nanos) == ("unconfirmed", 1_000)


async def test_the_alert_of_a_pause_of_days_says_how_to_end_it() -> None:
    async with calling() as caller:
        caller.server.raw = b"HTTP/1.1 429 x\r\nretry-after: 259200\r\ncontent-length: 0\r\n\r\n"
        await caller.call("openai")
    (report,) = caller.reported
    assert report.pause_ms == 3 * 86_400_000
    assert str(report.alert).endswith(
        "nothing is sent there for 3.0 days, unless somebody ends that: `paymaster services resume openai`"
    )


async def test_a_call_that_is_cancelled_while_it_reports_a_failure_still_says_what_it_may_cost() -> None:
    """Else the workflow would take it for one that was never sent, and charge nothing."""
    async with calling() as caller:
        caller.server.raw = b"HTTP/1.1 502 x\r\ncontent-length: 0\r\n\r\n"
        caller.may_report.clear()
        environment = ActivityEnvironment()
        call = asyncio.create_task(caller.call("openai", environment))
        await caller.reporting.wait()
        environment.cancel()
        error = await call
    assert isinstance(error, ApplicationError)
    (attempt,) = failure_of(error).attempts
    assert (attempt.http_status, attempt.billing) == (502, Billing.UNKNOWN)


class Stores(BodyStore):
    """Has something else to do first."""

    def __init__(self) -> None:
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()

    async def store(self, prepared: Prepared, workflow_id: str) -> None:
        self.asked.set()
        await self.goes_on.wait()


async def test_an_answer_that_waits_to_be_stored_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: longer than an attempt that hangs."""
    monkeypatch.setattr("activities.call_service.HEARTBEAT_EVERY_S", 0.001)
    monkeypatch.setattr("activities.call_service.BEATS_MARGIN_S", -1.0)
    environment, beat = ActivityEnvironment(), asyncio.Event()
    environment.on_heartbeat = lambda *details: beat.set()
    answer = json.dumps({"choices": [{"message": {"content": "x" * 2_000_000}}], "usage": {"prompt_tokens": 1}})
    async with calling() as caller:
        caller.bodies = stores = Stores()
        caller.server.raw = f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode()
        call = asyncio.create_task(caller.call("openai", environment))
        await stores.asked.wait()
        beat.clear()
        await asyncio.wait_for(beat.wait(), 10)
        stores.goes_on.set()
        error = await call
    assert isinstance(error, ApplicationError)
    failure = failure_of(error)
    assert failure.reason == "answer_too_large"
    assert failure.wire is not None
    assert failure.wire.stored is not None


@pytest.mark.parametrize("step", ["prepared", "store"])
async def test_a_cancelled_call_says_what_its_large_answer_cost(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Else the workflow would take it for one that was never sent."""
    answer = json.dumps({"choices": [{"message": {"content": "x" * 2_000_000}}], "usage": {"prompt_tokens": 1}})
    environment, begun = ActivityEnvironment(), asyncio.Event()

    async def takes_long(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with calling() as caller:
        caller.bodies = Stores()
        monkeypatch.setattr(BodyStore if step == "prepared" else Stores, step, takes_long)
        caller.server.raw = f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode()
        call = asyncio.create_task(caller.call("openai", environment))
        await begun.wait()
        environment.cancel()
        error = await call
    assert isinstance(error, ApplicationError)
    (attempt,) = failure_of(error).attempts
    assert (failure_of(error).reason, attempt.http_status, error.non_retryable) == ("answer_not_stored", 200, True)


async def test_an_attempt_that_hangs_stops_saying_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporal ends it then; its start-to-close timeout is for answers that wait for the database."""
    monkeypatch.setattr("activities.call_service.HEARTBEAT_EVERY_S", 0.001)
    monkeypatch.setattr("activities.call_service.BEATS_MARGIN_S", 0.2)
    beats: list[float] = []
    environment, clock = ActivityEnvironment(), asyncio.get_running_loop().time

    async def hangs(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("paymaster.providers.exchange.Exchange.attempt", hangs)
    environment.on_heartbeat = lambda *details: beats.append(clock())
    async with calling() as caller:
        call, began = asyncio.create_task(caller.call("openai", environment)), clock()
        await asyncio.sleep(0.6)
        assert not call.done()
        call.cancel()
    assert beats
    assert beats[-1] - began < 0.4
