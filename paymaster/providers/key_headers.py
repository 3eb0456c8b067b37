"""How a key becomes a header, in the two ways that most providers share."""

from collections.abc import Callable

from paymaster.providers.provider import Outgoing
from paymaster.settings import ServiceSettings


def bearer(request: Outgoing, key: str, service: ServiceSettings) -> dict[str, str]:
    """`Authorization: Bearer …`, for keys and for tokens."""
    return {"authorization": f"Bearer {key}"}


def key_header(name: str) -> Callable[[Outgoing, str, ServiceSettings], dict[str, str]]:
    """The key alone, in a header of this name."""

    def authenticate(request: Outgoing, key: str, service: ServiceSettings) -> dict[str, str]:
        return {name: key}

    return authenticate
