"""How large a request is, for the bound of its cost."""

import json
import unicodedata

from paymaster.messages import LLMRequest


def input_bytes(request: LLMRequest) -> int:
    """The size of everything that a tokenizer will see: messages, tools and schema as JSON, in UTF-8; without images.

    Byte-level tokenizers never make more tokens than bytes. Those that normalise first can (U+FDFA is 3 bytes and 18
    letters), so the larger of the text and its NFKC form counts.
    """
    seen: dict[str, object] = {
        "messages": [
            message.model_dump(exclude={"images"}, exclude_defaults=True) for message in request.conversation()
        ],
        "json_schema": request.json_schema,
    }
    if request.tools:
        seen["tools"] = [tool.model_dump() for tool in request.tools]
    text = json.dumps(seen, ensure_ascii=False)
    return max(_utf8_length(text), _utf8_length(unicodedata.normalize("NFKC", text)))


def _utf8_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
