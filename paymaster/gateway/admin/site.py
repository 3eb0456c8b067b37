"""What the administration works with: the ledger that it commands, and the copy in which it reads what became of it."""

from collections.abc import Awaitable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.gateway.admin.problems import Problem
from paymaster.ledger.copied_status import CopiedStatus
from paymaster.ledger.handle import Ledger
from paymaster.messages import AccountStatus, CapState, RunState, ServiceState
from paymaster.settings import Settings
from paymaster.storage.status_rows import CopiedLedger

AnswerT = TypeVar("AnswerT", CapState, RunState, ServiceState)
_NO_COPY = "the ledger has copied nothing yet: a worker has to run, by the rules of version 0.2 (`paymaster upgrade`)"


class AdminSite:
    def __init__(self, settings: Settings, ledger: Ledger, engine: AsyncEngine) -> None:
        self.settings = settings
        self.ledger = ledger
        self.engine = engine
        self.copy = CopiedStatus(engine, ledger.name)

    async def carry_out(self, command: Awaitable[AnswerT]) -> AnswerT:
        """The ledger's answer, when the copy shows it to whoever reads next."""
        answer = await command
        await self.copy.wait_for(answer.version)
        return answer

    async def account(self, key: str) -> AccountStatus:
        """Raises Problem."""
        found = await self.find(key)
        if found is None:
            kind, _, name = key.partition(":")
            raise Problem(404, "not_found", f"the ledger has no {kind} {name!r} now")
        return found

    async def find(self, key: str) -> AccountStatus | None:
        """Raises Problem."""
        found = await self.copy.accounts([key])
        if found is None:
            raise Problem(503, "unavailable", _NO_COPY)
        return next(iter(found.accounts), None)

    async def page(self, kind: str, after: str, limit: int, below: str | None = None) -> list[AccountStatus]:
        """`below`: only this budget and those below it. Raises Problem."""
        found = await self.copy.page(kind, after, limit, below)
        if found is None:
            raise Problem(503, "unavailable", _NO_COPY)
        return found.accounts

    async def whole(self) -> CopiedLedger:
        """Without accounts. Raises Problem."""
        found = await self.copy.ledger()
        if found is None:
            raise Problem(503, "unavailable", _NO_COPY)
        return found
