"""OpenAI's SDK over Paymaster: `AsyncOpenAI(budget="acme/agents")`, in workflows, activities and anywhere else."""

from typing import Any

import httpx2
import openai

from paymaster.integrations.http_client import over
from paymaster.transport import PaymasterTransport

__all__ = ["AsyncOpenAI"]


class AsyncOpenAI(openai.AsyncOpenAI):
    """OpenAI's client, each of whose requests is a call under the budget: chat completions, responses, embeddings.

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
        and `http_client` are OpenAI's; `client.with_options(…)` gives them on."""
        options = {"api_key": "paymaster", "base_url": "https://api.openai.com/v1", "max_retries": 0, **options}
        super().__init__(http_client=http_client or over(budget, route, transport), **options)
        self._platform = (
            "Unknown"  # else it asks a thread, which a workflow has not; the header that says it is dropped
        )
