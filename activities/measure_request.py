"""measure_request: what the bound of a request depends on whose body is stored, and so not in its workflow."""

import asyncio

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.request_bodies import BodyOutOfReach, RequestBodies
from paymaster.messages import Denied, LLMRequest
from paymaster.messages.call_steps import MeasuredRequest
from paymaster.providers.bounds import facts_of
from paymaster.stored_bodies import BodyGone
from paymaster.wire.measured import BadBody

WITHIN_S = 60.0
"""How long an attempt waits for room in this worker's memory."""


class MeasureRequestActivities:
    def __init__(self, bodies: RequestBodies) -> None:
        self._bodies = bodies
        self._turn = asyncio.Lock()

    @activity.defn
    async def measure_request(self, request: LLMRequest) -> MeasuredRequest:
        """Raises a retryable ApplicationError while the body cannot be had."""
        async with self._turn:  # to read the largest takes several times its size, and the interpreter, for a second
            try:
                async with self._bodies.whole(request, WITHIN_S) as asked:
                    await self._bodies.belongs_to(request, activity.info().workflow_id or "")
                    return MeasuredRequest(facts=await asyncio.to_thread(facts_of, asked))
            except BadBody as error:
                return _denied("bad_body", str(error))
            except BodyGone as error:
                return _denied("request_gone", f"the stored request {error}")
            except BodyOutOfReach as error:
                raise ApplicationError(f"the stored request cannot be read now: {error}") from error


def _denied(reason: str, detail: str) -> MeasuredRequest:
    return MeasuredRequest(denied=Denied(hold_id="", reason=reason, detail=detail))
