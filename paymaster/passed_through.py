"""What the sandbox of workflows does not import anew for each run: Paymaster, and SDKs that work in workflows."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

from pydantic import ValidationError
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

RunnerT = TypeVar("RunnerT", bound=SandboxedWorkflowRunner)

_SDKS: Mapping[str, tuple[str, ...]] = {
    "paymaster": ("paymaster.agent", "paymaster.purchases"),
    "httpx2": ("httpcore2", "anyio._backends._asyncio"),
    "openai": ("openai.resources.chat.completions", "openai.resources.responses", "openai.resources.embeddings"),
    "anthropic": (
        "anthropic.resources.messages",
        "anthropic.resources.beta.messages",
        "opentelemetry.propagate",
        "opentelemetry.trace",
    ),
    "google.genai": ("google.auth.aio.credentials",),
    "pydantic_ai": (),
    "agents": (),
    "langchain_core": (),
    "langgraph": (),
}
"""By package, the parts that it or its users import only when they are first used, which in a workflow would take too
long for its task."""
_FAILURES: Mapping[str, tuple[str, str]] = {
    "httpx2": ("httpx2", "HTTPError"),
    "openai": ("openai", "APIError"),
    "anthropic": ("anthropic", "APIError"),
    "google.genai": ("google.genai.errors", "APIError"),
    "pydantic_ai": ("pydantic_ai.exceptions", "AgentRunError"),
    "agents": ("agents.exceptions", "AgentsException"),
}
"""By package, the class of its errors that say that a request failed."""
_PASSED = (
    *_SDKS,
    "anyio",
    "distro",
    "genai_prices",
    "google.auth",
    "griffe",
    "httpcore2",
    "jiter",
    "langchain_protocol",
    "langsmith",
    "logfire_api",
    "mcp",
    "opentelemetry",
    "ormsgpack",
    "pydantic_graph",
    "sniffio",
    "tenacity",
    "truststore",
    "uuid_utils",
    "xxhash",
)


class _Sandbox(SandboxedWorkflowRunner):
    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        types = [*det.worker_level_failure_exception_types, *failure_types()]
        return super().create_instance(replace(det, worker_level_failure_exception_types=types))


def sandbox() -> SandboxedWorkflowRunner:
    """Temporal's sandbox for a worker whose workflows use Paymaster, or an SDK over it.

    `Worker(…, workflow_runner=paymaster.sandbox())`, after the imports of the workflows and SDKs. There a workflow
    fails with a failed request that it does not catch, whose task another sandbox would have tried again for ever.
    PaymasterPlugin does all of this too.
    """
    return passing_through(_Sandbox())


def failure_types() -> list[type[BaseException]]:
    """The errors of a request that fail the workflow which does not catch them: a mistake in it, and what the SDKs that
    are imported say of one that failed."""
    loaded = (named for package, named in _FAILURES.items() if package in sys.modules)
    return [ValidationError, *(getattr(import_module(module), name) for module, name in loaded)]


def passing_through(runner: RunnerT) -> RunnerT:
    """The runner with these modules passed through, beside its own."""
    for package, parts in _SDKS.items():
        if package in sys.modules:
            for part in parts:
                if _exists(part):
                    import_module(part)
    return replace(runner, restrictions=runner.restrictions.with_passthrough_modules(*_PASSED))


def with_sandbox(runner: WorkflowRunner | None) -> WorkflowRunner:
    """A worker's runner, which passes these modules through where it is a sandbox. None: the SDK's default."""
    if runner is None:
        return sandbox()
    return passing_through(runner) if isinstance(runner, SandboxedWorkflowRunner) else runner


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False
