"""A call without an answer, told as an HTTP response in its dialect, so that an SDK raises its own typed error."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.messages import BudgetNotice, LLMResult, Outcome
from paymaster.messages.temporal_names import CALL_ID_REUSED, NOT_WANTED
from paymaster.messages.wire import Dialect


class Told(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Kind(NamedTuple):
    """A kind of error, as each provider names it."""

    status: int
    openai: str
    anthropic: str
    google: str
    retried: bool = False
    """Whether an SDK may send the request again by itself, as it does for this status."""


_MONEY = _Kind(402, "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED")
_BUSY = _Kind(429, "rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED", retried=True)
_INVALID = _Kind(400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT")
_FORBIDDEN = _Kind(403, "permission_denied", "permission_error", "PERMISSION_DENIED")
_NOT_FOUND = _Kind(404, "not_found", "not_found_error", "NOT_FOUND")
_STRANGER = _Kind(401, "invalid_api_key", "authentication_error", "UNAUTHENTICATED")
_NO_METHOD = _Kind(405, "method_not_allowed", "invalid_request_error", "UNIMPLEMENTED")
_TOO_SLOW = _Kind(408, "timeout", "timeout_error", "DEADLINE_EXCEEDED")
_REUSED = _Kind(409, "conflict", "invalid_request_error", "ALREADY_EXISTS")
_TOO_LARGE = _Kind(413, "request_too_large", "request_too_large", "INVALID_ARGUMENT")
_BROKEN = _Kind(500, "server_error", "api_error", "INTERNAL")
_FAILED = _Kind(502, "server_error", "api_error", "INTERNAL", retried=True)
_UNAVAILABLE = _Kind(503, "server_error", "overloaded_error", "UNAVAILABLE", retried=True)
_NO_UPGRADE = _Kind(426, "upgrade_refused", "invalid_request_error", "UNIMPLEMENTED")
_LONG_HEADERS = _Kind(431, "headers_too_large", "request_too_large", "INVALID_ARGUMENT")
_UNKNOWN = _Kind(504, "timeout", "timeout_error", "DEADLINE_EXCEEDED")

_BY_REASON = {
    "cap_reached": _MONEY,
    "run_budget_exhausted": _MONEY,
    "run_calls_exhausted": _MONEY,
    "run_time_over": _MONEY,
    "run_ended": _FORBIDDEN,
    "money_held": _BUSY,
    "waited_too_long": _BUSY,
    "queue_full": _BUSY,
    "unknown_route": _NOT_FOUND,
    "unknown_service": _NOT_FOUND,
    "unknown_budget": _FORBIDDEN,
    "bad_budget": _FORBIDDEN,
    "plaintext": _FORBIDDEN,
    "request_too_long": _TOO_LARGE,
    "ledger_unreachable": _UNAVAILABLE,
    "ledger_error": _UNAVAILABLE,
    "request_out_of_reach": _UNAVAILABLE,
    "request_gone": _UNAVAILABLE,
    "breaker_open": _UNAVAILABLE,
    "no_worker": _UNAVAILABLE,
    "not_sent": _UNAVAILABLE,
    CALL_ID_REUSED: _REUSED,
    "call_ended": _UNKNOWN,
    "call_runs_on": _UNKNOWN,
    "answer_gone": _UNKNOWN,
    "no_dialect": _NOT_FOUND,
    # Of a gateway, before there is a call.
    "not_a_client": _STRANGER,
    "not_allowed": _FORBIDDEN,
    "no_such_path": _NOT_FOUND,
    "not_counted": _NOT_FOUND,
    "method_not_allowed": _NO_METHOD,
    "no_websocket": _NO_UPGRADE,
    "headers_too_large": _LONG_HEADERS,
    "body_too_slow": _TOO_SLOW,
    "bodies_full": _UNAVAILABLE,
    "too_many_at_once": _BUSY,
    "temporal_unreachable": _UNAVAILABLE,
    "internal_error": _BROKEN,
    "database_unreachable": _UNAVAILABLE,
    NOT_WANTED: _UNAVAILABLE,
    "unknown_call": _NOT_FOUND,
    "clients_unknown": _UNAVAILABLE,
    "standing_unknown": _UNAVAILABLE,
    # Of a service of another format, whose refusal is not told as it was.
    "rate_limited": _BUSY,
    "overloaded": _UNAVAILABLE,
    "invalid_request": _INVALID,
    "unsupported_parameter": _INVALID,
    "context_too_long": _INVALID,
}
"""Every other denial is of what the request asks for."""
_BY_STATUS = {kind.status: kind for kind in (_STRANGER, _FORBIDDEN, _UNAVAILABLE)}
_OF_CAPS = frozenset({"cap_reached", "run_budget_exhausted", "bound_above_cap"})
"""Reasons of a call whose result has the caps in its way."""
_SENT_AGAIN_BY_GOOGLE = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that Google's SDK sends again where it has `retry_options`: it does not read `x-should-retry`."""
_FAILED_DEPENDENCY = 424
_RETRY_AFTER_S = 2
_WITHHELD = "the answer has a key in it, which does not leave the worker; its text is in the result of the call"


def told(result: LLMResult, dialect: Dialect, *, may_wait_again: bool = False) -> Told:
    """What a caller gets for a call that ended without an answer, or with one that cannot be given back.

    The last provider's refusal as it was; else an error of Paymaster's own in the dialect's form, with `paymaster` in
    it: the reason, a detail, the call's id and what it cost. `may_wait_again`: it was not the caller who said how long
    the call may wait. Default: it was.
    """
    if result.wire is not None and result.wire.stored is None:
        if result.may_be_asked_again:
            return Told(result.wire.status, result.wire.headers, result.wire.body)
        headers = {**result.wire.headers, "x-should-retry": "false"}
        return Told(_final(result.wire.status, dialect), headers, result.wire.body)
    if result.outcome is Outcome.COMPLETED:
        result = result.model_copy(update={"reason": "answer_withheld", "detail": _WITHHELD})
    return _told_as(_kind(result), result, dialect, may_wait_again=may_wait_again)


def refusal(dialect: Dialect, reason: str, detail: str, *, status: int | None = None, call_id: str = "") -> Told:
    """What a caller gets for what is no call, or has no result. `status` None: that of the reason. `call_id`: of the
    call, if there is one."""
    result = LLMResult(outcome=Outcome.DENIED, call_id=call_id, reason=reason, detail=detail)
    kind = _kind(result) if status is None else _BY_STATUS.get(status, _INVALID)
    answer = _told_as(kind, result, dialect, may_wait_again=False)
    return answer._replace(headers={**answer.headers, "x-paymaster-call-id": call_id}) if call_id else answer


def _told_as(kind: _Kind, result: LLMResult, dialect: Dialect, *, may_wait_again: bool) -> Told:
    headers = {"content-type": "application/json"}
    # Who has waited for as long as he wanted does not want to wait once more.
    if not kind.retried or (result.reason == "waited_too_long" and not may_wait_again):
        headers["x-should-retry"] = "false"
        kind = kind._replace(status=_final(kind.status, dialect))
    if kind.status in (_BUSY.status, _UNAVAILABLE.status):
        headers["retry-after"] = str(_RETRY_AFTER_S)
    elif kind.status == _MONEY.status and (last := _whole_again(result.budget)) is not None:
        headers["retry-after"] = format_datetime(last, usegmt=True)
    return Told(kind.status, headers, json.dumps(_body(result, kind, dialect), ensure_ascii=False).encode())


def _final(status: int, dialect: Dialect) -> int:
    """The status of what must not be sent again by itself."""
    return _FAILED_DEPENDENCY if dialect == "gemini" and status in _SENT_AGAIN_BY_GOOGLE else status


def _kind(result: LLMResult) -> _Kind:
    if not result.may_be_asked_again:  # it is paid for, or may be: the same request gets this end again
        return _UNKNOWN
    other = _INVALID if result.outcome is Outcome.DENIED else _FAILED
    return _BY_REASON.get(result.reason or "", other)


def _whole_again(in_the_way: Sequence[BudgetNotice]) -> datetime | None:
    """When the last of the caps has a new window. None: one never has, or nobody says."""
    ends = [notice.ends_at_ms for notice in in_the_way]
    if not ends or None in ends:
        return None
    return datetime.fromtimestamp(max(end for end in ends if end is not None) / 1000, UTC)


def _of_caps(in_the_way: Sequence[BudgetNotice]) -> dict[str, JsonValue]:
    """The nearest account that is short of money, and when the last of those in the way has a new window: null, where
    one never has. Nothing of a ledger that does not say."""
    if not in_the_way:
        return {}
    last = _whole_again(in_the_way)
    return {
        "account": in_the_way[0].account,
        "window": in_the_way[0].window,
        "resets_at": None if last is None else f"{last:%Y-%m-%dT%H:%M:%SZ}",
    }


def _body(result: LLMResult, kind: _Kind, dialect: Dialect) -> dict[str, JsonValue]:
    message = f"{result.reason}: {result.detail}"
    ours: dict[str, JsonValue] = {
        "reason": result.reason,
        "detail": result.detail,
        "call_id": result.call_id,
        "cost_nanos": result.cost_nanos,
        **(_of_caps(result.budget) if result.reason in _OF_CAPS else {}),
    }
    match dialect:
        case "anthropic":
            return {
                "type": "error",
                "error": {"type": kind.anthropic, "message": message},
                "request_id": result.call_id,
                "paymaster": ours,
            }
        case "gemini":
            return {"error": {"code": kind.status, "message": message, "status": kind.google}, "paymaster": ours}
        case "openai" | "openai-responses" | "openai-embeddings":
            error: JsonValue = {
                "message": message,
                "type": kind.openai,
                "param": None,
                "code": kind.openai,
                "paymaster": ours,
            }
            return {"error": error}
