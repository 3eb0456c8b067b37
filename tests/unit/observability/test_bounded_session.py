"""A collector that answers without an end: what was sent counts as taken, and its answer is not read."""

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from paymaster.observability.bounded_session import bounded_session

ANSWER_BYTES = 50_000_000


class Collector:
    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self.sent = 0
        """Bytes of answers that it got rid of."""


@contextmanager
def collector(status: int, length: int) -> Generator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            found.connections += 1
            super().setup()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(ConnectionError):
                for _ in range(length // 100_000):
                    self.wfile.write(bytes(100_000))
                    found.sent += 100_000

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def exported(url: str, times: int = 1) -> list[SpanExportResult]:
    spans: Any = [TracerProvider().get_tracer("test").start_span("a span")]
    exporter = OTLPSpanExporter(f"{url}/v1/traces", timeout=5, session=bounded_session())
    return [exporter.export(spans) for _ in range(times)]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("status", "result"), [(200, SpanExportResult.SUCCESS), (400, SpanExportResult.FAILURE)], ids=["200", "400"]
)
def test_the_rest_of_a_long_answer_is_left_alone(status: int, result: SpanExportResult) -> None:
    with collector(status, ANSWER_BYTES) as endless:
        assert exported(endless.url) == [result]
    assert endless.sent < ANSWER_BYTES / 2


@pytest.mark.timeout(30)
def test_one_connection_serves_many_exports() -> None:
    with collector(200, 0) as short:
        assert exported(short.url, 3) == [SpanExportResult.SUCCESS] * 3
    assert short.connections == 1
