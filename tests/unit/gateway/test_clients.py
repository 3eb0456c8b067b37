"""Who asks: found by a key or a token in any of the usual headers, and by nothing else; no answer repeats a key."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from identity_provider import IdentityProvider
from paymaster_process import write_configuration
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.gateway.clients import NOBODY, Clients, ClientTerms, NotAClient, open_clients
from paymaster.keys.ring import named_keys
from paymaster.settings import ConfigurationError, load_settings
from paymaster.storage.clients import NewClient, all_clients, insert_client, revoke_client
from paymaster.storage.engine import create_engine
from paymaster.values.client_key import NewKey, key_digest, new_client_key

OWN = "own-key-of-the-notebook-0123456789abcdef"
IN_RING = "ring-key-of-the-batch-0123456789abcdef0"
SERVICES = {"local": {"api": "openai", "base_url": "http://127.0.0.1:1/v1"}}


class Opening:
    """Opens the clients of a `[gateway]` table."""

    def __init__(self, folder: Path, closing: AsyncExitStack) -> None:
        self._folder = folder
        self._closing = closing

    async def __call__(self, gateway: Mapping[str, Any], engine: AsyncEngine | None = None) -> Clients:
        file = self._folder / "paymaster.toml"
        write_configuration(file, {"services": SERVICES, "routes": {"a": ["local/m"]}, "gateway": gateway})
        settings = load_settings(file, environ={})
        keys = named_keys(settings)
        self._closing.push_async_callback(keys.close)
        return await self._closing.enter_async_context(open_clients(settings, keys, engine))


# Made after the engine in each test that has both, since what is written at its end needs the engine.
@pytest.fixture
async def opening(tmp_path: Path) -> AsyncIterator[Opening]:
    async with AsyncExitStack() as closing:
        yield Opening(tmp_path, closing)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


def static(**more: object) -> dict[str, Any]:
    return {"clients": {"notebook": {"key_sha256": key_digest(OWN).hex(), "budget": "acme/nb", **more}}}


async def refused(clients: Clients, headers: Mapping[str, str]) -> NotAClient:
    with pytest.raises(NotAClient) as error:
        await clients.of(headers)
    text = repr(error.value) + str(error.value) + error.value.detail
    for value in headers.values():
        assert len(value) < 24 or value[-20:] not in text, "the answer has the key"
    return error.value


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {OWN}"},
        {"authorization": f"bearer   {OWN} "},
        {"x-api-key": OWN},
        {"api-key": OWN},
        {"x-goog-api-key": OWN},
        {"x-api-key": OWN, "authorization": f"Bearer {OWN}"},
        {"x-api-key": "", "authorization": f"Bearer {OWN}"},
        {"x-api-key": OWN, "authorization": "Bearer "},
    ],
)
async def test_a_key_comes_in_any_of_the_usual_headers(opening: Opening, headers: dict[str, str]) -> None:
    clients = await opening(static(routes=["a", "local/m"], requests_at_once=3))
    assert await clients.of(headers) == ClientTerms(
        "notebook", "acme/nb", routes=frozenset({"a", "local/m"}), requests_at_once=3
    )


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no_key"),
        ({"authorization": ""}, "no_key"),
        ({"authorization": "Bearer"}, "no_key"),
        ({"cookie": f"key={OWN}"}, "no_key"),
        ({"authorization": OWN}, "bad_key"),
        ({"authorization": f"Basic {OWN}"}, "bad_key"),
        ({"authorization": f"Bearer {OWN} {OWN}"}, "bad_key"),
        ({"x-api-key": f"{OWN}\u00e4"}, "bad_key"),
        ({"x-api-key": f"{OWN}\x00"}, "bad_key"),
        ({"x-api-key": OWN * 1_000}, "bad_key"),
        ({"x-api-key": OWN, "authorization": "Bearer sk-ant-0123456789abcdef0123456789"}, "several_keys"),
        ({"x-api-key": OWN[:-1]}, "unknown_key"),
        ({"x-api-key": OWN.upper()}, "unknown_key"),
        ({"x-api-key": key_digest(OWN).hex()}, "unknown_key"),
        ({"x-api-key": "notebook"}, "unknown_key"),
        ({"x-api-key": new_client_key().text}, "unknown_key"),
        ({"x-api-key": "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."}, "unknown_key"),
    ],
)
async def test_whoever_has_no_key_is_told_so(opening: Opening, headers: dict[str, str], reason: str) -> None:
    error = await refused(await opening(static()), headers)
    assert (error.status, error.reason) == (401, reason)


# ---------------------------------------------------------------- of the configuration


async def test_a_client_of_the_configuration_has_an_end(opening: Opening) -> None:
    past, later = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(hours=1)
    error = await refused(await opening(static(expires_at=past.isoformat())), {"x-api-key": OWN})
    assert (error.status, error.reason) == (401, "key_expired")
    terms = await (await opening(static(expires_at=later.isoformat()))).of({"x-api-key": OWN})
    assert terms.expires_at == later


async def test_a_key_may_be_in_the_key_ring(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is missing, or so short that it could be guessed, is said in the log and stops no other one."""
    monkeypatch.setenv("PAYMASTER_KEY_BATCH_KEY", IN_RING)
    monkeypatch.setenv("PAYMASTER_KEY_SHORT_KEY", "short")
    names = ("batch", "short", "missing")
    tables = {name: {"key": f"{name}-key", "budget": f"acme/{name}"} for name in names}
    clients = await opening({"clients": {**tables, **static()["clients"]}})
    assert (await clients.of({"x-api-key": IN_RING})).name == "batch"
    assert (await clients.of({"x-api-key": OWN})).name == "notebook"
    assert (await refused(clients, {"x-api-key": "short"})).reason == "unknown_key"
    assert "gateway.clients.short: its key could be guessed" in caplog.text
    assert "gateway.clients.missing: there is no key 'missing-key'" in caplog.text


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        ({}, "gateway.clients.bot: set one of `key_sha256` and `key`"),
        ({"key": "a", "key_sha256": "0" * 64}, "gateway.clients.bot: set one of"),
        ({"key_sha256": OWN}, "gateway.clients.bot.key_sha256: "),
        ({"key": "sk-0123456789abcdef0123456789"}, "this looks like an API key"),
    ],
)
async def test_a_client_has_one_key_and_never_in_the_file(
    opening: Opening, client: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        await opening({"clients": {"bot": {"budget": "acme", **client}}})
    assert problem in str(wrong.value)
    assert OWN not in str(wrong.value)


# ---------------------------------------------------------------- without clients


@pytest.mark.parametrize("headers", [{}, {"host": "127.0.0.1:4000"}, {"x-api-key": "unused", "host": "localhost:1"}])
async def test_on_one_machine_anybody_may_ask_if_so_configured(opening: Opening, headers: dict[str, str]) -> None:
    clients = await opening({"budget": "dev"})
    assert await clients.of(headers) == ClientTerms(NOBODY, "dev")
    assert (await refused(await opening({}), headers)).status == 401


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
async def test_pages_in_a_browser_are_not_anybody(opening: Opening, headers: dict[str, str]) -> None:
    error = await refused(await opening({"budget": "dev"}), headers)
    assert (error.status, error.reason) == (403, "not_from_here")


async def test_a_key_that_is_wrong_is_not_anybody(engine: AsyncEngine, opening: Opening) -> None:
    clients = await opening({"budget": "dev"}, engine)
    assert (await refused(clients, {"x-api-key": new_client_key().text})).reason == "unknown_key"
    with_clients = await opening({"budget": "dev"} | static())
    assert (await refused(with_clients, {})).reason == "no_key"


# ---------------------------------------------------------------- of the database


def made(key: NewKey, **more: Any) -> NewClient:
    client = NewClient(
        name="bot",
        key_id=key.id,
        key_sha256=key_digest(key.text),
        budget="acme/bot",
        routes=("a",),
        requests_at_once=2,
        expires_at=None,
        created_by="ada",
    )
    return replace(client, **more)


async def test_a_client_of_the_database_is_let_in(engine: AsyncEngine, opening: Opening) -> None:
    key = new_client_key()
    await insert_client(engine, "default", made(key))
    clients = await opening({}, engine)
    terms = await clients.of({"authorization": f"Bearer {key.text}"})
    assert terms == ClientTerms("bot", "acme/bot", routes=frozenset({"a"}), requests_at_once=2)


async def test_only_the_whole_key_counts(engine: AsyncEngine, opening: Opening) -> None:
    """Who knows its id alone, or the key of another ledger, learns nothing more than who knows nothing."""
    key, theirs = new_client_key(), new_client_key()
    await insert_client(engine, "default", made(key))
    await insert_client(engine, "other", made(theirs))
    clients = await opening({}, engine)
    guessed = key.text[:-1] + ("a" if key.text[-1] != "a" else "b")
    for text in (guessed, f"{key.id}_{new_client_key().text[-43:]}", new_client_key().text, theirs.text):
        error = await refused(clients, {"x-api-key": text})
        assert (error.status, error.detail) == (401, f"nobody has the key {text[:16]} here")


async def test_revoked_and_expired_keys_are_told_so(engine: AsyncEngine, opening: Opening) -> None:
    """But only to who has the whole key."""
    key, old = new_client_key(), new_client_key()
    await insert_client(engine, "default", made(key))
    await revoke_client(engine, "default", "bot", "ada")
    await insert_client(engine, "default", made(old, expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    clients = await opening({}, engine)
    assert (await refused(clients, {"x-api-key": key.text})).reason == "revoked_key"
    assert (await refused(clients, {"x-api-key": old.text})).reason == "key_expired"
    assert (await refused(clients, {"x-api-key": f"{key.id}_{'0' * 43}"})).reason == "unknown_key"


async def test_a_database_that_does_not_answer_is_503(opening: Opening) -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/nothing")
    error = await refused(await opening(static(), engine), {"x-api-key": new_client_key().text})
    assert (error.status, error.reason) == (503, "clients_unknown")
    await engine.dispose()


async def test_the_last_use_is_written_when_the_gateway_stops(tmp_path: Path, engine: AsyncEngine) -> None:
    key = new_client_key()
    await insert_client(engine, "default", made(key))
    async with AsyncExitStack() as closing:
        clients = await Opening(tmp_path, closing)({}, engine)
        await clients.of({"x-api-key": key.text})
        await refused(clients, {"x-api-key": f"{key.id}_{'0' * 43}"})
        assert [client.last_used_at for client in await all_clients(engine, "default")] == [None]
    [client] = await all_clients(engine, "default")
    assert client.last_used_at is not None
    assert abs(client.last_used_at - datetime.now(UTC)) < timedelta(minutes=5)


# ---------------------------------------------------------------- of an identity provider


async def test_a_token_beside_keys(opening: Opening) -> None:
    async with IdentityProvider() as provider:
        clients = await opening({"jwt": provider.settings(), **static(), "budget": "dev"})
        assert (await clients.of({"authorization": f"Bearer {provider.token()}"})).budget == "acme/tides/u-17"
        assert (await clients.of({"x-api-key": OWN})).name == "notebook"
        error = await refused(clients, {"authorization": f"Bearer {provider.token(aud='other')}"})
        assert (error.status, error.reason) == (401, "bad_token")
        error = await refused(clients, {"authorization": f"Bearer {provider.token(team='../bosses')}"})
        assert (error.status, error.reason) == (403, "not_allowed")
