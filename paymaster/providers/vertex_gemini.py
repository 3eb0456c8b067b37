"""The wire format `vertex-gemini`: generateContent of Gemini on Vertex AI, with tokens of Google Cloud."""

from paymaster.messages import Grant, LLMRequest
from paymaster.messages.wire import Wire
from paymaster.providers import counters, gemini
from paymaster.providers.key_headers import bearer
from paymaster.providers.provider import HttpRequest, Provider, WireFormat, WrittenRequest
from paymaster.settings import ServiceSettings


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    built = gemini.build_request(request, grant, service, stream)
    return built._replace(path=f"/publishers/google{built.path}")


def _build_wire(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    built = gemini.build_wire(wire, grant, service, outputs)
    return built._replace(path=f"/publishers/google{built.path}")


PROVIDER = Provider(
    api="vertex-gemini",
    telemetry_name="gcp.vertex_ai",
    authenticate=bearer,
    build_request=build_request,
    parse_response=gemini.parse_response,
    parse_stream=gemini.parse_stream,
    counter=counters.VERTEX_GEMINI,
    dialects={"gemini": WireFormat(_build_wire, parse_response=gemini.parse_wire)},
)
