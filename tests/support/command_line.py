"""`paymaster` as a person runs it, where no Temporal is: its configuration, and what it says when it cannot go on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAYMASTER = Path(sys.executable).with_name("paymaster")
NOWHERE = "127.0.0.1:1"  # a port on which nothing listens
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
CONFIGURATION = """
[services.local]
api = "openai"
base_url = "http://127.0.0.1:1/v1"
key = "local-key"
[services.local.models."good"]
price = { input = "1", output = "2" }
[routes]
writer = ["local/good", "local/unpriced"]
[budgets."acme"]
cap_usd = { day = "5" }
"""

Ended = subprocess.CompletedProcess[str]
Run = Callable[..., Ended]


def assert_ends_with_advice(ended: Ended, exit_code: int, *advice: str) -> None:
    """The code, nothing on stdout, and a few lines on stderr: what is wrong, what to do, and no traceback.

    Before them, on a slow machine, what takes so long.
    """
    assert ended.returncode == exit_code, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.endswith(" …")]
    assert said[0].startswith("paymaster: ")
    for words in advice:
        assert words in ended.stderr
