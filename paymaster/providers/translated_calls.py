"""Wire calls at services that speak another format: asked in neutral words, and answered in the caller's."""

from hashlib import sha256

from paymaster.messages import Completion, ServiceCall
from paymaster.providers.answers import Reading
from paymaster.providers.provider import UnsupportedParameter
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import ServiceSettings
from paymaster.translation.dialects import neutral_request, told
from paymaster.translation.neutral import Ending, NeutralAnswer, Untranslatable

_AT_THE_CAP = frozenset({"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"})
"""What the services call it, in lower case."""
_ID_LENGTH = 24


def as_asked(call: ServiceCall, service: ServiceSettings) -> ServiceCall:
    """The call as the service takes it. Raises UnsupportedParameter."""
    wire = call.request.wire
    if wire is None or wire.dialect in PROVIDERS[service.api].dialects:
        return call
    try:
        return call.model_copy(update={"request": neutral_request(call.request)})
    except Untranslatable as error:
        detail = f'api = "{service.api}" does not speak "{wire.dialect}", and it cannot be said in another format'
        raise UnsupportedParameter(error.key, detail) from None


def as_answered(call: ServiceCall, asked: ServiceCall, reading: Reading, number: int, started_at_ms: int) -> Reading:
    """What became of the attempt of this number, for whoever made the call, of which `asked` is what was asked."""
    wire, completion = call.request.wire, reading.completion
    if asked is call or wire is None or completion is None:
        return reading
    answer = NeutralAnswer(
        id=sha256(f"{call.grant.hold_id}/{number}".encode()).hexdigest()[:_ID_LENGTH],
        at_s=started_at_ms // 1000,
        model=reading.facts.model_answered or call.grant.model,
        text=completion.text,
        tool_calls=completion.tool_calls,
        ending=_ending(completion),
        usage=reading.facts.usage,
    )
    others = {"parsed": None, "schema_problem": None, "state": None}
    return reading._replace(completion=completion.model_copy(update={**others, "wire": told(wire, answer)}))


def _ending(completion: Completion) -> Ending:
    if completion.refused:
        return "refused"
    if (completion.finish_reason or "").lower() in _AT_THE_CAP:
        return "length"
    return "tools" if completion.tool_calls else "stop"
