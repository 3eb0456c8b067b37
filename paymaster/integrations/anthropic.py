"""Anthropic's SDK over Paymaster: `AsyncAnthropic(budget="acme/agents")`, in workflows, activities and elsewhere."""

from typing import Any

import anthropic
import httpx2

from paymaster.integrations.http_client import over
from paymaster.transport import PaymasterTransport

__all__ = ["AsyncAnthropic"]


class AsyncAnthropic(anthropic.AsyncAnthropic):
    """Anthropic's client, each of whose messages is a call under the budget.

    A workflow that makes one needs a worker with `workflow_runner=paymaster.sandbox()` or PaymasterPlugin. It needs no
    key and reads no environment; what else it would send is refused. Its own retries are off, since calls are retried
    by their workers.
    """

    def __init__(
        self,
        budget: str | None = None,
        *,
        route: str | None = None,
        transport: PaymasterTransport | None = None,
        http_client: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        """`route` None: the model that a request names. `transport`: instead of both, for its further terms. `options`
        and `http_client` are Anthropic's; `client.with_options(…)` gives them on."""
        if not options.keys() & {"auth_token", "credentials", "config", "profile"}:
            options.setdefault("api_key", "paymaster")
        options = {"base_url": "https://api.anthropic.com", "max_retries": 0, **options}
        super().__init__(http_client=http_client or over(budget, route, transport), **options)
        self._platform = (
            "Unknown"  # else it asks a thread, which a workflow has not; the header that says it is dropped
        )
