"""Which calls can be put into neutral words, and answers back into each dialect's."""

from collections.abc import Mapping

from pydantic import JsonValue, ValidationError

from paymaster.messages import LLMRequest
from paymaster.messages.wire import Dialect, Wire, WireAnswer
from paymaster.translation import anthropic, gemini, openai_chat, openai_responses
from paymaster.translation.neutral import NeutralAnswer, Translation, Untranslatable
from paymaster.values.json_reading import message_data, object_of

TRANSLATIONS: Mapping[Dialect, Translation] = {
    "anthropic": anthropic.TRANSLATION,
    "gemini": gemini.TRANSLATION,
    "openai": openai_chat.TRANSLATION,
    "openai-responses": openai_responses.TRANSLATION,
}


def neutral_request(request: LLMRequest) -> LLMRequest:
    """A wire call in neutral words. Raises Untranslatable."""
    wire = request.wire
    assert wire is not None
    translation = TRANSLATIONS.get(wire.dialect)
    if translation is None:
        raise Untranslatable(wire.dialect)
    around = request.model_dump(include={"route", "budget", "call_id", "metadata"})
    try:
        return LLMRequest(**around, **translation.asked(wire, _body(wire)))
    except ValidationError as error:
        raise Untranslatable(".".join(map(str, error.errors()[0]["loc"][:1])) or "messages") from None
    except ValueError as error:
        raise Untranslatable(str(error)) from None


def told(wire: Wire, answer: NeutralAnswer) -> WireAnswer:
    """The answer in the words in which that call was asked."""
    return TRANSLATIONS[wire.dialect].answered(wire, _body(wire), answer)


def _body(wire: Wire) -> dict[str, JsonValue]:
    return object_of(message_data(wire.body))
