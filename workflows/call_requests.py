"""What a call's workflow is started with, read as a request."""

from temporalio.common import RawValue

from paymaster.calls.request_limits import denial_of
from paymaster.keys.api_key import KeyUnavailable
from paymaster.messages import Denied, LLMRequest
from paymaster.security.payloads import storages_of
from paymaster.values.json_reading import read_json
from paymaster.values.limits import REQUEST_BYTES_MAX, STORED_REQUEST_BYTES_MAX, TEMPORAL_PAYLOAD_BYTES
from workflows.signals import decoded

_NO_REQUEST = LLMRequest(route="-", budget="-", prompt="")
"""Stands in for a message that cannot be read as a request."""


def request_of(message: RawValue) -> tuple[LLMRequest, Denied | None]:
    """The request, and why nothing is reserved for it; an empty one in place of what is no request.

    Raises KeyUnavailable: the task is tried again until a worker has the key.
    """
    try:
        request = decoded(message, LLMRequest)
    except KeyUnavailable:
        raise
    except Exception as error:  # converters raise whatever they like
        try:  # Python's own reader takes what is nested more deeply, so that the denial can name it
            request = LLMRequest.model_validate(read_json(message.payload.data))
        except ValueError:
            detail = str(error)[:1_000].encode(errors="backslashreplace").decode()
            return _NO_REQUEST, Denied(hold_id="", reason="bad_request", detail=detail)
    # More than a payload has can only have come through external storage.
    by_storage = storages_of(message) or len(message.payload.data) > TEMPORAL_PAYLOAD_BYTES
    denied = denial_of(request, STORED_REQUEST_BYTES_MAX if by_storage else REQUEST_BYTES_MAX)
    if denied is None:
        return request, None
    return request, Denied(hold_id="", reason=denied.reason or "", detail=denied.detail or "")
