"""What a client is told, as an HTTP response."""

import re

from starlette.responses import Response

from paymaster.wire.refusals import Told

_NO_HEADER_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""With such a character in it a header would be several, or none."""
_REQUEST_IDS = ("x-request-id", "request-id")
"""From which the SDKs of OpenAI and Anthropic read an id into their errors."""
_OF_THE_CONNECTION = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive", "upgrade"})


def response_of(answer: Told) -> Response:
    """The response with the answer's status, headers and body as they are."""
    response = Response(answer.body, answer.status)
    response.raw_headers.extend(header_lines(answer.headers))
    return response


def header_lines(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers as HTTP has them, with an id of the request that SDKs find: that of its call, where there is no
    other."""
    call_id = headers.get("x-paymaster-call-id")
    ids = {} if not call_id else dict.fromkeys(_REQUEST_IDS, call_id)
    return [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in {**ids, **headers}.items()
        if name not in _OF_THE_CONNECTION and not _NO_HEADER_VALUE.search(value)
    ]
