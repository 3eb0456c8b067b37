"""A gateway process of its own for a test, beside a site's workers."""

import contextlib
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import warm_start
from paymaster_process import Site, until
from warm_start import WarmProcess

KEY = "gw-0123456789abcdef0123456789abcdef"
"""Of the client `tester`."""


def client_table(key: str, budget: str, **more: object) -> dict[str, object]:
    """A `[gateway.clients.NAME]`."""
    return {"key_sha256": sha256(key.encode()).hexdigest(), "budget": budget, **more}


@dataclass(frozen=True)
class GatewayProcess:
    process: WarmProcess
    url: str
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    async def terminate(self, deadline_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait(timeout=deadline_s)


@asynccontextmanager
async def running_gateway(site: Site, *arguments: str, name: str = "gateway") -> AsyncGenerator[GatewayProcess]:
    """`paymaster serve` with the site's configuration, on a free port."""
    output, log_file = site.folder / f"{name}.out", site.folder / f"{name}.log"
    environment = site.environment | {"PAYMASTER_CONFIG": str(site.folder / "paymaster.toml")}
    with output.open("wb") as out, log_file.open("wb") as errors:
        process = warm_start.start(
            "paymaster",
            ["serve", "--address", "127.0.0.1:0", *arguments],
            environment=environment,
            folder=site.folder,
            output=out,
            errors=errors,
        )

    def listens() -> bool:
        assert process.poll() is None, f"the gateway died at start:\n{log_file.read_text(errors='replace')}"
        return "Google" in output.read_text()

    try:
        await until(listens, "the gateway listens")
        url = output.read_text().split()[1]
        yield GatewayProcess(process, url, log_file)
    finally:
        with contextlib.suppress(TimeoutError):
            await process.stop()
