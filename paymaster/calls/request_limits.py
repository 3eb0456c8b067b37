"""What no Temporal message can carry, and what would make others too large, is denied before anything is reserved: a
workflow that tried to send it would be stuck for ever."""

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from paymaster.messages import LLMRequest, LLMResult, Outcome
from paymaster.values.json_reading import NestedTooDeeply, TooManyValues, check_nesting, check_values
from paymaster.values.limits import (
    BUDGET_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_KEYS_MAX,
    NESTING_MAX,
    REQUEST_BYTES_MAX,
    ROUTE_BYTES_MAX,
    STATE_OF_MESSAGE_BYTES_MAX,
)
from paymaster.wire.dialects import measured
from paymaster.wire.measured import BadBody

REQUEST_TOO_LONG = "request_too_long"
"""The reason of a denial."""


def denial_of(request: LLMRequest, bytes_max: int = REQUEST_BYTES_MAX) -> LLMResult | None:
    """The result of a request that cannot be sent, with what to do; None when it can be.

    `bytes_max`: of the whole request as JSON; more where it goes through external storage.

    Reasons: `bad_body` of a wire call, `request_too_long`, `state_too_large`, `metadata_too_large`,
    `nested_too_deeply`, `too_many_values`, `unknown_route` and `bad_budget` for names that are too long to be any,
    `number_too_long`, and `not_text` for a text with half a surrogate pair, which UTF-8 does not have.
    """
    problem = _problem(request, bytes_max)
    return None if problem is None else _denied(request, *problem)


def _problem(request: LLMRequest, bytes_max: int) -> tuple[str, str] | None:
    """The reason, and what to do."""
    if request.wire is not None and request.wire.stored is None:
        try:
            measured(request.wire)
        except BadBody as error:
            return "bad_body", str(error)
    try:
        for data in _nested(request):
            check_nesting(data)
        text = request.model_dump_json().encode()
        check_values(text)
    except TooManyValues as error:
        return "too_many_values", f"the request has too many: {error}; shorten its schema, or its tools and arguments"
    except NestedTooDeeply:
        return "nested_too_deeply", f"a schema or a tool's arguments have more than {NESTING_MAX} levels: flatten them"
    except ValueError as error:
        return "not_text", f"the request holds what is no Unicode text: {error}"
    if len(text) > bytes_max:
        return REQUEST_TOO_LONG, _too_long(len(text), bytes_max)
    if problem := _large_state(request) or _long_name(request) or _large_metadata(request.metadata):
        return problem
    try:
        from_json(text)
    except ValueError as error:
        return "number_too_long", f"the request holds a number that cannot be read back: {error}"
    return None


def _too_long(size: int, bytes_max: int) -> str:
    shorter = "shorten it, split it, or give images and documents by their URLs"
    if bytes_max == REQUEST_BYTES_MAX:
        shorter += "; or give the client external storage and PaymasterPlugin, and the workers [payloads] storage"
    return f"the request has {size:,} bytes as JSON and may have {bytes_max:,}: {shorter}"


def _nested(request: LLMRequest) -> list[JsonValue]:
    """Every part of a request that may have any depth."""
    return [
        request.json_schema,
        *(tool.parameters for tool in request.tools),
        *(call.arguments for message in request.messages for call in message.tool_calls),
        *(message.state.data for message in request.messages if message.state is not None),
    ]


def _large_state(request: LLMRequest) -> tuple[str, str] | None:
    for number, message in enumerate(request.messages, 1):
        size = 0 if message.state is None else len(to_json(message.state.data))
        if size > STATE_OF_MESSAGE_BYTES_MAX:
            return (
                "state_too_large",
                f"the state of message {number} has {size:,} bytes and may have {STATE_OF_MESSAGE_BYTES_MAX:,}: send "
                "the message without its state",
            )
    return None


def _long_name(request: LLMRequest) -> tuple[str, str] | None:
    """Route and budget are in every command to the ledger."""
    for name, value, bytes_max, reason in (
        ("route", request.route, ROUTE_BYTES_MAX, "unknown_route"),
        *(("budget", budget, BUDGET_BYTES_MAX, "bad_budget") for budget in request.budgets),
    ):
        if (size := len(value.encode())) > bytes_max:
            return reason, f"the {name} has {size:,} bytes and may have {bytes_max:,}"
    return None


def _large_metadata(metadata: dict[str, str]) -> tuple[str, str] | None:
    size = metadata_bytes(metadata)
    if size <= METADATA_BYTES_MAX and len(metadata) <= METADATA_KEYS_MAX:
        return None
    return (
        "metadata_too_large",
        f"the metadata has {len(metadata):,} keys and {size:,} bytes and may have {METADATA_KEYS_MAX} and "
        f"{METADATA_BYTES_MAX:,}: it is stored with every attempt; keep a reference there, and long texts elsewhere",
    )


def metadata_bytes(metadata: dict[str, str]) -> int:
    """All keys and values, as UTF-8."""
    return sum(
        len(name.encode(errors="replace")) + len(value.encode(errors="replace")) for name, value in metadata.items()
    )


def _denied(request: LLMRequest, reason: str, detail: str) -> LLMResult:
    call_id = (request.call_id or "").encode(errors="replace").decode()
    detail = detail.encode(errors="backslashreplace").decode()
    return LLMResult(outcome=Outcome.DENIED, call_id=call_id, reason=reason, detail=detail)
