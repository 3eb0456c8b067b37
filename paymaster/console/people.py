"""Who looks at the console: by the session of a login with a key, or by the header of a proxy that is trusted."""

import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from starlette.requests import Request

from paymaster.console.guesses import Guesses
from paymaster.console.sessions import Session, Sessions
from paymaster.gateway.admin.who import Admin
from paymaster.settings import ConsoleProxySettings, ConsoleRole, ConsoleSettings
from paymaster.settings.gateway_admins import AdminRight
from paymaster.settings.kinds import is_loopback

_RANKS: Mapping[ConsoleRole, int] = {"viewer": 0, "approver": 1, "admin": 2}
_MAY: Mapping[ConsoleRole, frozenset[AdminRight]] = {
    "viewer": frozenset(),
    "approver": frozenset(("budgets", "runs")),
    "admin": frozenset(("budgets", "services", "runs")),
}
"""What the ledger's administration lets them do at most; each action of the console names the role that it is for."""
_NAME_CHARACTERS_MAX = 200


class NoRole(Exception):
    """The proxy says who it is, and the configuration gives that user nothing."""


class TooManyGuesses(Exception):
    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many wrong keys; the next one is looked at in {wait_s:.0f} s")
        self.wait_s = wait_s


@dataclass(frozen=True)
class Person:
    name: str
    role: ConsoleRole
    session_id: str
    """What the tokens of this person's forms are made of."""
    by_key: bool
    """Logged in here, and can log out."""

    def is_at_least(self, role: ConsoleRole) -> bool:
        return _RANKS[self.role] >= _RANKS[role]

    @property
    def admin(self) -> Admin:
        """Who commands, for the administration."""
        return Admin(self.name, _MAY[self.role], None)


class People:
    def __init__(self, settings: ConsoleSettings, sessions: Sessions, *, beyond_this_machine: bool) -> None:
        """`beyond_this_machine`: others than this machine can connect, so that there is TLS, here or in a proxy."""
        self._keys = settings.keys
        self._proxy = None if settings.proxy is None else _Proxy(settings.proxy)
        self._sessions = sessions
        self._always_tls = beyond_this_machine
        self._guesses = Guesses()

    @property
    def log_in_by_key(self) -> bool:
        return bool(self._keys)

    def of(self, request: Request) -> Person | None:
        """None: nobody who is known. Raises NoRole."""
        if self._proxy is not None and (person := self._proxy.person(request)) is not None:
            return person
        session = self._session(request)
        table = None if session is None else self._keys.get(session.name)
        if session is None or table is None or table.key_sha256 != session.key_sha256:
            return None
        return Person(session.name, table.role, session.id, by_key=True)

    def log_in(self, request: Request, key: str) -> str | None:
        """The token of a new session. None: it is no key. Raises TooManyGuesses."""
        address, now_s = self._address(request), time.monotonic()
        if wait_s := self._guesses.wait_s(address, now_s):
            raise TooManyGuesses(wait_s)
        digest, found = sha256(key.strip().encode()).hexdigest(), None
        for name, table in self._keys.items():  # all of them, so that the time says nothing
            if compare_digest(table.key_sha256, digest):
                found = name
        if found is None:
            self._guesses.count(address, now_s)
            return None
        self.log_out(request)
        return self._sessions.begin(found, digest)

    def log_out(self, request: Request) -> None:
        if session := self._session(request):
            self._sessions.end(session)

    def cookie(self, request: Request) -> tuple[str, bool]:
        """The session cookie's name, and whether it is for TLS alone. A browser takes the first name only over TLS, and
        from nobody but this host."""
        forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0]  # of several proxies the first
        tls = self._always_tls or "https" in (request.url.scheme, forwarded.strip().lower())
        return ("__Host-paymaster", True) if tls else ("paymaster_console", False)

    def _session(self, request: Request) -> Session | None:
        return self._sessions.of(request.cookies.get(self.cookie(request)[0], ""))

    def _address(self, request: Request) -> str:
        peer = "" if request.client is None else request.client.host
        if self._proxy is not None and self._proxy.is_trusted(peer):
            # Some proxies add a line of their own to those that a client sent.
            return ",".join(request.headers.getlist("x-forwarded-for") or [peer]).rpartition(",")[2].strip()
        return peer


class _Proxy:
    def __init__(self, settings: ConsoleProxySettings) -> None:
        self._settings = settings
        self._networks = [ipaddress.ip_network(network) for network in settings.addresses]

    def is_trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)

    def person(self, request: Request) -> Person | None:
        """None: the proxy names nobody, or it is not the proxy that asks. Raises NoRole."""
        peer = "" if request.client is None else request.client.host
        names = request.headers.getlist(self._settings.user_header)
        if not self.is_trusted(peer) or not names:
            return None
        name = names[0].strip()
        if len(names) > 1 or not 0 < len(name) <= _NAME_CHARACTERS_MAX or not name.isprintable():
            raise NoRole(f"the proxy's header {self._settings.user_header} names not one user")
        found = (self._settings.users.get(name), *self._of_groups(request))
        roles: list[ConsoleRole] = [role for role in found if role is not None]
        role = max(roles, key=lambda each: _RANKS[each]) if roles else self._settings.others
        if role is None:
            raise NoRole(f"{name} has no role in the console: console.proxy of the configuration gives roles")
        return Person(name, role, f"proxy:{name}", by_key=False)

    def _of_groups(self, request: Request) -> list[ConsoleRole | None]:
        """Raises NoRole for several such headers: one of them may be from whoever asks."""
        if self._settings.groups_header is None:
            return []
        lists = request.headers.getlist(self._settings.groups_header)
        if len(lists) > 1:
            raise NoRole(f"the proxy's header {self._settings.groups_header} comes {len(lists)} times")
        return [self._settings.groups.get(group.strip()) for groups in lists for group in groups.split(",")]


def is_beyond_this_machine(address: str) -> bool:
    """Whether others can connect to this host and port."""
    return not is_loopback(address.rpartition(":")[0].strip("[]"))
