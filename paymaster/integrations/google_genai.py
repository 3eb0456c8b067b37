"""Google's SDK over Paymaster: `Client(budget="acme/agents").aio.models`, in workflows, activities and elsewhere."""

import google.genai
import httpx2
from google.genai.types import HttpOptions

from paymaster.integrations.http_client import over
from paymaster.transport import PaymasterTransport

__all__ = ["Client"]


class Client(google.genai.Client):
    """Google's client, each of whose `aio.models` requests is a call under the budget: contents, streams, embeddings.

    A workflow that makes one needs a worker with `workflow_runner=paymaster.sandbox()` or PaymasterPlugin. It needs no
    key and reads no environment; what else it would send is refused. Its own retries are off, since calls are retried
    by their workers.
    """

    def __init__(
        self, budget: str | None = None, *, route: str | None = None, transport: PaymasterTransport | None = None
    ) -> None:
        """`route` None: the model that a request names. `transport`: instead of both, for its further terms."""
        super().__init__(
            vertexai=False,
            api_key="paymaster",
            http_options=HttpOptions(
                # For what goes around the HTTP clients, such as the Live API: it must reach nobody.
                base_url="https://paymaster.invalid/",
                api_version="v1beta",
                httpx_async_client=over(budget, route, transport),
                httpx_client=httpx2.Client(transport=_Refusing(), trust_env=False),
                async_client_args={"ssl": True},  # else it reads certificates, which takes longer than a workflow may
            ),
        )


class _Refusing(httpx2.BaseTransport):
    """Of the synchronous half of the client."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError(
            "it was not sent, since it would be under no budget: use client.aio.models, or in a thread a genai.Client "
            "with http_options={'httpx_client': httpx2.Client(transport=SyncPaymasterTransport(…))}"
        )
