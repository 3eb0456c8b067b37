"""An HTTP request of a client as a call. Pure."""

import re
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import unquote
from uuid import uuid4

from paymaster.gateway.clients import ClientTerms, budget_below
from paymaster.messages import LLMRequest
from paymaster.messages.wire import Dialect, Wire
from paymaster.values.run_path import check_run_segment
from paymaster.wire.dialects import dialect_of, sent_headers
from paymaster.wire_requests import ID_HEADER, Terms, repeats_of, request_of, route_named

BUDGET_HEADER = "x-paymaster-budget"
RUN_HEADER = "x-paymaster-run"
DETACH_HEADER = "x-paymaster-detach"
METADATA_HEADER = "x-paymaster-metadata"
SESSION_HEADERS = ("x-claude-code-session-id", "session-id")
"""Of Claude Code and Codex: each session of theirs is a run."""
_NAME_DIGITS = 20
"""Of a client's name in the ids of its calls: 80 bits, so that no two clients have the same."""
CLIENT = "client"
"""The key of the metadata that has the client's name."""


class Refused(Exception):
    """A request that is made no call. The reason is one of `paymaster.wire.refusals`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class AskedCall(NamedTuple):
    """What a client asks for."""

    request: LLMRequest
    dialect: Dialect
    keeps: bool
    """Its caller may come back for it with its key."""
    repeats: int = 0
    """How often its SDK has sent it before, by its own word."""
    detached: bool = False
    """It goes on, and stays parked, when its caller goes, who fetches it by its id."""
    id_is_drawn: bool = False
    """The call's id was drawn at random for this request."""


def asked_call(
    target: str, headers: Mapping[str, str], body: bytes, client: ClientTerms, wait_at_most: timedelta
) -> AskedCall:
    """`target` is the request's path with its query, as it was written; `headers` have their names in lower case.

    Raises Refused.
    """
    found = dialect_of(target)
    if found is None:
        raise Refused("no_such_path", f"{target.partition('?')[0]} is no call of an LLM that Paymaster knows")
    dialect, path = found
    detached = _detached(headers)
    try:
        wire = Wire(dialect=dialect, body=body, headers=sent_headers(dialect, headers), path=path)
        route = route_named(wire)
        check_route(route, client)
        terms = Terms(
            route=route,
            budget=budget_of(headers.get(BUDGET_HEADER), client),
            # Who waits for an HTTP response does not wait for tomorrow's money.
            on_exhausted=None if detached else "fail",
            wait_at_most=None if detached else wait_at_most,
            metadata={**metadata_in(headers.get(METADATA_HEADER, "")), **client.metadata, CLIENT: client.name},
            run=run_of(headers, client),
        )
        request = request_of(wire, terms)
    except ValueError as error:
        raise Refused("bad_request", str(error)) from None
    key = headers.get(ID_HEADER)
    call_id = None if not key else call_id_of(client, key)
    request = request.model_copy(update={"call_id": call_id})
    return AskedCall(request, dialect, call_id is not None, repeats_of(headers), detached)


def check_route(name: str, client: ClientTerms) -> None:
    """Raises Refused for a route, or `service/model`, that the client may not ask for."""
    if client.routes is not None and name != "-" and name not in client.routes:
        may = ", ".join(sorted(client.routes))
        raise Refused("not_allowed", f"the client {client.name} may not ask for {name!r}; it may for {may}")


def budget_of(named: str | None, client: ClientTerms) -> str:
    """The budget that a request names, which is the client's or below it. None: the client's.

    Raises Refused and NotAClient.
    """
    if named is None:
        return client.budget
    try:
        return budget_below(client.budget, named)
    except ValueError as error:
        raise Refused("bad_request", f"{BUDGET_HEADER}: {error}") from None


def run_of(headers: Mapping[str, str], client: ClientTerms) -> str | None:
    """The run that a request counts for: one of the client's own, so that nobody spends what another one's run may.

    Raises Refused.
    """
    if client.run is not None:
        return client.run
    named = headers.get(RUN_HEADER)
    session = next((headers[name] for name in SESSION_HEADERS if headers.get(name)), None)
    if named is None and session is None:
        return None
    try:
        readable = re.sub("[^A-Za-z0-9._:@-]", "_", client.name)
        return f"{readable}:{check_run_segment(named if named is not None else session or '')}"
    except ValueError as error:
        if named is None:  # a header of that name, of a program that means something else by it
            return None
        raise Refused("bad_request", f"{RUN_HEADER}: {error}") from None


def metadata_in(written: str) -> dict[str, str]:
    """Of `team=tides, feature=a%20haiku`: names and values, percent-encoded as in the standard header `baggage`.

    Raises Refused.
    """
    found: dict[str, str] = {}
    for item in filter(None, (each.strip() for each in written.split(","))):
        name, equals, value = item.partition("=")
        if not (name.strip() and equals):
            raise Refused("bad_request", f"{METADATA_HEADER}: {item!r} is not name=value")
        found[unquote(name.strip())] = unquote(value.strip())
    return found


def _detached(headers: Mapping[str, str]) -> bool:
    """Raises Refused."""
    said = headers.get(DETACH_HEADER, "false").lower()
    if said not in ("true", "false"):
        raise Refused("bad_request", f"{DETACH_HEADER}: {said!r} is neither true nor false")
    return said == "true"


def call_id_of(client: ClientTerms, key: str) -> str:
    """A client's `Idempotency-Key` as a call's id, which no other client can name."""
    return f"{_own(client)}key-{sha256(key.encode()).hexdigest()}"


def new_call_id(client: ClientTerms) -> str:
    return f"{_own(client)}{uuid4().hex}"


def is_own_call(client: ClientTerms, call_id: str) -> bool:
    """Whether the call is one of this client's."""
    return call_id.startswith(_own(client))


def _own(client: ClientTerms) -> str:
    """What the ids of its calls begin with."""
    return f"gw-{sha256(client.name.encode()).hexdigest()[:_NAME_DIGITS]}-"
