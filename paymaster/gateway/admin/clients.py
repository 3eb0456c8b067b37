"""Clients of the gateway: made, listed and revoked."""

from paymaster.gateway.admin.asked import Answer, Asked
from paymaster.gateway.admin.documents import ClientPage, client_document
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.wanted import ClientWanted
from paymaster.gateway.admin.who import Admin
from paymaster.gateway.clients import NOBODY
from paymaster.settings.kinds import check_name
from paymaster.storage.clients import (
    ClientExists,
    NewClient,
    StoredClient,
    all_clients,
    client_called,
    insert_client,
    revoke_client,
)
from paymaster.values.budget_path import is_within
from paymaster.values.client_key import key_digest, new_client_key


class ClientEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._engine, self._ledger = site.engine, site.ledger.name
        self._taken = {NOBODY, *site.settings.gateway.clients}
        """Names of those who are not in the database."""

    async def all(self, asked: Asked) -> Answer:
        below = asked.admin.budget
        found = await all_clients(self._engine, self._ledger)
        shown = [each for each in found if below is None or is_within(each.budget, below)]
        return Answer(ClientPage(items=tuple(map(client_document, shown))))

    async def one(self, asked: Asked) -> Answer:
        client = await self._find(asked.path["name"])
        asked.admin.check("read", client.budget)
        return Answer(client_document(client))

    async def make(self, asked: Asked) -> Answer:
        """A client that is there with the same terms stays as it is, and its key is not told again."""
        wanted, name = asked.read(ClientWanted), asked.path["name"]
        asked.admin.check("clients", wanted.budget)
        try:
            check_name(name)
        except ValueError as error:
            raise Problem(400, "bad_request", str(error)) from None
        await self._check_whose(asked.admin, name)
        key = new_client_key()
        client = NewClient(
            name=name,
            key_id=key.id,
            key_sha256=key_digest(key.text),
            budget=wanted.budget,
            routes=wanted.routes,
            requests_at_once=wanted.requests_at_once,
            expires_at=wanted.expires_at,
            created_by=asked.admin.name,
        )
        try:
            stored = await insert_client(self._engine, self._ledger, client)
        except ClientExists:
            return await self._there_already(asked, wanted)
        return Answer(client_document(stored, key.text), status=201)

    async def _check_whose(self, admin: Admin, name: str) -> None:
        """Raises Problem for the name of somebody else, whose calls and runs a client of this name would have."""
        if name in self._taken:
            raise Problem(409, "exists", f"the gateway's configuration has a client {name}: take another name")
        earlier = await client_called(self._engine, self._ledger, name)
        if earlier is not None:
            admin.check("clients", earlier.budget)

    async def _there_already(self, asked: Asked, wanted: ClientWanted) -> Answer:
        there = await self._find(asked.path["name"])
        asked.admin.check("clients", there.budget)
        terms = ClientWanted(
            budget=there.budget,
            routes=there.routes,
            requests_at_once=there.requests_at_once,
            expires_at=there.expires_at,
        )
        if terms != wanted:
            detail = f"there is a client {there.name} with other terms: DELETE revokes it, and PUT then makes another"
            raise Problem(409, "exists", detail)
        return Answer(client_document(there))

    async def revoke(self, asked: Asked) -> Answer:
        """One that is revoked stays so."""
        client = await self._find(asked.path["name"])
        asked.admin.check("clients", client.budget)
        revoked = await revoke_client(self._engine, self._ledger, client.name, asked.admin.name)
        return Answer(client_document(revoked or client))

    async def _find(self, name: str) -> StoredClient:
        client = await client_called(self._engine, self._ledger, name)
        if client is None:
            raise Problem(404, "not_found", f"there is no client {name!r} of the database")
        return client
