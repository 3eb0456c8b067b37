"""A server that answers with any bytes, and call_service in front of it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire import GRANT, ask
from wire_answers import ANSWERS

from activities.body_store import BodyStore
from activities.call_service import CallServiceActivities
from paymaster.keys.api_key import ApiKey, EnvironmentKeys
from paymaster.keys.cache import KeyCache
from paymaster.ledger.group_commit import GroupCommit
from paymaster.live.pushes import Pushes
from paymaster.messages import AttemptReport, Completion, Failure, LLMRequest, ServiceCall
from paymaster.providers.connections import Connections
from paymaster.settings import ServiceSettings


class RawServer:
    """Answers every request on loopback with the same bytes, and closes the connection."""

    def __init__(self) -> None:
        self.raw = b""

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length[15:]))
        writer.write(self.raw)
        writer.close()


class SomeKeys(KeyCache):
    """One key for every service, and a defect."""

    def __init__(self) -> None:
        super().__init__(EnvironmentKeys(), refresh_after=timedelta(minutes=1), keep_in_outage=timedelta(minutes=1))

    async def get(self, name: str) -> ApiKey:
        if name == "broken":
            raise RuntimeError("a defect with the key sk-live-0123 in its text")
        return ApiKey("sk-live-0123456789")

    async def replaced(self, name: str, refused: ApiKey) -> bool:
        return False


class Caller:
    """One service for each wire format at a raw server, and how it reports."""

    def __init__(self, url: str, server: RawServer) -> None:
        self.server = server
        self.reported: list[AttemptReport] = []
        self.reporting = asyncio.Event()
        self.may_report = asyncio.Event()
        self.may_report.set()
        self.services: dict[str, ServiceSettings] = {
            **{api: ServiceSettings(api=api, base_url=url, key="a-key") for api in ANSWERS},
            "broken": ServiceSettings(api="openai", base_url=url, key="broken"),
        }
        self.connections = Connections(self.services)
        self.bodies: BodyStore | None = None
        self.pushes: Pushes | None = None

    async def call(
        self, service: str, environment: ActivityEnvironment | None = None, request: LLMRequest | None = None
    ) -> Completion | ApplicationError:
        environment = environment or ActivityEnvironment()
        reports = GroupCommit[AttemptReport, None](self._report, size_of=lambda _: 0)
        activities = CallServiceActivities(
            self.services, SomeKeys(), self.connections, reports, self.bodies, pushes=self.pushes
        )
        hold_id = f"{environment.info.workflow_run_id}/1"
        grant = GRANT.model_copy(update={"hold_id": hold_id, "service": service, "bound_nanos": 1_000})
        try:
            return await environment.run(activities.call_service, ServiceCall(grant=grant, request=request or ask()))
        except ApplicationError as error:
            return error

    async def _report(self, reports: Sequence[AttemptReport]) -> Sequence[None]:
        self.reported += reports
        self.reporting.set()
        await self.may_report.wait()
        return [None] * len(reports)


@asynccontextmanager
async def calling() -> AsyncGenerator[Caller]:
    server = RawServer()
    async with server.listening() as url:
        caller = Caller(url, server)
        yield caller
        await caller.connections.close()


def failure_of(error: ApplicationError) -> Failure:
    return Failure.model_validate(error.details[0])
