"""The HTTP client that is handed to an SDK."""

import httpx2

from paymaster.transport import PaymasterTransport


def over(budget: str | None, route: str | None, transport: PaymasterTransport | None) -> httpx2.AsyncClient:
    """An HTTP client all of whose requests are calls. Raises TypeError without a budget and a transport."""
    if transport is None:
        if budget is None:
            raise TypeError("a budget is missing: budget='acme/agents', or transport=PaymasterTransport(…)")
        transport = PaymasterTransport(budget, route=route)
    return httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None)
