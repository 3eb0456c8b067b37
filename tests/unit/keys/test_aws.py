"""AWS's own credentials: found where botocore finds them, renewed before they end, and never told in a problem."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from loopback_server import LoopbackServer

from paymaster.cli.keys import find_keys
from paymaster.keys.api_key import KeySourceDown, KeyUnavailable
from paymaster.keys.aws import AwsCredentials
from paymaster.keys.ring import kept_keys
from paymaster.redaction import redact
from paymaster.settings import Settings

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY0Container"
SERVICE = {"api": "bedrock", "auth": "aws", "base_url": "https://bedrock-runtime.us-east-1.amazonaws.com"}


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, profile or machine's role of whoever runs this."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class Container:
    """What gives a pod or a container its role's credentials: each time others, which end at a given time."""

    def __init__(self) -> None:
        self.asked = 0
        self.lasts = timedelta(hours=6)
        self.body: bytes | None = None
        self.server = LoopbackServer(self._serve_one)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        ends = (datetime.now(UTC) + self.lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = {"AccessKeyId": f"ASIA{self.asked}", "SecretAccessKey": SECRET, "Token": "tok", "Expiration": ends}
        body = self.body or json.dumps(found).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        return False


@pytest.fixture
async def container(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Container]:
    container = Container()
    await container.server.listen()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{container.server.port}/role")
    yield container
    await container.server.refuse()


async def found(source: AwsCredentials) -> str:
    return (await source.get("aws://default")).reveal()


async def test_variables_are_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source = AwsCredentials()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert await found(source) == f"AKIA1:{SECRET}"
    assert redact(f"it is {SECRET}") == "it is [key]"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "tok")
    assert await found(source) == f"AKIA2:{SECRET}:tok"


async def test_a_roles_credentials_are_renewed_before_they_end(container: Container) -> None:
    source = AwsCredentials()
    assert {await found(source) for _ in range(3)} == {f"ASIA1:{SECRET}:tok"}
    assert container.asked == 1
    container.lasts = timedelta(minutes=9)
    short = AwsCredentials()
    assert await found(short) != await found(short), "less than botocore wants to be left of their time"


async def test_what_gives_credentials_and_fails_may_do_so_for_now(container: Container) -> None:
    container.body = b"<html>a secret</html>"
    with pytest.raises(KeySourceDown) as down:
        await AwsCredentials().get("aws://default")
    assert "a secret" not in str(down.value)


async def test_where_nobody_says_who_we_are_there_is_advice() -> None:
    with pytest.raises(KeyUnavailable, match="AWS_ACCESS_KEY_ID") as nothing:
        await AwsCredentials().get("aws://default")
    assert not isinstance(nothing.value, KeySourceDown)


async def test_a_service_without_a_key_gets_them_from_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_KEY", f"AKIA9:{SECRET}")
    services = {"ambient": SERVICE, "named": SERVICE | {"key": "aws-key"}}
    settings = Settings.model_validate({"services": services})
    ring = kept_keys(settings)
    names = [service.key_name or "" for service in settings.services.values()]
    values = [(await ring.get(name)).reveal() for name in names]
    await ring.close()
    assert values == [f"AKIA1:{SECRET}", f"AKIA9:{SECRET}"]


async def test_a_key_that_cannot_sign_is_found_before_a_call_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `paymaster keys check` and `paymaster doctor`."""
    monkeypatch.setenv("AWS_KEY", "bedrock-api-key-SENTINEL")
    settings = Settings.model_validate({"services": {"signed": SERVICE | {"key": "aws-key"}}})
    (found,) = [each async for each in find_keys(settings)]
    assert found.problem is not None
    assert found.problem.startswith("the key 'aws-key' is none of AWS")
    assert "SENTINEL" not in found.problem
