"""A process's own HTTP server: /live and /ready for an orchestrator, /metrics for Prometheus."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

ANSWERS_WITHIN_S = 3.0
"""What does not answer in this time counts as unreachable; orchestrators wait for a few seconds only."""
STOPS_WITHIN_S = 1.0
"""For whoever still reads an answer, twice: nobody is worth that the worker is killed before it has cleared up."""

Check = Callable[[], Awaitable[str | None]]
"""What is wrong, for people and without secrets; None: nothing."""


class HealthServer:
    """Serves while the block runs. `address` is a host and a port.

    /live answers 200 as long as the process does anything at all. /ready answers 200 when every check finds nothing
    wrong, else 503, and in both cases an object that says of each check what it found. /metrics answers what `metrics`
    gives, in Prometheus' text format.

    Raises OSError, which names the setting, when the address is taken or is none.
    """

    def __init__(
        self,
        address: str,
        checks: Mapping[str, Check],
        metrics: Callable[[], bytes],
        *,
        setting: str = "worker.health_address",
    ) -> None:
        self._address = address
        self._setting = setting
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._checks = checks
        self._metrics_text = metrics
        application = web.Application()
        application.router.add_get("/live", self._live)
        application.router.add_get("/ready", self._ready)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=STOPS_WITHIN_S)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host.strip("[]"), self._port).start()
        except (OSError, UnicodeError) as error:
            await self._runner.cleanup()
            raise OSError(f"{self._setting} {self._address!r} cannot be used: {error}") from error
        return self

    async def __aexit__(self, *ignored: object) -> None:
        await self._runner.cleanup()

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        found = await asyncio.gather(*map(_problem, self._checks.values()))
        ready = not any(found)
        problems = {name: problem or "ok" for name, problem in zip(self._checks, found, strict=True)}
        return web.json_response({"ready": ready, "checks": problems}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._metrics_text)  # thousands of series take a while
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _problem(check: Check) -> str | None:
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            return await check()
    except TimeoutError:
        return f"no answer within {ANSWERS_WITHIN_S:.0f} s"
    except Exception as error:  # without its text, which may hold an address with a password
        return f"failed with {type(error).__name__}"
