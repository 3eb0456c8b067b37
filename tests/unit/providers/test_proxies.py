"""Proxies of the environment: used where it says so, and nothing that stands there stops a worker."""

import logging

import pytest

from paymaster.providers.connections import Connections
from paymaster.providers.proxies import proxy_for
from paymaster.settings import ServiceSettings

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
API = "https://api.openai.com/v1"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, API, None),
        ({"HTTPS_PROXY": "http://p:3128"}, API, "http://p:3128"),
        ({"https_proxy": "http://p:3128"}, API, "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128"}, API, None),
        ({"HTTPS_PROXY": "p:3128"}, API, "http://p:3128"),
        ({"HTTPS_PROXY": "user:pass@p:3128"}, API, "http://p:3128"),
        ({"HTTPS_PROXY": " ", "ALL_PROXY": " http://p:3128 "}, API, "http://p:3128"),
        ({"ALL_PROXY": "http://p:3128"}, API, "http://p:3128"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:3128"}, API, "http://p:3128"),
        ({"ALL_PROXY": "socks5://p:1080"}, API, "socks5://p:1080"),
        ({"ALL_PROXY": "socks5h://p:1080"}, API, "socks5h://p:1080"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "localhost,[::1],.openai.com"}, API, None),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "[::1],other.example"}, API, "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, API, None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://127.0.0.1:8080/v1", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://[::1]:8080/v1", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://localhost:8080/v1", None),
    ],
)
def test_the_environment_says_which_proxy_is_used(
    environment: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(url)
    assert (None if found is None else str(found.url)) == proxy


@pytest.mark.parametrize(
    "written", ["ftp://p:21", "http://[::1", "http://user:hunter2@[::1", "socks4://p:1080", "p p", "http://p:99999"]
)
def test_a_proxy_that_cannot_be_read_is_left_out(
    written: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", written)
    with caplog.at_level(logging.WARNING):
        assert proxy_for(API) is None
    assert "HTTPS_PROXY cannot be read" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_PROXY": "localhost,[::1]", "HTTPS_PROXY": "http://p:3128"},
        {"ALL_PROXY": "socks5://127.0.0.1:1080"},
        {"HTTPS_PROXY": "http://[::1"},
    ],
)
async def test_connections_are_made_whatever_the_environment_says(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    await Connections({"one": ServiceSettings(api="openai", base_url=API)}).close()
