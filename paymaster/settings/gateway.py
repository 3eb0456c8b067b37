"""The tables of `paymaster.toml` for the gateway: where it listens, who may ask, and what it takes from anybody."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from paymaster.settings.gateway_admins import GatewayAdminSettings
from paymaster.settings.gateway_clients import GatewayClientSettings, JwtSettings
from paymaster.settings.gateway_slack import GatewaySlackSettings
from paymaster.settings.gateway_streams import GatewayStreamsSettings
from paymaster.settings.kinds import (
    AdminName,
    AtLeastOne,
    BudgetPath,
    ClientName,
    Duration,
    check_address,
    check_tls_files,
    is_loopback,
    not_a_boolean,
)
from paymaster.settings.problems import raise_at
from paymaster.settings.table import Table
from paymaster.values.limits import STORED_WIRE_BYTES_MAX


class GatewaySettings(Table):
    """What `paymaster serve` answers: all that the SDKs of OpenAI, Anthropic and Google send ([page](gateway.md))."""

    address: Annotated[str, AfterValidator(check_address)] = "127.0.0.1:4000"
    """Host and port to listen on. Beyond this machine (127.0.0.1, localhost) only clients are served, and over TLS
    unless `allow_http` is set. Default "127.0.0.1:4000"."""
    allow_http: bool = False
    """Listen beyond this machine without TLS, because a proxy with TLS is in front. Default false."""
    tls_certificate: Path | None = None
    """A PEM file with the certificate and those above it. None, the default: no TLS."""
    tls_key: Path | None = None
    """A PEM file with the certificate's private key. None, the default: no TLS."""
    budget: BudgetPath | None = None
    """What requests without a key are charged to, as long as there are no `clients` here, no `jwt`, and the gateway
    listens on this machine only. None, the default: a request without a key is refused."""
    clients: dict[ClientName, GatewayClientSettings] = Field(default_factory=dict[str, GatewayClientSettings])
    """Who may ask, by name. `paymaster clients create` makes others at run time. Default {}."""
    jwt: JwtSettings | None = None
    """None, the default: no tokens are taken."""
    admins: dict[AdminName, GatewayAdminSettings] = Field(default_factory=dict[str, GatewayAdminSettings])
    """Who may administrate over HTTP, by the name that the log has. Default {}: nobody."""
    wait_at_most: Duration = timedelta(seconds=50)
    """The longest time that a request waits for money, a limit or a service: then it is answered 429 or 503. Many
    proxies end a silent connection after 60 s. Default "50s"."""
    requests_at_once: AtLeastOne = 500
    """Requests that one client may have in flight in one gateway; more are answered 429. Default 500."""
    connections_max: AtLeastOne = 10_000
    """Open connections, with those in their TLS handshake; beyond it the one that has been idle for the longest time is
    closed. Default 10000, or what the system allows the process."""
    body_bytes_max: Annotated[int, BeforeValidator(not_a_boolean), Field(ge=1, le=STORED_WIRE_BYTES_MAX)] = (
        STORED_WIRE_BYTES_MAX
    )
    """Bytes of a request's body; a larger one is answered 413. At most, and by default, 33554432."""
    bodies_bytes_max: Annotated[int, BeforeValidator(not_a_boolean), Field(ge=1)] = 8 * STORED_WIRE_BYTES_MAX
    """Bytes of the bodies of all requests together that a gateway holds at once, of which bodies above a 256th of it
    take three quarters at most; what finds no room within 5 s is answered 503. A body takes room as it comes, and above
    that 256th for all of it; then it must come with 64 KB a second. At least twice `body_bytes_max`. Default
    268435456."""
    header_bytes_max: Annotated[int, BeforeValidator(not_a_boolean), Field(ge=1024)] = 64 * 1024
    """Bytes of a request's line and headers; larger ones are answered 431. Default 65536."""
    headers_within: Duration = timedelta(seconds=10)
    """The time that a client has for the headers of a request, from the connection or the first byte on; with TLS, for
    its handshake too. Default "10s"."""
    body_within: Duration = timedelta(seconds=60)
    """The time that a client has for the body of a request. Default "60s"."""
    send_timeout: Duration = timedelta(seconds=60)
    """How long a client may take nothing of an answer that is there; then the connection ends, and the call goes on.
    Whoever goes on reading, however slowly, gets all of it. Default "60s"."""
    idle_timeout: Duration = timedelta(seconds=75)
    """How long a connection is kept for a next request; more than the 60 s after which a proxy would give it up.
    Default "75s"."""
    grace_period: Duration = timedelta(seconds=60)
    """How long requests in flight may still take after SIGTERM. The calls of those that take longer go on in the worker
    where they have been sent, and are cancelled where not. Default "60s"."""
    health_address: Annotated[str, AfterValidator(check_address)] | None = None
    """Host and port, such as "127.0.0.1:8001", of an HTTP server with /live, /ready and /metrics (Prometheus). It
    has no password: let only the orchestrator and Prometheus reach it. None, the default: no such server."""

    slack: GatewaySlackSettings = GatewaySlackSettings()
    """Presses of buttons that Slack sends."""
    streams: GatewayStreamsSettings = GatewayStreamsSettings()
    """How streams come from workers, token by token."""

    @model_validator(mode="after")
    def _has_certificate_and_key(self) -> Self:
        check_tls_files(self.tls_certificate, self.tls_key)
        return self

    @model_validator(mode="after")
    def _has_room_for_bodies(self) -> Self:
        if self.bodies_bytes_max < 2 * self.body_bytes_max:
            problem = f"at least twice body_bytes_max, which is {self.body_bytes_max}"
            raise_at([(("bodies_bytes_max",), problem)])
        return self

    @model_validator(mode="after")
    def _is_not_open_to_others(self) -> Self:
        host = self.address.rpartition(":")[0].strip("[]")
        if is_loopback(host):
            return self
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.tls_certificate is None and not self.allow_http:
            problems.append(
                (
                    ("address",),
                    "keys and prompts would leave this machine unencrypted; set tls_certificate and tls_key, or "
                    "allow_http = true if a proxy with TLS is in front",
                )
            )
        if self.budget is not None:
            problems.append(
                (
                    ("budget",),
                    f"anybody who reaches {self.address} could spend it without a key; take it out and make clients, "
                    "or listen on 127.0.0.1",
                )
            )
        raise_at(problems)
        return self
