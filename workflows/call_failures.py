"""How an activity that called a service failed, for the call whose activity it was."""

from temporalio import exceptions, workflow

from paymaster.messages import WORKER_LOST, Attempt, Billing, Failure

UNREAD_ARGUMENTS = "Failed decoding arguments"
"""What the SDK says of an activity that did not begin: this worker lacks a key, a codec or a storage."""


def failure_of(error: exceptions.ActivityError, now_ms: int) -> Failure:
    """What the activity said before it failed, or what it last reported. When in doubt something was sent."""
    cause = error.cause
    if isinstance(cause, exceptions.ApplicationError) and cause.details:
        return Failure.model_validate(cause.details[0])
    if (
        isinstance(cause, exceptions.ApplicationError)
        and cause.message == UNREAD_ARGUMENTS
        and workflow.patched("what-cannot-be-read-is-not-sent")  # version 0.1.0 charged it
    ):
        return Failure(attempts=(), reason="not_sent", detail=f"a worker cannot read the call: {cause.cause}")
    if isinstance(cause, exceptions.CancelledError):
        # Before any worker took it, or while it waited to be retried: nothing was sent since the last report.
        return Failure(attempts=(), reason="not_sent", detail=str(cause))
    earlier: tuple[Attempt, ...] = ()
    if isinstance(cause, exceptions.TimeoutError):
        earlier = tuple(Attempt.model_validate(attempt) for attempt in cause.last_heartbeat_details)
        if cause.type == exceptions.TimeoutType.SCHEDULE_TO_START:
            return Failure(attempts=earlier, reason="no_worker", detail="no worker took the call in time")
    lost = Attempt(
        number=len(earlier) + 1,
        started_at_ms=now_ms,
        duration_ms=0,
        billing=Billing.UNKNOWN,
        error_class=WORKER_LOST,
        error=str(cause),
    )
    detail = "the worker was lost during the call, which may have been billed"
    return Failure(attempts=(*earlier, lost), reason=WORKER_LOST, detail=detail, unknown=True)
