"""A cap is as exact through the gateway as through the client: 200 requests, 100 at a time, money for about twenty."""

import asyncio
import random
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
from counting_server import CountingServer, Received
from gateway_process import KEY, client_table, running_gateway
from paymaster_process import Databases, caps_watched, configuration, running_site, settled_books

from paymaster.devstack import EmbeddedStack
from paymaster.values.money import NANOS_PER_USD, TokenUsage

REQUESTS, AT_ONCE = 200, 100
CAP_NANOS = 20 * 1_400_000


def usage(request: Received) -> TokenUsage:
    """Below the bound, the same for the same question, at $1 and $4 per million tokens 1.4 thousandths of a dollar."""
    draw = random.Random(request.prompt)
    return TokenUsage(input_tokens=draw.randint(900, 1_100), output_tokens=draw.randint(75, 125))


@pytest.mark.timeout(180)
async def test_a_cap_is_exact_under_two_hundred_requests(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> None:
    service = server.service("gateway-capped")
    service.usage = usage
    cap_usd = str(Decimal(CAP_NANOS) / NANOS_PER_USD)
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": cap_usd}}})
    tables["gateway"] = {"wait_at_most": "60s", "clients": {"tester": client_table(KEY, "acme")}}
    turn = asyncio.Semaphore(AT_ONCE)
    async with (
        running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site,
        running_gateway(site) as gateway,
        httpx2.AsyncClient(base_url=gateway.url, headers={"authorization": f"Bearer {KEY}"}, timeout=90) as http,
        caps_watched(site),
    ):

        async def ask(number: int) -> httpx2.Response:
            question = {"role": "user", "content": f"question {number:04}"}
            body = {"model": service.name, "max_tokens": 125, "messages": [question]}
            async with turn:
                return await http.post("/v1/chat/completions", json=body)

        answers = await asyncio.gather(*map(ask, range(REQUESTS)))
        await settled_books(site, service)
        balance = await site.balance("budget:acme")
        bill = service.bill_nanos(site.price(service))

    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {200, 402}
    assert service.count == statuses[200]
    told = sum(Decimal(answer.headers["x-paymaster-cost-usd"]) for answer in answers)
    assert balance.posted_nanos == bill == told * NANOS_PER_USD <= CAP_NANOS
    left = Decimal(CAP_NANOS - bill) / NANOS_PER_USD
    refused = [answer.json()["error"]["message"] for answer in answers if answer.status_code == 402]
    bounds = {Decimal(found[1]) for text in refused if (found := re.search(r"can cost up to \$([0-9.]+[0-9])", text))}
    assert len(bounds) == 1, "all requests are of one length"
    assert left < bounds.pop(), "a request was refused that still fits when everything has settled"
