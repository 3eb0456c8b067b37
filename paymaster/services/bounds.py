"""How large a request is, for the bound of its cost."""

import json
import unicodedata

from paymaster.messages import LLMRequest


def input_bytes(request: LLMRequest) -> int:
    """The size of everything that a tokenizer will see: messages and schema as JSON, in UTF-8.

    Byte-level tokenizers never make more tokens than bytes. Those that normalise first can (U+FDFA is 3 bytes and 18
    letters), so the larger of the text and its NFKC form counts.
    """
    text = json.dumps(
        {
            "messages": [message.model_dump() for message in request.conversation()],
            "json_schema": request.json_schema,
        },
        ensure_ascii=False,
    )
    return max(_utf8_length(text), _utf8_length(unicodedata.normalize("NFKC", text)))


def _utf8_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
