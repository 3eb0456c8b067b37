"""Who asks, by the key in a request's headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from urllib.parse import urlsplit

from paymaster.settings import GatewaySettings
from paymaster.settings.kinds import is_loopback

NOBODY = "anybody-here"
"""The name of whoever asks a gateway that has no clients and listens on its own machine only."""
_KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")


@dataclass(frozen=True)
class ClientTerms:
    """What a client may do."""

    name: str
    budget: str
    """What it is charged to, or a budget below it."""
    routes: frozenset[str] | None = None
    """The routes, and `service/model`, that it may ask for. None: all."""
    expires_at: datetime | None = None
    requests_at_once: int | None = None
    """None: the gateway's."""
    run: str | None = None
    """The run that all its requests count for. None: they may name one."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Stored with every attempt."""


class NotAClient(Exception):
    """Whoever asks is not let in, or nobody can tell."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail


class Clients:
    def __init__(self, settings: GatewaySettings) -> None:
        self._budget = settings.budget
        self._by_hash = {
            table.key_sha256: ClientTerms(
                name,
                table.budget,
                routes=None if table.routes is None else frozenset(table.routes),
                requests_at_once=table.requests_at_once,
            )
            for name, table in settings.clients.items()
        }

    async def of(self, headers: Mapping[str, str]) -> ClientTerms:
        """Who sent these headers, by their names in lower case. Raises NotAClient."""
        if not self._by_hash:
            return self._anybody_here(headers)
        key = _key_in(headers)
        if key is None:
            detail = "send your key as `Authorization: Bearer …`, `x-api-key`, `api-key` or `x-goog-api-key`"
            raise NotAClient(401, "no_key", detail)
        # Of a hash nothing can be learned by how long it is looked for.
        terms = self._by_hash.get(sha256(key.encode()).hexdigest())
        if terms is None:
            raise NotAClient(401, "unknown_key", "nobody has this key here")
        return terms

    def _anybody_here(self, headers: Mapping[str, str]) -> ClientTerms:
        """A page that a browser on this machine shows is not let in, wherever its name leads to."""
        if self._budget is None:
            detail = "this gateway has no clients: make one, or set gateway.budget for requests without a key"
            raise NotAClient(401, "no_clients", detail)
        hosts = [f"//{headers.get('host', 'localhost')}", headers.get("origin", "//localhost")]
        if not all(_is_here(host) for host in hosts):
            raise NotAClient(403, "not_from_here", "without clients only programs on this machine are served")
        return ClientTerms(NOBODY, self._budget)


def _is_here(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _key_in(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return next((headers[name] for name in _KEY_HEADERS if headers.get(name)), None)
