"""Nothing in observability fails, delays or charges a call."""

import json
import subprocess
import sys

import pytest
from paymaster_process import ROOT

PROGRAM = ROOT / "tests" / "support" / "failing_telemetry.py"


@pytest.mark.parametrize("spans", ["fail when they begin", "fail afterwards"])
def test_activities_end_as_usual_while_telemetry_raises(spans: str) -> None:
    run = subprocess.run([sys.executable, PROGRAM, spans], capture_output=True, text=True, timeout=60, check=True)
    ended = json.loads(run.stdout)
    assert "sunny" in ended.pop("completed")
    assert "no_candidate" in ended.pop("denied")
    assert ended == {"failed": "ApplicationError: overloaded", "recorded": "stored", "delivered": "(1,)"}
    assert "not measured" in run.stderr
