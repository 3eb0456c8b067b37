"""What `paymaster doctor` says of the gateway."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from loopback_server import LoopbackServer

from paymaster.cli.doctor_gateway import gateway_checks
from paymaster.settings import Settings

ALONE = {"address": "127.0.0.1:0", "budget": "acme"}


async def checked(**gateway: Any) -> dict[str, tuple[bool, str]]:
    settings = Settings.model_validate({"gateway": gateway})
    return {check.name: (check.ok, check.detail) for check in await gateway_checks(settings)}


def files(folder: Path, *, ends_in: timedelta) -> dict[str, Any]:
    leaf = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + ends_in)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    return {"tls_certificate": certificate, "tls_key": key}


async def test_without_a_gateway_nothing_is_said() -> None:
    assert await gateway_checks(Settings()) == []


async def test_a_gateway_that_nobody_may_ask_is_a_problem() -> None:
    found = await checked(address="127.0.0.1:0")
    assert found["gateway clients"] == (
        False,
        "nobody may ask: `paymaster clients create NAME --budget BUDGET` makes one",
    )
    found = await checked(**ALONE)
    assert found["gateway clients"] == (True, "requests without a key, charged to acme")


async def test_why_streams_do_not_come_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAYMASTER_KEY_OF_STREAMS", raising=False)
    ok, detail = (await checked(**ALONE))["gateway streams"]
    assert (ok, "with gateway.streams.secret_key token by token" in detail) == (True, True)
    ok, detail = (await checked(**ALONE, streams={"secret_key": "of-streams"}))["gateway streams"]
    assert (ok, "PAYMASTER_KEY_OF_STREAMS" in detail) == (False, True)
    monkeypatch.setenv("PAYMASTER_KEY_OF_STREAMS", "0123456789abcdef0123456789abcdef")
    ok, detail = (await checked(**ALONE, streams={"secret_key": "of-streams"}))["gateway streams"]
    assert (ok, detail.startswith("token by token")) == (True, True)
    assert "0123456789abcdef" not in detail


async def test_an_admin_needs_a_database() -> None:
    found = await checked(**ALONE, admins={"ada": {"key_sha256": "0" * 64}})
    assert found["gateway admins"] == (False, "administration needs a database: set database.url")


async def test_certificates_are_read_and_their_end_is_said(tmp_path: Path) -> None:
    ok, detail = (await checked(**ALONE, **files(tmp_path, ends_in=timedelta(days=90))))["gateway certificate"]
    assert (ok, "which is soon" in detail) == (True, False)
    ok, detail = (await checked(**ALONE, **files(tmp_path, ends_in=timedelta(days=3))))["gateway certificate"]
    assert (ok, "which is soon" in detail) == (True, True)
    gone = files(tmp_path, ends_in=-timedelta(days=1))
    ok, detail = (await checked(**ALONE, **gone))["gateway certificate"]
    assert (ok, "expired at" in detail) == (False, True)
    (tmp_path / "key.pem").write_text("no key")
    ok, detail = (await checked(**ALONE, streams=gone))["gateway.streams certificate"]
    assert not ok
    assert "cannot be used" in detail


async def test_an_address_is_free_or_a_gateways_or_taken() -> None:
    assert (await checked(**ALONE))["gateway address"][0]
    titles = iter(["Paymaster's gateway", "Something else"])

    async def answer(reader: Any, writer: Any) -> bool:
        await reader.readuntil(b"\r\n\r\n")
        body = f'{{"info": {{"title": "{next(titles)}"}}}}'.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        return False

    server = LoopbackServer(answer)
    await server.listen()
    address = f"127.0.0.1:{server.port}"
    try:
        found = [(await checked(budget="acme", address=address))["gateway address"] for _ in range(2)]
    finally:
        await server.refuse()
    assert found[0] == (True, f"a gateway answers at {address}")
    assert found[1][0] is False
    assert "what is there is no gateway" in found[1][1]
