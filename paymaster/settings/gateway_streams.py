"""The table `[gateway.streams]`: how workers hand on to a gateway what a provider says, while it comes."""

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator

from paymaster.settings.kinds import AtLeastOne, Duration, KeyName, check_address, check_tls_files, is_loopback
from paymaster.settings.problems import raise_at
from paymaster.settings.table import Table

_HOST = r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        name = host.removeprefix("http://")
        if _network(name) is None and not re.fullmatch(_HOST, name):
            raise ValueError(
                f'{host!r} is no host; write a name like "gateway.internal", an address, or a network like '
                '"10.0.0.0/8"; and "http://gateway.internal" to do without TLS'
            )
    return hosts


def _check_origin(url: str) -> str:
    """Scheme, host and port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or "@" in parts.netloc:
        raise ValueError('not an address; write scheme, host and port, like "https://gateway-1.internal:7301"')
    if url != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(f'write scheme, host and port only: "{parts.scheme}://{parts.netloc}"')
    return url


class GatewayStreamsSettings(Table):
    """Streams to the gateway's callers, token by token: workers send them to the gateway that waits. Gateways and
    workers have the same table."""

    secret_key: KeyName | None = None
    """The NAME of a key (see `[keys]`) with a secret that gateways and workers share (`openssl rand -base64 32`). With
    it a gateway signs where an answer goes, and a worker proves to be one. None, the default: nothing is sent to
    gateways, and callers get their streams when they are complete."""
    listen: Annotated[str, AfterValidator(check_address)] = "127.0.0.1:0"
    """Host and port where a gateway takes streams from workers, and nothing else; port 0 is a free one. Default
    "127.0.0.1:0"."""
    address: Annotated[str, AfterValidator(_check_origin)] | None = None
    """How workers reach this gateway's `listen`: scheme, host and port, such as "https://gateway-1.internal:7301".
    None, the default: as it listens."""
    tls_certificate: Path | None = None
    """A PEM file with the certificate of `listen` and those above it. None, the default: no TLS."""
    tls_key: Path | None = None
    """A PEM file with the certificate's private key. None, the default: no TLS."""
    ca_bundle: Path | None = None
    """A PEM file with the certificates that workers trust there. None, the default: those of the system."""
    workers_reach: Annotated[tuple[str, ...], AfterValidator(_check_hosts)] = ("127.0.0.0/8", "::1", "localhost")
    """The hosts to which a worker sends streams, whatever is signed: names, "*.internal" for all below one, addresses
    and networks; "http://" before one allows it without TLS, as always for this machine. Default ["127.0.0.0/8", "::1",
    "localhost"]."""
    waits_for_reader: Duration = timedelta(seconds=5)
    """How long a caller who reads slowly may hold up the worker in all, within one stream; then the worker goes on
    without it, and the caller gets the rest from the result. Default "5s"."""
    at_once: AtLeastOne = 1_000
    """Streams that one gateway takes at once; beyond them callers get theirs when they are complete. Default 1000."""

    @model_validator(mode="after")
    def _has_certificate_and_key(self) -> Self:
        check_tls_files(self.tls_certificate, self.tls_key)
        return self

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        host = self.listen.rpartition(":")[0].strip("[]")
        if host in ("0.0.0.0", "::") and self.address is None:  # noqa: S104 - it is asked for
            raise_at([(("address",), f"workers cannot reach {self.listen!r}; say how they reach this gateway")])
        return self

    def is_reached(self, address: str) -> bool:
        """Whether a worker may send a stream there."""
        try:
            parts = urlsplit(_check_origin(address))
        except ValueError:
            return False
        host = (parts.hostname or "").lower()
        return any(
            _covers(allowed.removeprefix("http://"), host)
            for allowed in self.workers_reach
            if parts.scheme == "https" or allowed.startswith("http://") or is_loopback(host)
        )


def _network(written: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(written.strip("[]"), strict=False)
    except ValueError:
        return None


def _covers(allowed: str, host: str) -> bool:
    network, address = _network(allowed), _network(host)
    if network is None or address is None:
        return host.endswith(allowed[1:].lower()) if allowed.startswith("*.") else host == allowed.lower()
    return address.network_address in network
