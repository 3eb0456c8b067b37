"""What no Temporal message can carry is refused before it is sent: a workflow that tried would be stuck for ever."""

from paymaster.messages import LLMRequest, LLMResult, Outcome

REQUEST_BYTES_MAX = 1_900_000
"""Of a whole request as JSON. Temporal takes 2 MiB; with the request travel its grant and, if on, its encryption."""


def denial_of(request: LLMRequest) -> LLMResult | None:
    """The result of a request that cannot be sent, with what to do; None when it can be.

    Reasons: `request_too_long`, and `not_text` for a text with half a surrogate pair, which UTF-8 does not have.
    """
    try:
        size = len(request.model_dump_json().encode())
    except ValueError as error:
        return _denied(request, "not_text", f"the request holds what is no Unicode text: {error}")
    if size <= REQUEST_BYTES_MAX:
        return None
    return _denied(
        request,
        "request_too_long",
        f"the request has {size:,} bytes as JSON and may have {REQUEST_BYTES_MAX:,}: shorten it, split it, or give "
        "images by their URLs",
    )


def _denied(request: LLMRequest, reason: str, detail: str) -> LLMResult:
    call_id = (request.call_id or "").encode(errors="replace").decode()
    detail = detail.encode(errors="backslashreplace").decode()
    return LLMResult(outcome=Outcome.DENIED, call_id=call_id, reason=reason, detail=detail)
