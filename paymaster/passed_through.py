"""What the sandbox of workflows does not import anew for each run: Paymaster, and SDKs that work in workflows."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

_SDKS: Mapping[str, tuple[str, ...]] = {
    "httpx2": ("httpcore2", "anyio._backends._asyncio"),
    "openai": ("openai.resources.chat.completions", "openai.resources.responses", "openai.resources.embeddings"),
    "anthropic": ("anthropic.resources.messages", "anthropic.resources.beta.messages"),
    "google.genai": ("google.auth.aio.credentials",),
    "pydantic_ai": (),
    "agents": (),
    "langchain_core": (),
    "langgraph": (),
}
"""By package, the parts that it or its users import only when they are first used, which in a workflow would take too
long for its task."""
_PASSED = (
    "paymaster",
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


def sandbox() -> SandboxedWorkflowRunner:
    """Temporal's sandbox for a worker whose workflows use Paymaster, or an SDK over it.

    `Worker(…, workflow_runner=paymaster.sandbox())`, after the imports of the workflows and their SDKs. PaymasterPlugin
    does it too.
    """
    return passing_through(SandboxedWorkflowRunner())


def passing_through(runner: SandboxedWorkflowRunner) -> SandboxedWorkflowRunner:
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
