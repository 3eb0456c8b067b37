"""What a call in a provider's own format costs, against one in Paymaster's words; and what the transport adds."""

import json
import time

import httpx2

from benchmarks.calls import governed
from benchmarks.figures import Figure, percentile
from benchmarks.paired import paired
from benchmarks.resources import cpu_seconds
from benchmarks.site import PROMPT, Site
from paymaster import client as paymaster
from paymaster.messages import LLMRequest
from paymaster.messages.wire import Wire
from paymaster.transport import PaymasterTransport

_BODY = json.dumps({"model": "now", "messages": [{"role": "user", "content": PROMPT}]}).encode()
_URL = "https://api.openai.com/v1/chat/completions"


async def wire(site: Site) -> None:
    request = LLMRequest(route="now", budget="bench/agent", wire=Wire(dialect="openai", body=_BODY))
    assert (await paymaster.generate(site.client, request)).wire is not None


async def cost_of_the_format(site: Site, *, pairs: int = 15, calls: int = 100) -> list[Figure]:
    """Processor time of the worker for a call of each kind, in turn."""
    of_worker = await paired(site, wire, governed, lambda: cpu_seconds(site.worker), pairs, calls)
    ratios = sorted(ours / theirs for ours, theirs in of_worker)
    detail = f"{pairs} pairs of {calls} calls: {ratios[0]:.2f} to {ratios[-1]:.2f}"
    what = "processor time in the worker, wire call / neutral"
    return [Figure(what, percentile(ratios, 0.5), "", ("≤", 1.1), detail)]


async def cost_of_the_transport(site: Site, *, pairs: int = 15, calls: int = 100) -> list[Figure]:
    """Processor time of the caller for a request through the transport, less that of the wire call alone."""
    transport = PaymasterTransport("bench/agent", client=site.client)

    async def through_transport(site: Site) -> None:
        response = await transport.handle_async_request(httpx2.Request("POST", _URL, content=_BODY))
        assert response.status_code == 200
        await response.aread()

    taken = await paired(site, through_transport, wire, time.process_time, pairs, calls)
    added = sorted((ours - theirs) * 1_000 for ours, theirs in taken)
    detail = f"{pairs} pairs of {calls} calls: {added[0]:.2f} to {added[-1]:.2f}"
    return [
        Figure("processor time that the transport adds to a call", percentile(added, 0.5), "ms", ("≤", 2.0), detail)
    ]
