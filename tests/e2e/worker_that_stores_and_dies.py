"""A worker that is killed (SIGKILL) as soon as an answer is stored, before anybody hears of it."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import worker
from activities.body_store import BodyStore
from paymaster.messages import WireAnswer

_stored = BodyStore.stored


async def stored_and_dead(self: BodyStore, answer: WireAnswer, workflow_id: str, attempt_id: str) -> WireAnswer:
    await _stored(self, answer, workflow_id, attempt_id)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


BodyStore.stored = stored_and_dead

if __name__ == "__main__":
    sys.exit(worker.main())
