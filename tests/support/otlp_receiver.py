"""A collector of the tests: takes OTLP over HTTP on loopback and keeps every span and the latest of every metric."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """Use it as a context manager; `url` is what `[telemetry] otlp_endpoint` takes."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: dict[str, Any] = {}
        """The last export of each, by name. They are cumulative."""
        self.texts: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def text(self) -> str:
        """Everything that came, for searches."""
        return "".join(self.texts)

    def stop(self) -> None:
        """From now on connections are refused. Harmless the second time."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            self.texts.append(str(traces))  # not `+=` of a text: traces and metrics come in two threads
            self.spans += [span for r in traces.resource_spans for s in r.scope_spans for span in s.spans]
        elif path == "/v1/metrics":
            metrics = ExportMetricsServiceRequest.FromString(body)
            self.texts.append(str(metrics))
            self.metrics |= {m.name: m for r in metrics.resource_metrics for s in r.scope_metrics for m in s.metrics}

    def total(self, name: str, **wanted: str) -> float:
        """The sum over all attributes, or those with these values (`_` for `.` in their names); 0 when it never came.
        Of a histogram the sum of what was recorded."""
        points = self._points(name, wanted)
        return sum(point.sum if hasattr(point, "sum") else (point.as_int or point.as_double) for point in points)

    def count(self, name: str, **wanted: str) -> int:
        """How often a histogram was recorded."""
        return sum(point.count for point in self._points(name, wanted))

    def values_of(self, name: str, attribute: str) -> set[str]:
        """What the attribute says in all of a metric's points; empty where one has none."""
        points = self._points(name, {})
        return {"".join(a.value.string_value for a in each.attributes if a.key == attribute) for each in points}

    def _points(self, name: str, wanted: dict[str, str]) -> list[Any]:
        metric = self.metrics.get(name)
        if metric is None:
            return []
        points = getattr(metric, metric.WhichOneof("data")).data_points
        return [
            point
            for point in points
            if wanted.items() <= {(a.key.replace(".", "_"), a.value.string_value) for a in point.attributes}
        ]


def attributes_of(span: Span) -> dict[str, Any]:
    """A span's attributes by name, in Python's own types."""
    values: dict[str, Any] = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, str(kind))
        values[attribute.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return values
