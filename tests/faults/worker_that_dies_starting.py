"""A worker that is killed (SIGKILL) when it has started a call for another namespace and Temporal does not know."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import worker
from operations.generate import GenerateOperation

_start_operation = GenerateOperation.start_operation


async def start_operation_and_die(*arguments: Any) -> Any:
    await _start_operation(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    setattr(GenerateOperation, "start_operation", start_operation_and_die)  # noqa: B010  # pyright knows its type
    sys.exit(worker.main())
