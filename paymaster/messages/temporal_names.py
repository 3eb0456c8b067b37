"""The names by which workflows, activities and callers find each other: task queues, workflow ids, error types."""

CALLS_TASK_QUEUE = "paymaster"
"""Call workflows with their short local activities. Agents start their children here."""

LEDGER_TASK_QUEUE = "paymaster-ledger"
"""The budget workflow alone: on the calls' queue the waiting `reserve`s hold every slot that could answer them."""

ACTIVITIES_TASK_QUEUE = "paymaster-activities"
"""Everything that waits for somebody else: services, deliveries."""

UNKNOWN_OUTCOME = "OutcomeUnknown"
"""Error type of an attempt that may have been billed. Never retried under the same hold."""

NOT_BILLED = "NotBilled"
"""Error type of an attempt that certainly was not billed."""

WORKER_LOST = "worker_lost"
"""The error class of an attempt whose worker was lost: when it began is only guessed."""

CONTEXT_TOO_LONG = "context_too_long"
"""The reason of a failure for which a candidate with a larger context is asked."""

BAD_SAMPLE = "bad_sample"
"""The reason of a failure after which the same model may do better: what it said is no answer."""

BILLED = "Billed"
"""Error type of an attempt that was billed at a known cost but without a usable answer. Never retried under the same
hold."""

ENCRYPTED = b"binary/encrypted"
"""The `encoding` of an encrypted payload, as Temporal's examples call it; workflows meet it when there is no key."""

CALL_WORKFLOW_PREFIX = "call/"


def call_workflow_id(call_id: str) -> str:
    return f"{CALL_WORKFLOW_PREFIX}{call_id}"


def backlog_workflow_id(ledger: str) -> str:
    """Those of its pieces begin with it and a slash."""
    return f"usage-backlog/{ledger}"


def call_id_of(workflow_id: str) -> str:
    return workflow_id.removeprefix(CALL_WORKFLOW_PREFIX)


def budget_workflow_id(ledger: str) -> str:
    return f"budget/{ledger}"
