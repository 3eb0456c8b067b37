"""What a governed call is for Temporal's server: actions, requests to its frontend, writes of its database, history."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from uuid import uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks.calls import AT_ONCE, governed, rate
from benchmarks.figures import Figure
from benchmarks.site import Site
from paymaster import client as paymaster
from paymaster.messages import call_workflow_id

_COUNTED: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "actions of Temporal Cloud": ("action", "action_type", {}),
    "requests to Temporal's frontend": ("service_requests", "operation", {"service_name": "frontend"}),
    "writes of Temporal's database": ("persistence_requests", "operation", {}),
}
"""By what is counted: the server's metric, by which of its labels it is told apart, and those that it must have."""
_READS = ("Get", "Read", "List")
"""How operations of the database begin that change nothing; some of them are asked for all the time."""
_NO_NAMESPACE = "_unknown_"
"""What the server says of work that it does for none in particular, as for its shards."""
_NAMED_MAX = 8
_TELLS_WITHIN_S = 1.5
"""The server tells its metrics once a second."""
_RESTS_WITHIN_S = 60.0
_ANSWERS_WITHIN_S = 60.0
"""Of hundreds of namespaces it has many megabytes to tell, which takes it seconds when it is busy."""


async def load_of_the_server(site: Site, *, calls: int = 400) -> list[Figure]:
    """For each call, 50 at once. The server's own counting, of what it did for the site's namespace and for none."""
    await rate(site, governed, AT_ONCE, AT_ONCE)  # what only the first calls cost
    before = await _settled(site)
    await rate(site, governed, calls, AT_ONCE)
    after = await _settled(site)
    figures: list[Figure] = []
    for what, of_kinds in after.items():
        of_kinds.subtract(before[what])
        named = ", ".join(f"{name} {count / calls:.2f}" for name, count in of_kinds.most_common(_NAMED_MAX))
        figures.append(Figure(f"{what}, for each governed call", of_kinds.total() / calls, "", None, named))
    return [*figures, Figure("history of a governed call", await _history_bytes(site), "bytes")]


async def _history_bytes(site: Site) -> int:
    call_id = str(uuid4())
    await paymaster.generate(site.client, site.request().model_copy(update={"call_id": call_id}))
    described = await site.client.get_workflow_handle(call_workflow_id(call_id)).describe()
    return described.raw_description.workflow_execution_info.history_size_bytes


async def _settled(site: Site) -> dict[str, Counter[str]]:
    """What is counted when the server has told of all that it did for calls; polls it has all the time.

    Raises TimeoutError if its actions do not come to rest.
    """
    (actions, *_), before = _COUNTED, await _counted(site)
    async with asyncio.timeout(_RESTS_WITHIN_S):
        while True:
            await asyncio.sleep(_TELLS_WITHIN_S)
            counted = await _counted(site)
            if counted[actions] == before[actions]:
                return counted
            before = counted


async def _counted(site: Site) -> dict[str, Counter[str]]:
    samples = await told_by_server(site, *(name for name, *_ in _COUNTED.values()))
    counted = {what: Counter[str]() for what in _COUNTED}
    for what, (name, told_by, needed) in _COUNTED.items():
        for sample in samples:
            kind = sample.labels.get(told_by, "")
            is_one = sample.name.removesuffix("_total") == name and needed.items() <= sample.labels.items()
            if is_one and not kind.startswith(_READS):
                counted[what][kind] += int(sample.value)
    return counted


async def told_by_server(site: Site, *names: str) -> list[Sample]:
    """What the server's metrics of these names, and of longer ones, say of the site's namespace and of none."""
    async with httpx.AsyncClient(trust_env=False, timeout=_ANSWERS_WITHIN_S) as client:
        text = (await client.get(site.stack.temporal.metrics_url)).raise_for_status().text
    # Others use this server too. Of hundreds of namespaces it tells so much that to read it all takes minutes.
    namespaces = tuple(f'namespace="{name}"' for name in (site.client.namespace, _NO_NAMESPACE))
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(names) and any(namespace in line for namespace in namespaces)
    ]
    return [sample for family in text_string_to_metric_families("\n".join(lines)) for sample in family.samples]
