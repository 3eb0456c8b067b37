"""The codec server: it shows payloads to who has the token, from pages that may ask, and nothing to others."""

import json
import os
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import Payload

from paymaster.keys.api_key import ApiKey, EnvironmentKeys
from paymaster.security import codec_server
from paymaster.security.codec_server import BODY_BYTES_MAX, codec_application
from paymaster.security.encryption import PayloadEncryption

TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
UI, OTHER = "https://temporal.example.com", "https://evil.example.com"
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data='"a prompt with ü"'.encode())
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
async def encryption() -> PayloadEncryption:
    variables = {"PAYMASTER_KEY_K": b64encode(os.urandom(32)).decode()}
    encryption = PayloadEncryption(["k"], lambda: EnvironmentKeys(variables))
    await encryption.load()
    return encryption


@pytest.fixture(scope="module")
async def client(encryption: PayloadEncryption) -> AsyncIterator[httpx.AsyncClient]:
    runner = web.AppRunner(codec_application(encryption, ApiKey(TOKEN), [UI, "http://localhost:8233"]))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    await runner.cleanup()


@pytest.fixture(autouse=True)
def no_cookies(client: httpx.AsyncClient) -> None:
    client.cookies.clear()


def body_of(*payloads: Payload) -> dict[str, Any]:
    return {"payloads": [MessageToDict(payload) for payload in payloads]}


async def hidden(encryption: PayloadEncryption) -> Payload:
    return (await encryption.encode([PLAIN]))[0]


def contents(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [b64decode(payload["data"]).decode() for payload in response.json()["payloads"]]


# ---------------------------------------------------------------- with the token


async def test_who_has_the_token_gets_the_content(client: httpx.AsyncClient, encryption: PayloadEncryption) -> None:
    """Asked like the UI, with the namespace and a query in the address; plain payloads come back as they are."""
    body = body_of(await hidden(encryption), PLAIN)
    response = await client.post(
        "/decode?preserveStorageRefs=true", json=body, headers=BEARER | {"Origin": UI, "X-Namespace": "default"}
    )
    assert contents(response) == ['"a prompt with ü"'] * 2
    assert response.headers["access-control-allow-origin"] == UI
    assert response.headers["access-control-allow-credentials"] == "true"
    assert response.headers["cache-control"] == "no-store"
    assert (await client.post("/decode", json={"payloads": []}, headers=BEARER)).json() == {}


async def test_what_crossed_compressed_is_shown_as_json(
    client: httpx.AsyncClient, encryption: PayloadEncryption
) -> None:
    """What is not compressed after all stays as it is."""
    packed = Payload(metadata={"encoding": b"json/zlib"}, data=zlib.compress(b'{"commands": []}'))
    forged = Payload(metadata={"encoding": b"json/zlib"}, data=b"{}")
    (hidden_packed,) = await encryption.encode([packed])
    body = body_of(packed, hidden_packed, forged)
    response = await client.post("/decode", json=body, headers=BEARER)
    assert contents(response) == ['{"commands": []}'] * 2 + ["{}"]
    kinds = [b64decode(payload["metadata"]["encoding"]) for payload in response.json()["payloads"]]
    assert kinds == [b"json/plain", b"json/plain", b"json/zlib"]


async def test_what_is_encoded_is_encrypted(client: httpx.AsyncClient, encryption: PayloadEncryption) -> None:
    encoded = await client.post("/encode", json=body_of(PLAIN), headers=BEARER)
    assert b"prompt" not in b64decode(encoded.json()["payloads"][0]["data"])
    assert contents(await client.post("/decode", json=encoded.json(), headers=BEARER)) == ['"a prompt with ü"']


async def test_what_cannot_be_decrypted_shows_the_reason_and_hides_nothing_else(
    client: httpx.AsyncClient, encryption: PayloadEncryption
) -> None:
    good = await hidden(encryption)
    cut = Payload(metadata=good.metadata, data=good.data[:-1])
    unknown = Payload(metadata={**good.metadata, "encryption-key-id": b'l\xc3\xb6"st'}, data=good.data)
    first, second, third = contents(await client.post("/decode", json=body_of(cut, unknown, good), headers=BEARER))
    assert "cannot be decrypted: this was changed or cut" in json.loads(first)
    assert "encrypted with the key 'lö\"st'" in json.loads(second)
    assert third == '"a prompt with ü"'


async def test_a_browser_signs_in_once_and_is_known_by_its_cookie(
    client: httpx.AsyncClient, encryption: PayloadEncryption, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = body_of(await hidden(encryption))
    assert "The token lets" in (await client.get("/")).text
    signed_in = await client.post("/sign-in", data={"token": TOKEN}, headers={"Origin": str(client.base_url)})
    assert signed_in.status_code == 200
    cookie = signed_in.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "You are signed in" in (await client.get("/")).text
    assert contents(await client.post("/decode", json=body, headers={"Origin": UI})) == ['"a prompt with ü"']
    later = time.time() + codec_server.SIGNED_IN_FOR_S + 1
    monkeypatch.setattr(codec_server.time, "time", lambda: later)
    assert (await client.post("/decode", json=body, headers={"Origin": UI})).status_code == 401


async def test_behind_a_proxy_with_tls_the_cookie_is_for_secure_connections_of_any_site(
    client: httpx.AsyncClient,
) -> None:
    """The UI is another site then, and browsers send it only such a cookie."""
    headers = {"X-Forwarded-Proto": "https", "Host": "codec.example.com", "Origin": "https://codec.example.com"}
    cookie = (await client.post("/sign-in", data={"token": TOKEN}, headers=headers)).headers["set-cookie"]
    assert "Secure" in cookie
    assert "SameSite=None" in cookie


async def test_a_browser_may_ask_from_the_configured_pages(client: httpx.AsyncClient) -> None:
    """The preflight comes without a token, and allows what the Temporal UI sends."""
    response = await client.options(
        "/decode",
        headers={
            "Origin": UI,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-namespace",
        },
    )
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == UI
    allowed = {name.strip() for name in response.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "x-namespace"} <= allowed
    assert "POST" in response.headers["access-control-allow-methods"]


# ---------------------------------------------------------------- without


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}0"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Cookie": f"paymaster_codec={TOKEN}"},
        {"Cookie": "paymaster_codec=99999999999.00"},
        {"Cookie": "paymaster_codec=x.y.z"},
        {"Cookie": b"paymaster_codec=9\xff.\xff"},
    ],
)
@pytest.mark.parametrize("path", ["/decode", "/encode"])
async def test_nobody_else_gets_anything(
    client: httpx.AsyncClient, encryption: PayloadEncryption, headers: dict[str, Any], path: str
) -> None:
    """Not even whether the body makes sense. A page of the UI can read the refusal."""
    for body in (body_of(await hidden(encryption)), {"payloads": 7}):
        response = await client.post(path, json=body, headers=headers | {"Origin": UI})
        assert response.status_code == 401
        assert "token" in response.text
        assert TOKEN not in response.text
        assert response.headers["access-control-allow-origin"] == UI


async def test_a_wrong_token_signs_nobody_in(client: httpx.AsyncClient) -> None:
    for token in ("", TOKEN[:-1], "ü" * 32):
        response = await client.post("/sign-in", data={"token": token})
        assert response.status_code == 401
        assert "set-cookie" not in response.headers


async def test_pages_of_other_origins_get_nothing_even_with_the_token(
    client: httpx.AsyncClient, encryption: PayloadEncryption
) -> None:
    """Neither an answer nor a preflight; also no sandboxed page, and none whose address only begins or ends alike."""
    body = body_of(await hidden(encryption))
    for origin in (OTHER, "null", UI + ".evil.com", UI + ":444", "http://temporal.example.com", "http://127.0.0.1"):
        for response in (
            await client.post("/decode", json=body, headers=BEARER | {"Origin": origin}),
            await client.post("/sign-in", data={"token": TOKEN}, headers={"Origin": origin}),
            await client.options("/decode", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}),
        ):
            assert response.status_code == 403, origin
            assert "access-control-allow-origin" not in response.headers
            assert "set-cookie" not in response.headers


async def test_bodies_have_a_limit_and_must_make_sense(client: httpx.AsyncClient) -> None:
    of_payloads = (b"7", b"[7]", b"[null]", b'[{"data": 7}]', b'[{"metadata": [7]}]')
    wrong = [b'{"payloads": ' + payloads + b"}" for payloads in of_payloads]
    for body in (b"", b"7", b"[]", b"{", b"\xff", b"[" * 100_000, *wrong):
        response = await client.post("/decode", content=body, headers=BEARER | {"Origin": UI})
        assert response.status_code == 400, body[:40]
        assert response.headers["access-control-allow-origin"] == UI
    unknown_charset = BEARER | {"Content-Type": "application/json; charset=none-such"}
    assert (await client.post("/decode", content=b"{}", headers=unknown_charset)).status_code == 400
    too_long = await client.post("/decode", content=b" " * (BODY_BYTES_MAX + 1), headers=BEARER)
    assert too_long.status_code == 413
    assert (await client.post("/sign-in", data={"token": "x" * 5_000})).status_code == 400
    assert (await client.post("/sign-in", files={"token": b"x"})).status_code == 400
