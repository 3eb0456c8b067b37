"""What the judges in Python have in common, as judge.mjs has for those in JavaScript."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httpx2


class Asked(NamedTuple):
    """What a judge is started with."""

    address: str
    key: str
    models: Mapping[str, Any]
    """A model for each kind of answer, and `refusals`."""


class Counted(httpx2.Client):
    """An HTTP client that counts the requests which an SDK sends."""

    def __init__(self) -> None:
        super().__init__(event_hooks={"request": [self._count]}, timeout=60)
        self.sent = 0

    def _count(self, request: httpx2.Request) -> None:
        self.sent += 1


def asked() -> Asked:
    address, key, models = sys.argv[1:]
    return Asked(address, key, json.loads(models))


def refusals(
    models: Mapping[str, Any],
    ask: Callable[[Mapping[str, Any], Counted], object],
    said: Callable[[Any], Mapping[str, object]],
) -> dict[str, object]:
    """What each refusal was raised as, and how often the SDK sent the request. `ask` gets what the refusal names."""
    seen: dict[str, object] = {}
    for name, refusal in models["refusals"].items():
        with Counted() as http:
            try:
                ask(refusal, http)
                seen[name] = "an answer"
            except Exception as error:
                seen[name] = {"error": type(error).__name__, **said(error), "sent": http.sent}
    return seen


def show(seen: Mapping[str, object]) -> None:
    print(json.dumps(seen))
