"""Keys in Azure Key Vault: the real Azure clients against a vault over TLS, which fails in every way that one can.

The tests that take `vault` also run against a real vault or an emulator; docs/keys.md says how.
"""

import asyncio
import gzip
import json
import logging
import os
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, cast
from uuid import uuid4

import pytest
from azure.core.credentials_async import AsyncTokenCredential
from azure.keyvault.secrets.aio import SecretClient
from key_vault_server import CLIENT_SECRET, Fault, KeyVaultServer
from paymaster_process import until

from paymaster.keys import azure_vault as key_vault
from paymaster.keys.api_key import ApiKey, KeySourceDown, KeyUnavailable, KeyWithdrawn
from paymaster.keys.azure_identity import AzureIdentity, connection_options
from paymaster.keys.cache import KeyCache
from paymaster.keys.ring import key_source
from paymaster.settings import Settings, load_settings

NAME = "provider-key"
VALUE = "sk-SENTINEL-1"
REAL_VAULT = os.environ.get("PAYMASTER_TEST_VAULT")
"""A configuration file with `[keys]` and `[azure]`. None: the vault on loopback."""
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def running_server(module_folder: Path) -> Iterator[KeyVaultServer]:
    with KeyVaultServer(module_folder) as server:
        yield server


@pytest.fixture
def server(running_server: KeyVaultServer) -> KeyVaultServer:
    """The vault on loopback, up, quiet, with one secret and nobody signed in."""
    if REAL_VAULT is not None:
        pytest.skip("needs a vault that fails on demand")
    running_server.come_up()
    running_server.release()
    running_server.faults.clear()
    running_server.sign_in_faults.clear()
    running_server.fault, running_server.allowed = None, True
    running_server.revoke_tokens()
    running_server.set(NAME, VALUE)
    return running_server


def settings_of(server: KeyVaultServer, **changes: Mapping[str, object]) -> Settings:
    tables = server.tables()
    return Settings.model_validate({name: {**table, **changes.get(name, {})} for name, table in tables.items()})


async def fetched(settings: Settings, name: str = NAME) -> ApiKey:
    source = key_source(settings)
    try:
        return await source.get(name)
    finally:
        await source.close()


async def problem(settings: Settings, name: str = NAME) -> KeyUnavailable:
    """What fetching the key raises: with everything that an error reporter could show, it shows no secret."""
    with pytest.raises(KeyUnavailable) as caught:
        await fetched(settings, name)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert VALUE not in "".join(shown.format())
    assert "SENTINEL" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# ---------------------------------------------------------------- any vault


class Vault(Protocol):
    """A vault with a secret of its own for each test."""

    settings: Settings
    name: str

    async def set(self, value: str) -> str: ...

    async def disable(self) -> None: ...


class LoopbackVault:
    def __init__(self, server: KeyVaultServer) -> None:
        self.settings = settings_of(server)
        self.name = f"test-{uuid4().hex[:8]}"
        self._server = server

    async def set(self, value: str) -> str:
        return self._server.set(self.name, value)

    async def disable(self) -> None:
        self._server.disable(self.name)


class RealVault:
    """The vault of a configuration file. It keeps the secrets that the tests make there."""

    def __init__(self, settings: Settings, client: SecretClient) -> None:
        self.settings = settings
        self.name = f"test-{uuid4().hex[:8]}"
        self._client = client

    async def set(self, value: str) -> str:
        return (await self._client.set_secret(self.name, value)).properties.version or ""

    async def disable(self) -> None:
        await self._client.update_secret_properties(self.name, enabled=False)


@asynccontextmanager
async def real_vault(file: str) -> AsyncGenerator[RealVault]:
    settings = load_settings(Path(file))
    assert settings.keys.vault_url is not None
    identity = AzureIdentity(settings.azure)
    client = SecretClient(
        settings.keys.vault_url,
        cast(AsyncTokenCredential, identity),
        verify_challenge_resource=settings.keys.verify_challenge_resource,
        **connection_options(settings.azure),
    )
    try:
        yield RealVault(settings, client)
    finally:
        await client.close()
        await identity.close()


@pytest.fixture
async def vault(request: pytest.FixtureRequest) -> AsyncIterator[Vault]:
    if REAL_VAULT is None:
        yield LoopbackVault(request.getfixturevalue("server"))
    else:
        async with real_vault(REAL_VAULT) as vault:
            yield vault


async def test_the_newest_version_of_the_secret_is_the_key(vault: Vault) -> None:
    """With what `paymaster keys list` says about it."""
    before = datetime.now(UTC) - timedelta(seconds=60)
    await vault.set("sk-old")
    version = await vault.set(VALUE)
    key = await fetched(vault.settings, vault.name)
    assert (key.reveal(), key.version) == (VALUE, version)
    assert key.where == f"{vault.settings.keys.vault_url}/secrets/{vault.name}"
    assert key.changed_at is not None
    assert key.changed_at >= before


async def test_a_key_that_is_rotated_in_the_vault_is_found_at_once_after_a_refusal(vault: Vault) -> None:
    await vault.set("sk-old")
    source = key_source(vault.settings)
    cache = KeyCache(source, refresh_after=timedelta(hours=1), keep_in_outage=timedelta(hours=1))
    try:
        old = await cache.get(vault.name)
        assert not await cache.replaced(vault.name, old)
        await vault.set(VALUE)
        assert (await cache.get(vault.name)).reveal() == "sk-old"
        assert await cache.replaced(vault.name, old)
        assert (await cache.get(vault.name)).reveal() == VALUE
    finally:
        await cache.close()


async def test_a_missing_secret_says_how_to_make_it(vault: Vault) -> None:
    caught = await problem(vault.settings, "not-there-at-all")
    assert isinstance(caught, KeyWithdrawn)
    assert "there is no such secret; run: az keyvault secret set" in str(caught)
    assert "--name not-there-at-all" in str(caught)


async def test_a_disabled_secret_says_how_to_enable_it(vault: Vault) -> None:
    await vault.set(VALUE)
    await vault.disable()
    caught = await problem(vault.settings, vault.name)
    assert isinstance(caught, KeyWithdrawn)
    assert "the secret is disabled" in str(caught)
    assert "--enabled true" in str(caught)


@pytest.mark.parametrize("value", [f"{VALUE}\n", f"\ufeff{VALUE}\r\n", f" {VALUE} "])
async def test_what_commands_add_around_a_value_does_not_belong_to_it(vault: Vault, value: str) -> None:
    await vault.set(value)
    assert (await fetched(vault.settings, vault.name)).reveal() == VALUE


@pytest.mark.parametrize("value", [f"{VALUE}\n{VALUE}", f"{VALUE} x", f"{VALUE}\u200b", " \n"])
async def test_a_value_that_no_request_can_carry_is_refused(vault: Vault, value: str) -> None:
    await vault.set(value)
    caught = await problem(vault.settings, vault.name)
    assert not isinstance(caught, KeyWithdrawn)
    assert "set a new version of it" in str(caught)


# ---------------------------------------------------------------- signing in


async def test_one_sign_in_serves_many_questions_and_another_follows_when_the_token_is_revoked(
    server: KeyVaultServer,
) -> None:
    source = key_source(settings_of(server))
    signed_in = server.sign_ins
    try:
        for _ in range(3):
            assert (await source.get(NAME)).reveal() == VALUE
        assert server.sign_ins == signed_in + 1
        assert server.scopes[-1] == "https://vault.azure.net/.default"
        server.revoke_tokens()
        with pytest.raises(KeyUnavailable, match="does not accept who we are"):
            await source.get(NAME)  # azure-identity keeps the token for its time; what revoked it must be mended
    finally:
        await source.close()


@pytest.mark.parametrize(
    ("azure", "words"),
    [
        ({"client_secret": f"{CLIENT_SECRET}x"}, "AADSTS7000215): the client secret is wrong"),
        ({"client_id": "somebody-else"}, "AADSTS700016): this directory has no such application"),
        ({"tenant_id": "another-directory"}, "the vault belongs to another directory; set azure.tenant_id"),
        ({"client_id": None}, "needs client_id: set it or AZURE_CLIENT_ID"),
        ({"client_secret": None}, "needs client_secret: set it or AZURE_CLIENT_SECRET"),
        ({"credential": "workload-identity", "client_secret": None}, "[azure] is not complete: "),
    ],
)
async def test_a_refused_credential_says_what_is_wrong_with_it(
    server: KeyVaultServer, azure: dict[str, object], words: str
) -> None:
    caught = await problem(settings_of(server, azure=azure))
    assert words in str(caught)
    assert not isinstance(caught, KeyWithdrawn), "it says nothing about the key"


async def test_an_expired_client_secret_says_so(server: KeyVaultServer) -> None:
    words = {"error": "invalid_client", "error_description": "AADSTS7000222: The provided client secret keys expired."}
    server.sign_in_faults.append(Fault(401, body=json.dumps(words).encode()))
    assert "the client secret has expired" in str(await problem(settings_of(server)))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(503),
        Fault(503, headers={"content-type": "text/html"}, body=b"<html>SENTINEL</html>"),
        Fault(200, body=b"SENTINEL"),
        Fault(200, body=b'{"SENTINEL": 1}'),
        Fault(200, body=b""),
    ],
)
async def test_a_sign_in_that_does_not_work_is_an_outage(server: KeyVaultServer, fault: Fault) -> None:
    server.sign_in_faults.append(fault)
    caught = await problem(settings_of(server))
    assert "sign" in str(caught)
    assert not isinstance(caught, KeyWithdrawn)


@pytest.mark.parametrize("kind", ["default", "client-secret"])
async def test_the_usual_variables_say_who_we_are(
    server: KeyVaultServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Those of azure-identity: what is not in the configuration is taken from there."""
    azure = server.tables()["azure"]
    for name, setting in {
        "AZURE_TENANT_ID": "tenant_id",
        "AZURE_CLIENT_ID": "client_id",
        "AZURE_CLIENT_SECRET": "client_secret",
        "AZURE_AUTHORITY_HOST": "authority",
    }.items():
        monkeypatch.setenv(name, str(azure[setting]))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    nothing = dict.fromkeys(("tenant_id", "client_id", "client_secret", "authority"))
    assert (await fetched(settings_of(server, azure={"credential": kind} | nothing))).reveal() == VALUE


async def test_no_credential_at_all_says_what_to_set(server: KeyVaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    nothing = dict.fromkeys(("tenant_id", "client_id", "client_secret"))
    caught = await problem(settings_of(server, azure={"credential": "default"} | nothing))
    assert "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET" in str(caught)


async def test_a_workload_identity_signs_in_with_its_token_file(server: KeyVaultServer, tmp_path: Path) -> None:
    """The server knows no federated tokens: that it refuses this one as such shows what was sent."""
    (tmp_path / "token").write_text("federated-SENTINEL")
    server.sign_in_faults.append(Fault(401, body=b'{"error": "x", "error_description": "AADSTS700024: too old"}'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        caught = await problem(settings_of(server, azure={"credential": "workload-identity", "client_secret": None}))
    assert "AADSTS700024" in str(caught)


# ---------------------------------------------------------------- a vault that fails


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(403, "Forbidden", "ForbiddenByRbac"), KeyUnavailable, "ForbiddenByRbac); give this identity the role"),
        (Fault(403, "Forbidden", "ForbiddenByFirewall"), KeyUnavailable, "let its network through the firewall"),
        (Fault(429, "Throttled", headers={"retry-after": "30"}), KeySourceDown, "make keys.refresh_after longer"),
        (Fault(500), KeySourceDown, "HTTP 500, InternalError; later it may answer"),
        (Fault(503, body=b"<html>SENTINEL</html>"), KeySourceDown, "HTTP 503; later it may answer"),
        (Fault(404, body=b"SENTINEL"), KeyUnavailable, "that is not how a vault answers: check keys.vault_url"),
        (Fault(302, headers={"location": "https://127.0.0.1:1/"}, body=b""), KeyUnavailable, "check keys.vault_url"),
        (Fault(400, "BadParameter"), KeyUnavailable, "HTTP 400, BadParameter"),
        (Fault(200, body=b"<html>SENTINEL</html>"), KeyUnavailable, "check keys.vault_url"),
        (Fault(200, body=b"{}"), KeyUnavailable, "check keys.vault_url"),
        (Fault(200, body=b"[1]"), KeyUnavailable, "check keys.vault_url"),
        (Fault(200, body=b'{"value": null, "id": "SENTINEL"}'), KeyUnavailable, "check keys.vault_url"),
        (Fault(200, body=b"\xff\xfe\x00"), KeyUnavailable, "check keys.vault_url"),
        (Fault(cut=True), KeySourceDown, "no connection, or it was cut"),
    ],
)
async def test_whatever_it_answers_is_an_error_of_ours_that_says_what_to_do(
    server: KeyVaultServer, fault: Fault, kind: type[KeyUnavailable], words: str
) -> None:
    """And none withdraws a key that is kept: only a vault that knows the secret does."""
    server.fault = fault
    started = time.monotonic()
    caught = await problem(settings_of(server))
    assert type(caught) is kind, caught
    assert words in str(caught)
    assert str(caught).startswith(f"the key 'provider-key' cannot be had from {server.url}: ")
    assert time.monotonic() - started < 10, "it does not wait for as long as the vault asks"


ENDLESS = [
    Fault(200, body=b" " * 50_000_000),
    Fault(200, headers={"Content-Encoding": "gzip"}, body=gzip.compress(b"")),
]


@pytest.mark.parametrize("fault", ENDLESS, ids=["50 MB", "compressed"])
async def test_an_answer_without_an_end_is_not_read(server: KeyVaultServer, fault: Fault) -> None:
    """Neither the vault's nor that of where we sign in; what is compressed may hold anything."""
    server.fault = fault
    error = await problem(settings_of(server))
    assert isinstance(error, KeySourceDown)
    assert "what answers there answers without an end" in str(error)
    server.fault = None
    server.revoke_tokens()
    server.sign_in_faults.extend([fault] * 9)
    error = await problem(settings_of(server))
    assert isinstance(error, KeySourceDown)
    assert "nobody to sign in at: what answers there answers without an end" in str(error)


async def test_a_vault_that_is_down_or_not_there_is_an_outage(server: KeyVaultServer) -> None:
    server.go_down()
    caught = await problem(settings_of(server))
    assert type(caught) is KeySourceDown
    assert "no connection, or it was cut; check the network and proxies" in str(caught)


async def test_a_vault_that_hangs_is_given_up(server: KeyVaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_vault, "ANSWERS_WITHIN_S", 0.5)
    server.hold()
    caught = await problem(settings_of(server))
    assert type(caught) is KeySourceDown
    assert "has not answered within" in str(caught)


async def test_a_slow_vault_is_waited_for(server: KeyVaultServer) -> None:
    server.hold()
    asking = asyncio.create_task(fetched(settings_of(server)))
    gets = server.gets
    await until(lambda: server.gets > gets, "the vault was asked")
    assert not asking.done()
    server.release()
    assert (await asking).reveal() == VALUE


async def test_a_certificate_that_nobody_vouches_for_ends_the_connection(server: KeyVaultServer) -> None:
    caught = await problem(settings_of(server, azure={"ca_bundle": None}))
    assert type(caught) is KeySourceDown
    assert "its certificate is not trusted here; name its authority in azure.ca_bundle" in str(caught)
    caught = await problem(settings_of(server, azure={"ca_bundle": "/not/there.pem"}))
    assert "azure.ca_bundle cannot be read (No such file or directory)" in str(caught)


async def test_a_challenge_for_another_domain_is_not_answered(server: KeyVaultServer) -> None:
    """A wrong address must not get a token for a vault."""
    signed_in = server.sign_ins
    caught = await problem(settings_of(server, keys={"verify_challenge_resource": True}))
    assert "set keys.verify_challenge_resource = false" in str(caught)
    assert server.sign_ins == signed_in


async def test_nothing_of_a_key_or_credential_is_logged(
    server: KeyVaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level where the Azure clients and aiohttp say all they can."""
    caplog.set_level(logging.DEBUG)
    await fetched(settings_of(server))
    server.fault = Fault(500)
    await problem(settings_of(server))
    assert "/secrets/provider-key" in caplog.text, "they do log"
    for secret in (VALUE, CLIENT_SECRET, "token-SENTINEL"):
        assert secret not in caplog.text


# ---------------------------------------------------------------- the cache over it


async def test_many_at_once_make_one_fetch(server: KeyVaultServer) -> None:
    cache = KeyCache(
        key_source(settings_of(server)), refresh_after=timedelta(hours=1), keep_in_outage=timedelta(hours=1)
    )
    try:
        await cache.get(NAME)  # signed in
        server.set(NAME, "sk-new")
        before = server.gets
        old = ApiKey(VALUE)
        assert all(await asyncio.gather(*(cache.replaced(NAME, old) for _ in range(100))))
        assert server.gets == before + 1
    finally:
        await cache.close()


async def test_an_outage_of_the_vault_keeps_the_key(server: KeyVaultServer) -> None:
    now_s = 0.0
    cache = KeyCache(
        key_source(settings_of(server)),
        refresh_after=timedelta(minutes=10),
        keep_in_outage=timedelta(hours=1),
        clock=lambda: now_s,
    )
    try:
        assert (await cache.get(NAME)).reveal() == VALUE
        server.go_down()
        now_s = 3_600.0
        assert (await cache.get(NAME)).reveal() == VALUE
        assert "no connection" in (cache.outage(NAME) or "")
        with pytest.raises(KeySourceDown):
            await cache.replaced(NAME, ApiKey(VALUE))
        now_s = 4_200.0
        with pytest.raises(KeySourceDown):
            await cache.get(NAME)
        server.come_up()
        server.set(NAME, "sk-new")
        assert (await cache.get(NAME)).reveal() == "sk-new"
        server.disable(NAME)
        now_s += 600.0
        with pytest.raises(KeyWithdrawn):
            await cache.get(NAME)
    finally:
        await cache.close()
