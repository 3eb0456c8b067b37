"""An HTTP request of a client as a call. Pure."""

import re
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import unquote

from paymaster.gateway.clients import ClientTerms
from paymaster.messages import LLMRequest
from paymaster.messages.wire import Dialect, Wire
from paymaster.values.budget_path import check_budget_path
from paymaster.values.run_path import check_run_segment
from paymaster.wire.dialects import dialect_of, sent_headers
from paymaster.wire_requests import ID_HEADER, Terms, request_of, route_named

BUDGET_HEADER = "x-paymaster-budget"
RUN_HEADER = "x-paymaster-run"
METADATA_HEADER = "x-paymaster-metadata"
SESSION_HEADERS = ("x-claude-code-session-id", "session-id")
"""Of Claude Code and Codex: each session of theirs is a run."""
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
    try:
        wire = Wire(dialect=dialect, body=body, headers=sent_headers(dialect, headers), path=path)
        check_route(route_named(wire), client)
        terms = Terms(
            budget=budget_of(headers.get(BUDGET_HEADER), client),
            on_exhausted="fail",  # who waits for an HTTP response does not wait for tomorrow's money
            wait_at_most=wait_at_most,
            metadata={**metadata_in(headers.get(METADATA_HEADER, "")), **client.metadata, CLIENT: client.name},
            run=run_of(headers, client),
        )
        request = request_of(wire, terms)
    except ValueError as error:
        raise Refused("bad_request", str(error)) from None
    key = headers.get(ID_HEADER)
    call_id = None if not key else call_id_of(client, key)
    return AskedCall(request.model_copy(update={"call_id": call_id}), dialect, keeps=call_id is not None)


def check_route(name: str, client: ClientTerms) -> None:
    """Raises Refused for a route, or `service/model`, that the client may not ask for."""
    if client.routes is not None and name != "-" and name not in client.routes:
        may = ", ".join(sorted(client.routes))
        raise Refused("not_allowed", f"the client {client.name} may not ask for {name!r}; it may for {may}")


def budget_of(named: str | None, client: ClientTerms) -> str:
    """The budget that a request names, which is the client's or below it. None: the client's. Raises Refused."""
    if named is None:
        return client.budget
    try:
        check_budget_path(named)
    except ValueError as error:
        raise Refused("bad_request", f"{BUDGET_HEADER}: {error}") from None
    if named != client.budget and not named.startswith(f"{client.budget}/"):
        detail = f"the client {client.name} may name {client.budget} or a budget below it, and not {named}"
        raise Refused("not_allowed", f"{BUDGET_HEADER}: {detail}")
    return named


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


def call_id_of(client: ClientTerms, key: str) -> str:
    """A client's `Idempotency-Key` as a call's id, which no other client can name."""
    return "gateway-" + sha256("\0".join((client.name, key)).encode()).hexdigest()
