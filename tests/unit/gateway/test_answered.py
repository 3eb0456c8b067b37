"""What a client is told, header by header."""

from paymaster.gateway.answered import header_lines, response_of
from paymaster.wire.refusals import Told


def test_an_answer_is_passed_on_as_it_is() -> None:
    response = response_of(Told(418, {"content-type": "text/event-stream", "openai-version": "1"}, b"data: 1\n\n"))
    assert (response.status_code, bytes(response.body)) == (418, b"data: 1\n\n")
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["content-length"] == "9"


def test_no_header_is_two() -> None:
    lines = header_lines({"x-a": "1\r\nset-cookie: a=b", "x-b": "2", "transfer-encoding": "chunked", "x-c": "é→"})
    assert lines == [(b"x-b", b"2"), (b"x-c", b"\xe9?")]


def test_sdks_find_an_id() -> None:
    """That of the provider's request, or else that of the call."""
    ours = dict(header_lines({"x-paymaster-call-id": "call"}))
    assert ours[b"x-request-id"] == ours[b"request-id"] == b"call"
    theirs = dict(header_lines({"x-paymaster-call-id": "call", "x-request-id": "req"}))
    assert theirs[b"x-request-id"] == b"req"
