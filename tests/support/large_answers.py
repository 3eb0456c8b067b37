"""Streams of chat completions as long as one wants, of text that does not compress away."""

import json
import random
from collections.abc import Mapping

from counting_server import Reply

from paymaster.values.money import TokenUsage

USAGE = TokenUsage(input_tokens=12, output_tokens=60_000)


def chunks(tokens: int, seed: int = 1) -> list[bytes]:
    """A chunk of about 290 bytes for each token, with as much padding that is random as OpenAI's have at most."""
    numbers = random.Random(seed)
    named = {"object": "chat.completion.chunk", "created": 1_761_234_567, "model": "m-1", "service_tier": "default"}
    made: list[bytes] = []
    for _ in range(tokens):
        delta = {"content": f" {numbers.getrandbits(24):x}"}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        padding = f"{numbers.getrandbits(240):060x}"
        made.append(_event({"id": f"chatcmpl-{seed}"} | named | {"choices": [choice], "obfuscation": padding}))
    end = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    return [*made, _event({"id": f"chatcmpl-{seed}"} | named | {"choices": [end], "usage": None})]


def stream(tokens: int, seed: int = 1, billed: TokenUsage = USAGE) -> tuple[Reply, bytes]:
    """A reply, and its body as a caller gets it who has not asked for the usage."""
    said = chunks(tokens, seed)
    done = b"data: [DONE]\n\n"
    usage = {"prompt_tokens": billed.input_tokens, "completion_tokens": billed.output_tokens}
    body = b"".join((*said, done))
    pieces = [b"".join(said[at : at + 1_000]) for at in range(0, len(said), 1_000)]
    return Reply(stream=[*pieces, _event({"model": "m-1", "choices": [], "usage": usage}), done]), body


def _event(data: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
