"""The connections of the OTLP exporters, which read whole answers: a collector must not fill the memory."""

import io
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPResponse

from paymaster.values.limits import COLLECTOR_ANSWER_BYTES_MAX


def bounded_session() -> requests.Session:
    """A session that reads the beginning of an answer: whether it took what was sent is in its status."""
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Bounded())
    return session


class _Bounded(HTTPAdapter):
    def build_response(self, req: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        """Of a longer answer the connection is closed, because the rest of it is still to come."""
        body = resp.read(COLLECTOR_ANSWER_BYTES_MAX + 1, decode_content=False)
        if len(body) > COLLECTOR_ANSWER_BYTES_MAX:
            resp.close()
            body = b""
        kept: Any = {name: value for name, value in resp.headers.items() if name.lower() not in _OF_THE_BODY}
        short = HTTPResponse(
            io.BytesIO(body), headers=kept, status=resp.status, reason=resp.reason, preload_content=False
        )
        resp.release_conn()
        return super().build_response(req, short)


_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")
