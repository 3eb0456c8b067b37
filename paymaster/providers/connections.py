"""The pooled HTTP connections to services."""

from collections.abc import Mapping

import httpcore
import httpx

from paymaster.providers.decompression import ACCEPT_ENCODING
from paymaster.providers.network import quick_transport
from paymaster.providers.proxies import proxy_for
from paymaster.providers.tls import tls_context
from paymaster.settings import ServiceSettings
from paymaster.values.limits import HEADERS_BYTES_MAX

CONNECTIONS_MAX = 1_000
"""For each service and process; how many calls run at once is decided by the ledger, not here."""
CONNECT_TIMEOUT_S = 10.0
IDLE_MAX_S = 0.75
"""After it a connection is not used again. Servers close theirs after a second or more (five is usual), and a request
that meets such a close may have arrived: it is charged at its bound. A new connection takes little beside a model."""
_READ_BYTES = 16 * 1024
"""Taken from a connection at once. Headers are checked against their bound only between two of these."""


class Connections:
    """One pooled HTTP client for each service, all closed together."""

    def __init__(self, services: Mapping[str, ServiceSettings]) -> None:
        """Raises ConfigurationError when a service's `ca_bundle` cannot be used."""
        _bound_headers()
        limits = httpx.Limits(
            max_connections=CONNECTIONS_MAX, max_keepalive_connections=100, keepalive_expiry=IDLE_MAX_S
        )
        self._clients = {
            name: httpx.AsyncClient(
                headers={"accept-encoding": ACCEPT_ENCODING},
                timeout=httpx.Timeout(service.timeout.total_seconds(), connect=CONNECT_TIMEOUT_S),
                transport=quick_transport(
                    verify=tls_context(f"services.{name}", service.ca_bundle),
                    limits=limits,
                    proxy=proxy_for(service.base_url),
                ),
                follow_redirects=False,  # a redirect would carry the key to wherever it leads
                trust_env=False,  # what it says of proxies is read by us: httpx raises for what it cannot read
            )
            for name, service in services.items()
        }

    def __getitem__(self, service: str) -> httpx.AsyncClient:
        return self._clients[service]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def _bound_headers() -> None:
    """For every HTTP connection of this process: httpx passes these two limits of its transport on to nobody."""
    connection = httpcore.AsyncHTTP11Connection
    connection.MAX_INCOMPLETE_EVENT_SIZE = HEADERS_BYTES_MAX  # pyright: ignore[reportAttributeAccessIssue] - a figure
    connection.READ_NUM_BYTES = _READ_BYTES  # pyright: ignore[reportAttributeAccessIssue] - a figure
