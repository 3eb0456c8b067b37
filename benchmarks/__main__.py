"""`make bench`: prints a table, and with --json FILE writes the same as data. Only ratios within one run say something.

`make bench ARGS="alone --json figures.json"` runs one part; `--long` takes the time that the memory of a worker needs;
`--temporal postgresql` is Temporal's own server on PostgreSQL, where `make temporal` has built it.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks import (
    bare,
    calls,
    desk,
    gateway,
    memory,
    reservations,
    senders,
    server_load,
    several_budgets,
    streams,
    usage,
    waiting,
    where_time_goes,
    wire_calls,
)
from benchmarks.figures import Figure, as_data, table
from benchmarks.first_answer import first_answer
from benchmarks.site import Site, running_site
from paymaster.devstack import EmbeddedStack
from paymaster.devstack.temporal_programs import HOW_TO_BUILD, TemporalPrograms, built_programs
from paymaster.values.collection import keep_what_is_there

BENCHMARKS: dict[str, Callable[[Site], Awaitable[list[Figure]]]] = {
    "throughput": calls.throughput,
    "agents": calls.throughput_of_agents,
    "alone": calls.added_time,
    "bare": bare.compared,
    "bare-20000": partial(bare.compared, aged_calls=20_000),
    "history": calls.history_events,
    "processor": where_time_goes.processor_time,
    "steps": where_time_goes.steps_of_a_call,
    "server": server_load.load_of_the_server,
    "reservations": reservations.per_second,
    "senders": senders.many,
    "senders-busy": senders.busy,
    "waiting": waiting.calls_at_once,
    "wire": wire_calls.cost_of_the_format,
    "transport": wire_calls.cost_of_the_transport,
    "gateway": gateway.cost_of_the_gateway,
    "budgets": several_budgets.cost_of_budgets,
    "streams": streams.latency,
    "streams-20ms": streams.how_many_hold,
    "memory": memory.growth,
}
LONG = {"bare-20000", "memory", "streams", "streams-20ms"}
"""Only with --long, or when named: 20,000 calls take a quarter of an hour, 200 streams two minutes."""
ALONE: dict[str, Callable[[], list[Figure]]] = {"desk": desk.measure, "demo": first_answer, "usage": usage.measure}
"""These need no Paymaster that runs."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ALONE, *BENCHMARKS, []], help="which ones (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--long", action="store_true", help=f"also {', '.join(LONG)}")
    parser.add_argument(
        "--temporal", choices=["embedded", "postgresql"], default="embedded", help="(default: embedded)"
    )
    parser.add_argument("--url", help="of another gateway, up to /v1, which `gateway` measures in turns with ours")
    parser.add_argument("--key", default="-", help="for the other gateway")
    parser.add_argument("--model", default="bench-model", help="of the other gateway")
    options = parser.parse_args()
    if options.url is not None:
        other = gateway.Address(options.url, options.key, options.model)
        BENCHMARKS["gateway"] = partial(gateway.against_another, other=other)
    programs = built_programs() if options.temporal == "postgresql" else None
    if options.temporal == "postgresql" and programs is None:
        parser.error(f"there is no Temporal server for PostgreSQL here: {HOW_TO_BUILD}")
    names = options.names or [name for name in (*ALONE, *BENCHMARKS) if options.long or name not in LONG]
    figures = [figure for name in names if name in ALONE for figure in ALONE[name]()]
    if on_site := [name for name in names if name in BENCHMARKS]:
        figures += asyncio.run(_measure(on_site, programs))
    sys.stdout.write("\n" + table(figures))
    load = os.getloadavg()[0]
    sys.stdout.write(f"\n{os.cpu_count()} processors; load average at the end {load:.1f}\n")
    if options.json is not None:
        document = {"processors": os.cpu_count(), "load_average": load, "figures": as_data(figures)}
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


async def _measure(names: list[str], programs: TemporalPrograms | None) -> list[Figure]:
    figures: list[Figure] = []
    stack = EmbeddedStack(progress=_say, model=False, headless=True, temporal_programs=programs)
    try:
        with tempfile.TemporaryDirectory(prefix="paymaster-bench-") as folder:
            async with stack, running_site(stack, Path(folder)) as site:
                keep_what_is_there()  # as worker.py does
                for name in names:
                    _say(f"{name} …")
                    measured = await BENCHMARKS[name](site)
                    sys.stderr.write(table(measured))
                    figures += measured
    finally:
        # As worker.py does: the Temporal SDK's objects must go while the loop still runs, or the interpreter may abort.
        gc.collect()
        await asyncio.sleep(0.1)
    return figures


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
