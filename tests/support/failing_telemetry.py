"""A worker's activities while everything of OpenTelemetry raises: run as a program, it prints how they ended.

Its argument says whether spans cannot even be begun ("fail when they begin") or fail afterwards ("fail afterwards").
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from opentelemetry import metrics, trace
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput
from wire import GRANT

from paymaster.messages import (
    Alert,
    Attempt,
    Billing,
    CallRef,
    Completion,
    Denied,
    Failure,
    LLMRequest,
    Notices,
    Reservation,
    ServiceCall,
    UsageRecord,
)
from paymaster.observability.measurements import (
    Measurements,
    http_request,
    measure_batch,
    measure_event_loop_delay,
    measure_turn,
    rows_stored,
)

ATTEMPT = Attempt(number=1, started_at_ms=0, duration_ms=1, billing=Billing.NOT_BILLED, error_class="overloaded")


class Fails:
    """An instrument, a span or a tracer of which nothing works."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no telemetry today")


class FailingMeter(metrics.NoOpMeter):
    def create_counter(self, *arguments: Any, **named: Any) -> Any:
        return Fails()

    def create_histogram(self, *arguments: Any, **named: Any) -> Any:
        return Fails()


class FailingMeters(metrics.NoOpMeterProvider):
    def get_meter(self, *arguments: Any, **named: Any) -> metrics.Meter:
        return FailingMeter("paymaster")


class TracerOfFailingSpans(trace.NoOpTracer):
    def start_span(self, *arguments: Any, **named: Any) -> Any:
        return Fails()


class FailingTracers(trace.NoOpTracerProvider):
    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def get_tracer(self, *arguments: Any, **named: Any) -> trace.Tracer:
        return self._tracer


class Activity(ActivityInboundInterceptor):
    """In the place of the SDK's: runs what it is given."""

    def __init__(self, run: Callable[[], Awaitable[Any]]) -> None:
        self._run = run

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        return await self._run()


async def ended(kind: str, argument: Any, run: Callable[[], Awaitable[Any]]) -> str:
    """How the activity of this type ends through the interceptor."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, activity_type=kind)
    interceptor = Measurements({}, record_content=True).intercept_activity(Activity(run))
    given = ExecuteActivityInput(fn=run, args=[argument], executor=None, headers={})
    try:
        return str(await environment.run(interceptor.execute_activity, given))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def completed() -> Completion:
    with http_request("POST", "https://example.com/v1") as answered:
        answered(200)
    return Completion(text="sunny", finish_reason="stop", attempts=(ATTEMPT,))


async def failed() -> Completion:
    raise ApplicationError("overloaded", Failure(attempts=(ATTEMPT,), reason="overloaded", detail="later"))


async def denied() -> Reservation:
    return Reservation(answer=Denied(hold_id="h/1", reason="no_candidate", detail="none is left"))


async def recorded() -> str:
    with rows_stored(()):
        return "stored"


async def delivered() -> tuple[int, ...]:
    return (1,)


async def main() -> None:
    call = ServiceCall(grant=GRANT, request=LLMRequest(route="r", budget="b", prompt="How is the weather?"))
    record = UsageRecord(
        call=CallRef(workflow_id="call/1", run_id="r"), grant=GRANT, attempts=(ATTEMPT,), answered=True
    )
    alert = Alert(sequence=1, at_ms=0, what="threshold", text="Near the cap.")
    measure_batch(3)
    measure_turn(0.1)
    measure_event_loop_delay(0.1)
    how = {
        "completed": await ended("call_service", call, completed),
        "failed": await ended("call_service", call, failed),
        "denied": await ended("reserve", None, denied),
        "recorded": await ended("record_usage", record, recorded),
        "delivered": await ended("store_notices", Notices(ledger="l", epoch="e", notices=(alert,)), delivered),
    }
    print(json.dumps(how))


if __name__ == "__main__":
    metrics.set_meter_provider(FailingMeters())
    trace.set_tracer_provider(
        FailingTracers(Fails() if sys.argv[1] == "fail when they begin" else TracerOfFailingSpans())
    )
    asyncio.run(main())
