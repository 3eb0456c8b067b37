"""Promise 8: a provider's key is in no history, log, row, trace, metric or output, whatever is done with it outside.

The same test runs twice: as it is, and with redaction switched off, when it must find the key in every place.
"""

import asyncio
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from counting_server import ANSWER, CountingServer, Received, Reply
from key_search import find_key
from large_answers import stream
from otlp_receiver import OtlpReceiver
from paymaster_process import (
    MODEL,
    ROOT,
    Databases,
    Site,
    configuration,
    running_site,
    settled_books,
    until,
)
from readable_places import everything_readable

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Wire
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(120)
KEY = 'sk-live+Zq7/Wm3=Kx9%Tf5-Rb2_Hd8"Lc4\\Vn6&Qs1'
"""With characters that URLs, JSON and HTML escape, and that base64 shows with both of its alphabets."""
UNUSABLE_KEY = "sk-broken Jp1Yg5Ns0Ea"  # a space: no header can carry it
AWS_SECRET, AWS_TOKEN = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY5Zp3Qn8Vd2", "FwoGZXIvYXdzEJr4Tk9+Lm1/Xc7Pb3=="
CONTROL = "A control string, not a secret: 50% + 1/2"
WRITTEN = {
    "plain": KEY,
    "JSON": json.dumps(KEY)[1:-1],
    "URL": quote(KEY, safe=""),
    "base64": b64encode(f"Bearer {KEY}".encode()).decode()[12:-4],
}


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module", params=["redacted", "leaking"])
async def site(
    request: pytest.FixtureRequest,
    receiver: OtlpReceiver,
    stack: EmbeddedStack,
    databases: Databases,
    server: CountingServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Site]:
    """A worker that logs all that it can; once as it is, and once with redaction switched off."""
    services = [server.service(f"{request.param}-{n}") for n in (1, 2, 3, 4)]
    tables: dict[str, Any] = configuration(
        services,
        routes={"writer": services[:2], "unusable": services[2:3], "signed": services[3:]},
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        service={"key": "provider-key", "breaker": {"failures": 1_000, "cooldown": "30s"}},
    )
    tables["services"][services[2].name]["key"] = "unusable-key"
    signed = {"api": "bedrock", "auth": "aws", "region": "us-east-1", "key": "aws-key"}
    tables["services"][services[3].name] |= signed
    tables["telemetry"] = {"otlp_endpoint": receiver.url, "record_content": True}
    receiver.texts.clear()
    nonsense = await asyncio.start_server(_talk_nonsense, "127.0.0.1", 0)
    port = nonsense.sockets[0].getsockname()[1]
    own_url = services[0].base_url.removesuffix(f"/{services[0].name}/v1")
    for name, base_url in {
        "nonsense": f"http://127.0.0.1:{port}",
        "in-url": f"{own_url}/{quote(KEY, safe='')}/v1",
        "unreachable": f"http://127.0.0.1:1/{quote(KEY, safe='')}/v1",
    }.items():
        tables["services"][name] = tables["services"][services[0].name] | {"base_url": base_url}
        tables["routes"][name] = [f"{name}/{MODEL}"]
    environment = {
        "PAYMASTER_KEY_PROVIDER_KEY": KEY,
        "PAYMASTER_KEY_UNUSABLE_KEY": UNUSABLE_KEY,
        "PAYMASTER_KEY_AWS_KEY": f"AKIAEXAMPLE0KEY0ID00:{AWS_SECRET}:{AWS_TOKEN}",
        "PYTHONASYNCIODEBUG": "1",
    }
    program = [
        ROOT / "tests" / "support" / "debugged_worker.py",
        *(["--leaking"] if request.param == "leaking" else []),
    ]
    folder = tmp_path_factory.mktemp("site")
    url = await databases.create()
    async with (
        nonsense,
        running_site(stack.temporal_address, url, folder, tables, workers=0, environment=environment) as site,
    ):
        await site.start_workers(program=program)
        yield site


async def _talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that does not speak HTTP, and repeats what it heard: the client's error has it."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        heard = next(line for line in head if line.lower().startswith("authorization:"))
        writer.write(f"NONSENSE {heard}\r\n\r\n".encode())
        await writer.drain()
    writer.close()


def echo(request: Received) -> bytes:
    """What some gateways do: the whole request in the error."""
    return json.dumps({"error": {"message": f"{CONTROL}: cannot use header {request.authorization}"}}).encode()


def echo_token(request: Received) -> bytes:
    return json.dumps({"message": f"{CONTROL}: {request.headers['x-amz-security-token']}"}).encode()


def echo_in_text(request: Received) -> bytes:
    return f"<html>{CONTROL} Authorization: {request.authorization}</html>".encode()


def echo_at_the_cut(position: int) -> Reply:
    """An error page in which the key lies across the place where we cut long texts off."""

    def body(request: Received) -> bytes:
        head = "x" * (position - len("Bearer ") - len(KEY) // 2)
        return f"{head}{request.authorization} and so on".encode()

    return Reply(403, body=body)


def echo_encoded(request: Received) -> bytes:
    """An error that has the header three times: as a URL, base64 and JSON write it."""
    said = request.authorization
    message = f"{CONTROL}: {quote(said, safe='')} {b64encode(said.encode()).decode()} {json.dumps(said)}"
    return json.dumps({"error": {"message": message}}).encode()


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"


IN_PIECES = Reply(
    stream=[
        *(event(choices=[{"delta": {"content": f"{piece}"}}]) for piece in ("It is ", KEY[:9], KEY[9:20], KEY[20:])),
        event(choices=[{"delta": {}, "finish_reason": "stop"}]),
        event(choices=[], usage={"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}),
        "data: [DONE]\n\n",
    ]
)
ERROR_IN_STREAM = Reply(stream=[event(error={"message": f"cannot use {KEY}", "code": 500})])


async def test_no_key_is_in_any_history_log_row_trace_metric_or_output(
    site: Site, server: CountingServer, receiver: OtlpReceiver, request: pytest.FixtureRequest
) -> None:
    """After calls that succeed, are retried, fall back and fail, with a provider that repeats the key in errors,
    headers and streams, connection errors and URLs that hold it, debug logging, and a crash of the worker.
    """
    leaking = request.node.callspec.params["site"] == "leaking"
    first, second, unusable, signed = (server.service(name) for name in list(site.settings.services)[:4])
    stories: list[tuple[list[Reply], list[Reply], Outcome]] = [
        ([ANSWER], [], Outcome.COMPLETED),
        ([Reply(429, body=echo), Reply(500, body=echo), ANSWER], [], Outcome.COMPLETED),
        ([Reply(401, body=echo)], [Reply(headers={"x-request-id": f"{KEY}-1"})], Outcome.COMPLETED),
        ([Reply(403, body=echo_in_text)], [Reply(400, body=echo)], Outcome.UNAVAILABLE),
        ([Reply(502, body=echo_in_text), Reply(200, body=echo_in_text)], [ANSWER], Outcome.COMPLETED),
        ([echo_at_the_cut(300)], [echo_at_the_cut(500)], Outcome.UNAVAILABLE),
        ([Reply(200, body=echo_at_the_cut(200).body), ANSWER], [], Outcome.COMPLETED),
        ([Reply(400, body=echo_encoded, headers={"x-echo": KEY})], [Reply(400, body=echo)], Outcome.UNAVAILABLE),
        ([IN_PIECES], [], Outcome.COMPLETED),
        ([ERROR_IN_STREAM, ANSWER], [], Outcome.COMPLETED),
    ]
    results: list[LLMResult] = []
    for at_first, at_second, outcome in stories:
        first.script.extend(at_first)
        second.script.extend(at_second)
        asked = LLMRequest(route="writer", budget="acme/writer", prompt=CONTROL, metadata={"note": CONTROL})
        result = await try_generate(site.client, asked)
        assert result.outcome is outcome, (at_first, result)
        results.append(result)
    for route in ("unusable", "nonsense", "in-url", "unreachable"):
        results.append(await try_generate(site.client, LLMRequest(route=route, budget="acme/writer", prompt=CONTROL)))
        assert results[-1].outcome is Outcome.UNAVAILABLE
    reasons = [result.reason for result in results[-4:]]
    assert reasons == ["no_key", "connection_lost", "model_not_found", "not_connected"]
    assert unusable.count == 0
    signed.script.append(Reply(400, body=echo_token))
    results.append(await try_generate(site.client, LLMRequest(route="signed", budget="acme/writer", prompt=CONTROL)))
    assert (results[-1].reason, signed.requests[0].headers["x-amz-security-token"]) == ("invalid_request", AWS_TOKEN)
    first.script.clear()
    wire = Wire(
        dialect="openai", body=b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true}'
    )
    echoing = event(model="m-1", choices=[{"index": 0, "delta": {"content": f"{CONTROL} {KEY}"}}])
    large, _ = stream(30_000, billed=TokenUsage(input_tokens=12, output_tokens=5))
    first.script.append(Reply(stream=[echoing, *(large.stream or ())]))
    results.append(await try_generate(site.client, LLMRequest(route="writer", budget="acme/writer", wire=wire)))
    assert results[-1].wire is not None
    assert results[-1].wire.stored is not None
    await settled_books(site, first, second)
    assert {received.authorization for received in (*first.requests, *second.requests)} == {f"Bearer {KEY}"}

    for service in (first, second):
        service.script.append(Reply(400, body=echo))
    outputs = await asyncio.gather(
        site.command("call", "writer", CONTROL, "--budget", "acme/cli"), site.command("unconfirmed", "list")
    )
    assert [ended.code for ended in outputs] == [1, 0]

    async def all_listed() -> bool:
        listed = {execution.id async for execution in site.client.list_workflows()}
        return {f"call/{result.call_id}" for result in results} <= listed

    await until(all_listed, "Temporal lists every call")
    assert await site.workers[0].terminate() == 1, "it does not crash, so this proves nothing"
    places = await everything_readable(site)
    assert '\nCrash: {"authorization": ' in places["logs"]
    assert "receive_response_headers.complete" in places["logs"], "the log has no debugging, so this proves nothing"
    places["traces and metrics"] = receiver.text
    places["outputs"] = "".join(ended.output + ended.errors for ended in outputs)
    # The same search finds what is there: in each place, and in both forms of the histories.
    assert [name for name, place in places.items() if not find_key(place, CONTROL)] == []
    assert len(find_key(places["histories"], CONTROL)) >= 4, "base64 is not searched"
    if leaking:
        assert [name for name, place in places.items() if not find_key(place, KEY)] == []
        forms = {form for form, written in WRITTEN.items() for place in places.values() if written in place}
        assert forms == set(WRITTEN), "not every form was there to be found"
        assert find_key(places["histories"], AWS_TOKEN)
    for name, place in places.items():
        for secret in (UNUSABLE_KEY, AWS_SECRET) if leaking else (KEY, UNUSABLE_KEY, AWS_SECRET, AWS_TOKEN):
            where = [re.findall(f".{{0,200}}{re.escape(form)}.{{0,20}}", place)[:1] for form in find_key(place, secret)]
            assert where == [], f"a key is in the {name}"


@pytest.mark.parametrize("secret", [KEY, UNUSABLE_KEY, CONTROL])
def test_the_search_finds_a_secret_in_every_encoding(secret: str) -> None:
    """Otherwise the test above could not fail."""
    for before in ("", "a", "ab", "abc"):
        surrounded = f"{before}{secret}xyz"
        for encoded in (
            surrounded,
            json.dumps({"a": surrounded}),
            b64encode(surrounded.encode()).decode(),
            urlsafe_b64encode(surrounded.encode()).decode(),
            quote(surrounded, safe=""),
            surrounded.encode().hex(),
            surrounded[: len(before) + 12],
        ):
            assert find_key(encoded, secret), f"not found in {encoded}"
        assert not find_key(f"{before}something else", secret)
