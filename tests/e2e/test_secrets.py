"""Promise 8: a provider's key is in no history, no log and no row, whatever the provider does with it."""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from counting_server import ANSWER, CountingServer, Received, Reply
from key_search import find_key
from paymaster_process import Databases, Site, configuration, readable_history, running_site, settled_books, until
from sqlalchemy import text

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(90)
KEY = "sk-live+Zq7/Wm3=Kx9%Tf5-Rb2_Hd8Lc4Vn6"
UNUSABLE_KEY = "sk-broken Jp1Yg5Ns0Ea"  # a space: no header can carry it
CONTROL = "A control string, not a secret: 50% + 1/2"


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    services = [server.service(f"secret-{n}") for n in (1, 2, 3)]
    tables: dict[str, Any] = configuration(
        services,
        routes={"writer": services[:2], "unusable": services[2:]},
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        service={"key": "provider-key"},
    )
    tables["services"]["secret-3"]["key"] = "unusable-key"
    environment = {"PAYMASTER_KEY_PROVIDER_KEY": KEY, "PAYMASTER_KEY_UNUSABLE_KEY": UNUSABLE_KEY}
    async with running_site(
        stack.temporal_address, await databases.create(), module_folder, tables, environment=environment
    ) as site:
        yield site


async def everything_readable(site: Site) -> dict[str, str]:
    """All that anybody could read: histories with their payloads decoded and as they are, logs, and every row."""
    histories: list[str] = []
    async for execution in site.client.list_workflows():
        handle = site.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        histories += [await readable_history(handle), (await handle.fetch_history()).to_json()]
    rows: list[str] = []
    async with site.engine.connect() as connection:
        tables = await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        for table in tables.all():
            found = await connection.scalars(text(f'SELECT to_jsonb(t)::text FROM "{table}" AS t'))
            rows += found.all()
    return {"histories": "\n".join(histories), "logs": site.logs(), "rows": "\n".join(rows)}


def echo(request: Received) -> bytes:
    """What some gateways do: the whole request in the error."""
    return json.dumps({"error": {"message": f"{CONTROL}: cannot use header {request.authorization}"}}).encode()


def echo_in_text(request: Received) -> bytes:
    return f"<html>{CONTROL} Authorization: {request.authorization}</html>".encode()


def echo_at_the_cut(position: int) -> Reply:
    """An error page in which the key lies across the place where we cut long texts off."""

    def body(request: Received) -> bytes:
        head = "x" * (position - len("Bearer ") - len(KEY) // 2)
        return f"{head}{request.authorization} and so on".encode()

    return Reply(403, body=body)


async def test_no_key_is_in_any_history_log_or_row(site: Site, server: CountingServer) -> None:
    """After calls that succeed, are retried, fall back and fail, with a provider that repeats the key in its errors."""
    first, second, unusable = (server.service(f"secret-{n}") for n in (1, 2, 3))
    stories: list[tuple[list[Reply], list[Reply], Outcome]] = [
        ([ANSWER], [], Outcome.COMPLETED),
        ([Reply(429, body=echo), Reply(500, body=echo), ANSWER], [], Outcome.COMPLETED),
        ([Reply(401, body=echo)], [Reply(headers={"x-request-id": f"{KEY}-1"})], Outcome.COMPLETED),
        ([Reply(403, body=echo_in_text)], [Reply(400, body=echo)], Outcome.UNAVAILABLE),
        ([Reply(502, body=echo_in_text), Reply(200, body=echo_in_text)], [ANSWER], Outcome.COMPLETED),
        ([echo_at_the_cut(300)], [echo_at_the_cut(500)], Outcome.UNAVAILABLE),
        ([Reply(200, body=echo_at_the_cut(200).body), ANSWER], [], Outcome.COMPLETED),
    ]
    results: list[LLMResult] = []
    for at_first, at_second, outcome in stories:
        first.script.extend(at_first)
        second.script.extend(at_second)
        request = LLMRequest(route="writer", budget="acme/writer", prompt=CONTROL, metadata={"note": CONTROL})
        result = await try_generate(site.client, request)
        assert result.outcome is outcome
        results.append(result)
    request = LLMRequest(route="unusable", budget="acme/writer", prompt="Say hello")
    results.append(await try_generate(site.client, request))
    assert (results[-1].reason, unusable.count) == ("no_key", 0)
    await settled_books(site, first, second)
    assert {request.authorization for request in (*first.requests, *second.requests)} == {f"Bearer {KEY}"}

    async def all_listed() -> bool:
        listed = {execution.id async for execution in site.client.list_workflows()}
        return {f"call/{result.call_id}" for result in results} <= listed

    await until(all_listed, "Temporal lists every call")
    places = await everything_readable(site)
    # The same search finds what is there: in each place, and in both forms of the histories.
    assert [name for name, place in places.items() if not find_key(place, CONTROL)] == []
    assert len(find_key(places["histories"], CONTROL)) >= 4, "base64 is not searched"
    for name, place in places.items():
        for secret in (KEY, UNUSABLE_KEY):
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
