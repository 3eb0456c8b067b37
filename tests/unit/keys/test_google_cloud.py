"""Tokens of Google Cloud: for whom they are asked, renewed before their end, and problems that show nothing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google_token_server import GoogleTokenServer

from paymaster.keys.api_key import EnvironmentKeys, KeySourceDown, KeyUnavailable
from paymaster.keys.google_cloud import GoogleTokens
from paymaster.keys.ring import kept_keys
from paymaster.redaction import redact
from paymaster.settings import Settings

SERVICE = {"api": "vertex-gemini", "auth": "google", "base_url": "https://aiplatform.googleapis.com/v1/projects/a"}


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of whoever runs this, and no machine's."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
async def google() -> AsyncIterator[GoogleTokenServer]:
    async with GoogleTokenServer() as google:
        yield google


def tokens_with(**variables: str) -> GoogleTokens:
    return GoogleTokens(EnvironmentKeys(variables))


async def test_a_service_account_in_a_key_gets_tokens(google: GoogleTokenServer) -> None:
    tokens = tokens_with(GOOGLE_KEY=google.file)
    found = [await tokens.get("google://google-key") for _ in range(3)]
    assert {each.reveal() for each in found} == {"ya29.token-1"}
    assert google.asked == 1
    assert found[0].expires_at is not None
    private = google.account["private_key"]
    assert redact(f"{private} ya29.token-1 {google.file}") == "[key] [key] [key]"


async def test_a_token_is_renewed_minutes_before_its_end(google: GoogleTokenServer) -> None:
    google.lasts_s = 299
    tokens = tokens_with(GOOGLE_KEY=google.file)
    assert [(await tokens.get("google://google-key")).reveal() for _ in range(2)] == ["ya29.token-1", "ya29.token-2"]
    google.lasts_s = 400
    assert {(await tokens.get("google://google-key")).reveal() for _ in range(2)} == {"ya29.token-3"}


async def test_another_file_in_the_key_is_another_account(google: GoogleTokenServer) -> None:
    variables = {"GOOGLE_KEY": google.file}
    tokens = GoogleTokens(EnvironmentKeys(variables))
    await tokens.get("google://google-key")
    async with GoogleTokenServer() as other:
        variables["GOOGLE_KEY"] = other.file
        await tokens.get("google://google-key")
        assert (google.asked, other.asked) == (1, 1)


async def test_default_credentials_are_those_of_where_we_run(
    google: GoogleTokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "account.json"
    file.write_text(json.dumps(google.account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    ring = kept_keys(Settings.model_validate({"services": {"vertex": SERVICE}}))
    assert (await ring.get("google://")).reveal() == "ya29.token-1"
    await ring.close()


async def test_the_ring_gives_tokens_for_the_key_that_a_service_names(
    google: GoogleTokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_KEY", google.file)
    settings = Settings.model_validate({"services": {"vertex": SERVICE | {"key": "google-key"}}})
    ring = kept_keys(settings)
    assert (await ring.get(settings.services["vertex"].key_name or "")).reveal() == "ya29.token-1"
    await ring.close()


async def test_where_nobody_says_who_we_are_there_is_advice() -> None:
    with pytest.raises(KeyUnavailable, match="GOOGLE_APPLICATION_CREDENTIALS") as nothing:
        await tokens_with().get("google://")
    assert not isinstance(nothing.value, KeySourceDown)


@pytest.mark.parametrize("value", ["no-base64!", "e30=", "eyJwcml2YXRlX2tleSI6ICJzZWNyZXQga2V5In0="])
async def test_a_key_that_is_no_account_is_told_without_its_content(value: str) -> None:
    with pytest.raises(KeyUnavailable, match="base64 -w0 FILE") as problem:
        await tokens_with(GOOGLE_KEY=value).get("google://google-key")
    assert value not in str(problem.value)
    assert problem.value.__context__ is None


@pytest.mark.parametrize(
    ("answer", "is_down"),
    [
        ((400, b'{"error": "invalid_grant", "error_description": "a secret"}'), False),
        ((500, b'{"error": "internal_failure", "error_description": "a secret"}'), True),
    ],
)
async def test_what_google_refuses_is_told_in_our_words(
    google: GoogleTokenServer, answer: tuple[int, bytes], is_down: bool
) -> None:
    google.answer = answer
    with pytest.raises(KeyUnavailable, match="Google Cloud") as refused:
        await tokens_with(GOOGLE_KEY=google.file).get("google://google-key")
    assert isinstance(refused.value, KeySourceDown) is is_down
    assert "a secret" not in str(refused.value)


async def test_nobody_there_is_an_outage(google: GoogleTokenServer) -> None:
    file = google.file
    await google.__aexit__(None, None, None)
    with pytest.raises(KeySourceDown, match="nobody answers"):
        await tokens_with(GOOGLE_KEY=file).get("google://google-key")
