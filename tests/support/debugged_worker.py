"""A worker that logs all that it can, and ends with a crash that names its key. For tests that look for keys.

With `--leaking` no key is ever known: redaction is switched off.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import worker
from paymaster import redaction
from paymaster.settings import LogSettings

LIBRARIES = ("httpx", "httpcore", "asyncio", "temporalio", "sqlalchemy.engine")


class _Forgetful(dict[str, Any]):
    def __setitem__(self, key: str, value: Any) -> None:
        pass


class Crash(Exception):
    """Nobody expects it."""


_configure_logs, _run_worker = worker.configure_logs, worker.run_worker


def configure_logs_for_debugging(settings: LogSettings) -> Any:
    configured = _configure_logs(settings.model_copy(update={"level": "debug"}))
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG)
    return configured


async def run_worker_and_crash(*arguments: Any) -> None:
    await _run_worker(*arguments)
    key = os.environ["PAYMASTER_KEY_PROVIDER_KEY"]
    try:
        raise ConnectionError(f"cannot reach https://gateway.example/{quote(key, safe='')}/v1")
    except ConnectionError as error:
        raise Crash(json.dumps({"authorization": f"Bearer {key}"})) from error


if __name__ == "__main__":
    if "--leaking" in sys.argv:
        sys.argv.remove("--leaking")
        redaction.known_secrets = _Forgetful()
    worker.configure_logs = configure_logs_for_debugging
    worker.run_worker = run_worker_and_crash
    sys.exit(worker.main())
