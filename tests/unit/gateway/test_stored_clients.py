"""What a gateway knows of the clients in the database: seconds old, minutes in an outage, and no flood of queries."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime

import pytest
from paymaster_process import until

from paymaster.gateway.last_used import LastUsed
from paymaster.gateway.stored_clients import (
    ABSENT_S,
    ASK_AGAIN_AFTER_S,
    ASKED_AT_ONCE_MAX,
    FRESH_S,
    KEPT_IN_OUTAGE_S,
    REMEMBERED_MAX,
    UNKNOWN_ASKED_MAX,
    WAITED_FOR_AFTER_S,
    ClientsUnknown,
    StoredClients,
)
from paymaster.storage.clients import StoredClient

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Database:
    """Answers from its clients, when it is allowed to, and counts what it is asked. Its clock is moved by tests."""

    def __init__(self) -> None:
        self.clients: dict[str, StoredClient] = {}
        self.queries: list[list[str]] = []
        self.problem: Exception | None = None
        self.now_s = 0.0
        self.at_once = self.at_once_max = 0
        self.open = asyncio.Event()
        self.open.set()

    def add(self, key_id: str, *, revoked_at: datetime | None = None) -> None:
        self.clients[key_id] = StoredClient(
            name=key_id,
            key_id=key_id,
            key_sha256=b"",
            budget="acme",
            routes=None,
            requests_at_once=None,
            expires_at=None,
            created_by="ada",
            created_at=NOON,
            revoked_at=revoked_at,
            revoked_by=None,
            last_used_at=None,
        )

    async def read(self, key_ids: Collection[str]) -> Mapping[str, StoredClient]:
        self.queries.append(list(key_ids))
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await asyncio.sleep(0)
            found = {key_id: self.clients[key_id] for key_id in key_ids if key_id in self.clients}
            await self.open.wait()
            if self.problem is not None:
                raise self.problem
            return found
        finally:
            self.at_once -= 1


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
async def clients(database: Database) -> AsyncIterator[StoredClients]:
    clients = StoredClients(database.read, lambda: database.now_s)
    yield clients
    await clients.close()


async def test_a_client_is_read_once_for_many_requests(clients: StoredClients, database: Database) -> None:
    database.add("a")
    found = await asyncio.gather(*(clients.find("a") for _ in range(100)))
    assert {client.name for client in found if client is not None} == {"a"}
    database.now_s = FRESH_S - 0.1
    await clients.find("a")
    assert database.queries == [["a"]]


async def test_a_revoked_key_is_found_to_be_within_seconds(clients: StoredClients, database: Database) -> None:
    """Also where nobody asked meanwhile, and without a request waiting where somebody asks often."""
    database.add("a")
    await clients.find("a")
    database.add("a", revoked_at=NOON)
    database.now_s = FRESH_S
    before = await clients.find("a")
    assert before is not None
    assert before.revoked_at is None, "it is read in the background"
    await until(lambda: len(database.queries) == 2, "it is read")
    await asyncio.sleep(0)
    after = await clients.find("a")
    assert after is not None
    assert after.revoked_at == NOON
    del database.clients["a"]
    database.now_s += WAITED_FOR_AFTER_S
    assert await clients.find("a") is None, "a request waits for it after so long"


@pytest.mark.parametrize("problem", [OSError("refused"), TimeoutError(), RuntimeError("a defect")])
async def test_known_clients_go_on_in_an_outage(clients: StoredClients, database: Database, problem: Exception) -> None:
    """For a bounded time; who is unknown cannot be told from nobody then."""
    database.add("a")
    await clients.find("a")
    database.problem = problem
    database.now_s = KEPT_IN_OUTAGE_S - 0.1
    assert await clients.find("a") is not None
    with pytest.raises(ClientsUnknown):
        await clients.find("b")
    database.now_s = KEPT_IN_OUTAGE_S
    with pytest.raises(ClientsUnknown):
        await clients.find("a")
    database.problem = None
    database.now_s += ASK_AGAIN_AFTER_S
    assert await clients.find("a") is not None
    assert await clients.find("b") is None


async def test_a_database_that_hangs_is_waited_for_once(clients: StoredClients, database: Database) -> None:
    """Known clients do not wait for it again and again."""
    database.add("a")
    await clients.find("a")
    database.problem = TimeoutError()
    database.now_s = WAITED_FOR_AFTER_S
    await clients.find("a")
    database.open.clear()
    database.now_s += ASK_AGAIN_AFTER_S
    async with asyncio.timeout(1):
        assert await clients.find("a") is not None
    database.open.set()


async def test_a_key_that_nobody_has_is_asked_for_once_in_a_while(clients: StoredClients, database: Database) -> None:
    for _ in range(5):
        assert await clients.find("x") is None
    assert len(database.queries) == 1
    database.add("x")
    database.now_s = ABSENT_S
    assert await clients.find("x") is not None


async def test_a_flood_of_keys_is_few_queries_and_bounded(clients: StoredClients, database: Database) -> None:
    """One query at a time, clients that were there before first, and what is beyond the bound is turned away."""
    database.add("known")
    await clients.find("known")
    database.queries.clear()
    database.open.clear()
    database.now_s = WAITED_FOR_AFTER_S
    count = UNKNOWN_ASKED_MAX + 500
    flood = [asyncio.create_task(clients.find(f"flood-{n}")) for n in range(count)]
    await asyncio.sleep(0)
    known = asyncio.create_task(clients.find("known"))
    await until(lambda: len(database.queries) == 1, "the first query is under way")
    database.open.set()
    assert await known is not None
    answers = await asyncio.gather(*flood, return_exceptions=True)
    assert (answers.count(None), database.at_once_max) == (UNKNOWN_ASKED_MAX, 1)
    assert {type(answer) for answer in answers if answer is not None} == {ClientsUnknown}
    assert len(database.queries) <= UNKNOWN_ASKED_MAX / ASKED_AT_ONCE_MAX + 1
    assert "known" in database.queries[0] + database.queries[1]


async def test_what_is_remembered_of_strangers_is_bounded(clients: StoredClients, database: Database) -> None:
    for begin in range(0, REMEMBERED_MAX + 2_000, 1_000):
        await asyncio.gather(*(clients.find(f"x-{n}") for n in range(begin, begin + 1_000)))
    database.queries.clear()
    await clients.find("x-0")
    await clients.find(f"x-{REMEMBERED_MAX + 1_999}")
    assert database.queries == [["x-0"]], "the oldest are forgotten"


async def test_a_request_that_is_given_up_ends_no_question(clients: StoredClients, database: Database) -> None:
    database.add("a")
    database.open.clear()
    first, second = (asyncio.create_task(clients.find("a")) for _ in range(2))
    await until(lambda: database.queries, "it is asked")
    first.cancel()
    database.open.set()
    assert await second is not None
    assert len(database.queries) == 1


# ---------------------------------------------------------------- when keys were used


async def test_uses_are_written_together_and_kept_where_they_cannot_be() -> None:
    written: list[Mapping[str, datetime]] = []
    problem: list[Exception] = []

    async def write(used: Mapping[str, datetime]) -> None:
        if problem:
            raise problem.pop()
        written.append(dict(used))

    used = LastUsed(write)
    await used.write()
    for _ in range(3):
        used.note("a")
    problem.append(OSError("down"))
    await used.write()
    assert written == []
    used.note("b")
    await used.write()
    await used.write()
    assert [set(each) for each in written] == [{"a", "b"}]
