"""Who administrates, by the key in a request's headers, and what that admin may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.clients import NOBODY, Clients, NotAClient
from paymaster.settings.gateway_admins import AdminRight, GatewayAdminSettings
from paymaster.values.budget_path import is_within


@dataclass(frozen=True)
class Admin:
    name: str
    may: frozenset[AdminRight]
    budget: str | None
    """None: every budget."""

    def check(self, right: AdminRight, budget: str | None = None) -> None:
        """Raises Problem. `budget`: what is read or changed; None: what is no budget's."""
        if right != "read" and right not in self.may:
            raise Problem(403, "not_allowed", f"the admin {self.name} may not change {right}: gateway.admins says so")
        if self.budget is not None and (budget is None or not is_within(budget, self.budget)):
            what = "what is no budget's" if budget is None else f"the budget {budget}"
            raise Problem(403, "not_allowed", f"the admin {self.name} has {self.budget} and below, and not {what}")


class Admins:
    def __init__(self, tables: Mapping[str, GatewayAdminSettings], clients: Clients) -> None:
        self._clients = clients
        self._admins = [
            (bytes.fromhex(table.key_sha256), Admin(name, frozenset(table.may), table.budget))
            for name, table in tables.items()
        ]

    async def of(self, headers: Mapping[str, str]) -> Admin:
        """Raises Problem: 401 for nobody, 403 for a client."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        found: Admin | None = None
        digest = sha256(key.strip().encode()).digest()
        for own, admin in self._admins:  # all of them, so that the time says nothing
            if compare_digest(own, digest):
                found = admin
        if found is not None and scheme.lower() == "bearer":
            return found
        await self._refuse_client(headers)
        raise Problem(401, "no_key", "send an admin's key of gateway.admins as `Authorization: Bearer …`")

    async def _refuse_client(self, headers: Mapping[str, str]) -> None:
        try:
            client = await self._clients.of(headers)
        except NotAClient:
            return
        if client.name != NOBODY:
            raise Problem(403, "not_an_admin", f"this is the key of the client {client.name}, and not an admin's")
