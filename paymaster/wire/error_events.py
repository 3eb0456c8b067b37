"""A call that came to nothing after its stream had begun, told as the last event of that stream."""

import json

from paymaster.messages import LLMResult
from paymaster.messages.wire import Dialect
from paymaster.wire.refusals import told


def error_event(result: LLMResult, dialect: Dialect) -> bytes:
    """The event for which the dialect's SDKs raise their error."""
    body = told(result.model_copy(update={"wire": None}), dialect).body
    match dialect:
        case "anthropic":
            return b"event: error\ndata: %b\n\n" % body
        case "openai-responses":
            error = json.loads(body)["error"]
            event = {"type": "error", "code": error["code"], "message": error["message"], "param": None}
            # OpenAI's own SDK looks for `error`, and others for the event's type.
            return b"event: error\ndata: %b\n\n" % json.dumps({**event, "sequence_number": 0, "error": error}).encode()
        case "openai" | "openai-embeddings" | "gemini":
            return b"data: %b\n\n" % body
