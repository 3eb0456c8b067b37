"""How large a request is, for the bound of its cost."""

import json

from paymaster.messages import LLMRequest
from paymaster.messages.call_steps import RequestFacts
from paymaster.providers.call_ids import MADE_ID_BYTES
from paymaster.translation.dialects import neutral_request
from paymaster.translation.neutral import Untranslatable
from paymaster.values.normalised import normalised_bytes, utf8_length
from paymaster.wire.dialects import measured
from paymaster.wire.measured import Measured

FILLED_IN_BYTES = 100
"""What a message with calls of another model gets beside them, where a service refuses it without: a word in place of
a signature, an empty thought."""


def facts_of(request: LLMRequest) -> RequestFacts:
    """Raises BadBody."""
    if request.wire is not None:
        asked = measured(request.wire)
        translated_bytes, untranslatable = _translated(request, asked)
        return RequestFacts(
            input_bytes=asked.input_bytes,
            max_output_tokens=asked.max_output_tokens,
            images=asked.images,
            documents=asked.documents,
            dialect=request.wire.dialect,
            outputs=asked.outputs,
            needs=asked.needs,
            chooses=asked.chooses,
            kept_thoughts=asked.kept_thoughts,
            translated_bytes=translated_bytes,
            untranslatable=untranslatable,
        )
    return RequestFacts(
        input_bytes=input_bytes(request),
        max_output_tokens=request.max_output_tokens,
        images=sum(len(message.images) for message in request.messages),
        documents=sum(len(message.documents) for message in request.messages),
    )


def _translated(request: LLMRequest, asked: Measured) -> tuple[int | None, str | None]:
    """The size of a wire call in neutral words, or the key that cannot be said in them."""
    try:
        neutral = neutral_request(request)
    except Untranslatable as error:
        return None, error.key
    documents = sum(len(message.documents) for message in neutral.messages)
    # A text that becomes a document is in none of its counts, but in the size that the call has as it stands.
    return input_bytes(neutral) + (asked.input_bytes if documents > asked.documents else 0), None


def input_bytes(request: LLMRequest) -> int:
    """The size of everything that a tokenizer will see: messages, tools and schema as JSON, in UTF-8; without images
    and documents.

    With all states, whoever gave them, and with room for the ids that calls of tools, and their results, may get
    instead of their own, for what is filled in beside them, and for a schema in the words of a service, which is at
    most twice as long (`schemas`).

    Byte-level tokenizers never make more tokens than bytes. Those that normalise first can (U+FDFA is 3 bytes and 18
    letters), so the larger of the text and its NFKC form counts.
    """
    seen: dict[str, object] = {
        "messages": [
            message.model_dump(
                exclude={"images": True, "documents": {"__all__": {"url", "data"}}}, exclude_defaults=True
            )
            for message in request.conversation()
        ],
        "json_schema": request.json_schema,
    }
    if request.tools:
        seen["tools"] = [tool.model_dump() for tool in request.tools]
    text = json.dumps(seen, ensure_ascii=False)
    calls = sum(len(message.tool_calls) for message in request.messages)
    rewritten = 0 if request.json_schema is None else utf8_length(json.dumps(request.json_schema, ensure_ascii=False))
    return (FILLED_IN_BYTES + 2 * MADE_ID_BYTES) * calls + rewritten + max(utf8_length(text), normalised_bytes(text))
