"""Which ledger a call is made in: the one that PaymasterPlugin names, on a client or on a worker; else the default one.

A request does not name it. A process asks several ledgers by a client, or a worker, for each.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, cast

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    WorkflowInterceptorClassInput,
)

from paymaster.messages.temporal_names import DEFAULT_LEDGER, LEDGER_FUNCTION

_of_worker: ContextVar[str] = ContextVar("paymaster_ledger", default=DEFAULT_LEDGER)
"""In an activity, the ledger that the plugin of its worker names: the worker's client need not have the plugin."""


class NamesLedger:
    """A plugin of a client by which it is known which ledger the client asks."""

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger


class TellsLedger(Interceptor):
    """Lets the workflows and activities of a worker know which ledger they ask."""

    def __init__(self, ledger: str) -> None:
        self._ledger = ledger

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> None:
        input.unsafe_extern_functions[LEDGER_FUNCTION] = lambda: self._ledger

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _OfActivity(next, self._ledger)


class _OfActivity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, ledger: str) -> None:
        super().__init__(next)
        self._ledger = ledger

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """In a task of its own, whose context the thread of a `def` activity has too."""
        _of_worker.set(self._ledger)
        return await super().execute_activity(input)


def ledger_of_client(client: Client) -> str:
    """The name of the ledger in which calls of this client are made."""
    named = [plugin.ledger for plugin in client.config()["plugins"] if isinstance(plugin, NamesLedger)]
    return named[-1] if named else _of_worker.get()


def ledger_of_agent() -> str:
    """The name of the ledger in which calls of this workflow are made, as the plugin of its worker tells it."""
    told = cast("Mapping[str, Callable[[], str]]", workflow.extern_functions()).get(LEDGER_FUNCTION)
    return DEFAULT_LEDGER if told is None else told()
