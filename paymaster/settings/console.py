"""The tables of `paymaster.toml` for the console: who may look, and who may change something."""

import ipaddress
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from paymaster.settings.kinds import AdminName, Duration, KeyName, check_http_url
from paymaster.settings.table import Table

ConsoleRole = Literal["viewer", "approver", "admin"]
"""viewer: sees everything. approver: raises caps and runs, too, and lets go on what waits. admin: does everything."""

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]

_Text = Annotated[str, Field(min_length=1, max_length=200)]


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(
                f'{network!r} is neither an address nor a network; write them like "127.0.0.1" or "10.0.0.0/8"'
            ) from None
    return networks


def _check_base_url(url: str) -> str:
    return check_http_url(url, allow_http=True)


class ConsoleKeySettings(Table):
    """Who may log in to the console, by a key of which the configuration has only the hash."""

    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key in hexadecimal: `printf %s "$KEY" | sha256sum`. The key is at least 32 random characters, such
    as `openssl rand -hex 32`. No default."""
    role: ConsoleRole = "viewer"
    """"viewer" sees everything, "approver" also raises caps and limits of runs and lets held runs go on, "admin" also
    sets caps, pauses and resumes services, and ends runs. Default "viewer"."""


class ConsoleProxySettings(Table):
    """A proxy in front that logs people in (OpenID Connect, such as oauth2-proxy), and says in a header who asks."""

    addresses: Annotated[tuple[str, ...], AfterValidator(_check_networks), Field(min_length=1)]
    """Where the proxy connects from: addresses and networks. What others write into the headers is not believed, and
    nobody else may be able to connect from there. No default."""
    user_header: HeaderName
    """The header with the user's name, which the proxy sets on every request and never passes on from outside:
    "X-Forwarded-Email". No default."""
    groups_header: HeaderName | None = None
    """The header with the user's groups, with commas between them. None, the default: groups are not looked at."""
    users: dict[_Text, ConsoleRole] = Field(default_factory=dict[str, ConsoleRole])
    """Roles of users, by name. Default {}."""
    groups: dict[_Text, ConsoleRole] = Field(default_factory=dict[str, ConsoleRole])
    """Roles of groups, by name; of several roles the one that may do most counts. Default {}."""
    others: ConsoleRole | None = None
    """The role of everybody else whom the proxy lets in. None, the default: they see nothing."""


class ConsoleSettings(Table):
    """The console at `/console` of `paymaster serve` ([page](console.md)). It is there when somebody may log in."""

    keys: dict[AdminName, ConsoleKeySettings] = Field(default_factory=dict[str, ConsoleKeySettings])
    """Who may log in with a key, by the name that is kept with each change. Default {}: nobody."""
    proxy: ConsoleProxySettings | None = None
    """None, the default: nobody is known by a header."""
    secret_key: KeyName | None = None
    """The NAME of a key (see `[keys]`) with a secret that all gateways share (`openssl rand -base64 32`), so that who
    has logged in at one is known at the others, and after a restart. None, the default: each gateway makes its own."""
    session_lasts: Duration = timedelta(hours=12)
    """How long a login lasts. Default "12h"."""
    temporal_ui: Annotated[str, AfterValidator(_check_base_url)] | None = None
    """Where people open the Temporal UI, such as "https://temporal.example.com" or "http://127.0.0.1:8233": calls link
    to it. None, the default: no links."""

    @property
    def is_on(self) -> bool:
        return bool(self.keys) or self.proxy is not None
