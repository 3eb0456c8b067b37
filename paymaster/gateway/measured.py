"""What is measured of the gateway's requests, by OpenTelemetry's conventions for HTTP servers.

Without telemetry all of this is OpenTelemetry's no-op. Nothing in here fails a request.
"""

from collections.abc import Generator
from contextlib import contextmanager, suppress

from opentelemetry import metrics
from opentelemetry.util.types import AttributeValue

from paymaster.observability.measurements import measured

_DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
_meter = metrics.get_meter("paymaster")
_duration = _meter.create_histogram(
    "http.server.request.duration",
    unit="s",
    description="How long a request to the gateway took, to the end of its answer",
    explicit_bucket_boundaries_advisory=_DURATIONS_S,
)
_active = _meter.create_up_down_counter(
    "http.server.active_requests", unit="{request}", description="Requests of clients that are being answered"
)
_streams = _meter.create_up_down_counter(
    "paymaster.streams", unit="{stream}", description="Callers who wait for an answer that may come token by token"
)


def measure_request(method: str, route: str, status: int, took_s: float) -> None:
    """`route` is the path with the names of its parts in the place of what they are."""
    attributes: dict[str, AttributeValue] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
    }
    with suppress(Exception):
        _duration.record(took_s, measured(attributes))


@contextmanager
def active_request(method: str) -> Generator[None]:
    """One more request of a client while the block lasts."""
    with _one_more(_active, {"http.request.method": method}):
        yield


@contextmanager
def open_stream() -> Generator[None]:
    """One more caller to whom a worker may stream while the block lasts."""
    with _one_more(_streams, {}):
        yield


@contextmanager
def _one_more(of: metrics.UpDownCounter, attributes: dict[str, AttributeValue]) -> Generator[None]:
    with suppress(Exception):
        of.add(1, measured(attributes))
    try:
        yield
    finally:
        with suppress(Exception):
            of.add(-1, measured(attributes))
