"""What is measured of the gateway's requests, by OpenTelemetry's conventions for HTTP servers.

Without telemetry all of this is OpenTelemetry's no-op. Nothing in here fails a request.
"""

from contextlib import suppress

from opentelemetry import metrics
from opentelemetry.util.types import AttributeValue

_DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
_meter = metrics.get_meter("paymaster")
_duration = _meter.create_histogram(
    "http.server.request.duration",
    unit="s",
    description="How long a request to the gateway took, until its answer was there",
    explicit_bucket_boundaries_advisory=_DURATIONS_S,
)


def measure_request(method: str, route: str, status: int, took_s: float) -> None:
    """`route` is the path with the names of its parts in the place of what they are."""
    attributes: dict[str, AttributeValue] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
    }
    with suppress(Exception):
        _duration.record(took_s, attributes)
