"""Claude as its Messages API documents itself: pairs of tool calls and results, content that is not empty, and
preserved thinking: blocks as they came, at their place, with nothing changed before them."""

import json
import re
from typing import Any

from replayed_provider import Body, ReplayedProvider, Said, require, require_known
from wire_answers import sse

_KNOWN = {
    *("model", "messages", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_p"),
    *("tools", "tool_choice", "output_config"),
}
_NAME = re.compile("[a-zA-Z0-9_-]{1,128}")
_ID = re.compile("[a-zA-Z0-9_-]+")
_FIELDS = {
    "text": {"type", "text", "cache_control"},
    "image": {"type", "source", "cache_control"},
    "tool_use": {"type", "id", "name", "input", "cache_control"},
    "tool_result": {"type", "tool_use_id", "content", "cache_control"},
    "thinking": {"type", "thinking", "signature"},
    "redacted_thinking": {"type", "data"},
}
_THINKING = ("thinking", "redacted_thinking")


class ReplayedClaude(ReplayedProvider):
    api = "anthropic"
    base_url = "https://api.anthropic.com/v1"
    model = "claude-opus-5-5"

    def __init__(self) -> None:
        super().__init__()
        self.needs_thoughts = True
        """Whether thinking is `enabled`. A model that thinks adaptively takes a turn with none of its thoughts, too."""
        self._prefixes: dict[str, str | None] = {}
        """By each thinking block as it was sent, what came before its message."""
        self._order: dict[str, list[str]] = {}
        """By the id of each call, the thinking and the calls of its message in their order."""

    def _answer(self, said: Said, turn: int, body: Body | None) -> Body:
        content: list[Body] = []
        if said.thought:
            content.append({"type": "thinking", "thinking": said.thought, "signature": f"signed-{turn}+/=="})
            content.append({"type": "redacted_thinking", "data": f"hidden-{turn}+/=="})
        if said.text:
            content.append({"type": "text", "text": said.text})
        for number, call in enumerate(said.calls):
            if number and said.thought:  # between calls, and with its text left out, as newer models do
                content.append({"type": "thinking", "thinking": "", "signature": f"signed-{turn}-{number}"})
            name, arguments = call.name, json.loads(call.arguments)
            content.append({"type": "tool_use", "id": f"toolu_{turn}_{number}", "name": name, "input": arguments})
        before = None if body is None else _prefix(body, len(body["messages"]))
        self._prefixes |= {json.dumps(block): before for block in content if block["type"] in _THINKING}
        self._order |= {block["id"]: _order(content) for block in content if block["type"] == "tool_use"}
        stopped = "refusal" if said.refused else "tool_use" if said.calls else "end_turn"
        return {
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stopped,
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }

    def _check(self, body: Body) -> None:
        require_known(body, _KNOWN, "")
        for number, tool in enumerate(body.get("tools", [])):
            require(_NAME.fullmatch(tool["name"]), f"tools.{number}.custom.name: String should match pattern")
        messages = body["messages"]
        marks = json.dumps(body).count('"cache_control": {"type": "ephemeral"}')
        require(marks <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {marks}.")
        require(messages, "messages: at least one message is required")
        require(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
        require(messages[-1]["role"] == "user", "This model does not support assistant message prefill.")
        waiting = set[str]()
        seen = set[str]()
        for at, message in enumerate(messages):
            where, blocks = f"messages.{at}", _blocks(message)
            require(blocks, f"{where}: all messages must have non-empty content")
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            require(
                not waiting - set(results),
                f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {waiting}",
            )
            require(
                not set(results) - waiting,
                f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {results}",
            )
            require(len(set(results)) == len(results), f"{where}: each tool_use must have a single result")
            first = [block["type"] for block in blocks[: len(results)]]
            require(first == ["tool_result"] * len(results), f"{where}: `tool_result` blocks must come first")
            calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
            require(not seen & set(calls) and len(set(calls)) == len(calls), f"{where}: `tool_use` ids must be unique")
            seen |= set(calls)
            waiting = set(calls)
            for number, block in enumerate(blocks):
                self._check_block(block, message["role"], f"{where}.content.{number}")
            if message["role"] == "assistant":
                self._check_thinking(blocks, _prefix(body, at), where)

    def _check_block(self, block: Body, role: str, where: str) -> None:
        for name in block.keys() - _FIELDS[block["type"]]:
            require(False, f"{where}.{block['type']}.{name}: Extra inputs are not permitted")
        match block["type"]:
            case "text":
                require(block["text"].strip(), f"{where}: text content blocks must contain non-whitespace text")
            case "tool_use":
                require(role == "assistant", f"{where}: `tool_use` blocks can only be in `assistant` messages")
                require(_ID.fullmatch(block["id"]), f"{where}.tool_use.id: String should match pattern")
                require(_NAME.fullmatch(block["name"]), f"{where}.tool_use.name: String should match pattern")
                require(isinstance(block["input"], dict), f"{where}.tool_use.input: Input should be a valid dictionary")
            case "tool_result" | "image":
                require(role == "user", f"{where}: only in `user` messages")
            case _:
                require(role == "assistant", f"{where}: `thinking` blocks can only be in `assistant` messages")

    def _check_thinking(self, blocks: list[Body], before: str, where: str) -> None:
        require(
            blocks[-1]["type"] not in _THINKING,
            f"{where}: The final block in an assistant message cannot be `thinking`.",
        )
        for number, block in enumerate(blocks):
            if block["type"] in _THINKING:
                key = json.dumps(block)
                require(key in self._prefixes, f"{where}.content.{number}: Invalid `signature` in `thinking` block")
                require(
                    self._prefixes[key] in (None, before),
                    f"{where}.content.{number}: Invalid `signature` in `thinking` block. The block is bound to a "
                    "different conversation.",
                )
            if block["type"] == "tool_use" and block["id"] in self._order:
                order = _order(blocks)
                has_none = all(part in self._order for part in order)
                require(
                    self._order[block["id"]] == order or (has_none and not self.needs_thoughts),
                    f"{where}.content.{number}: `thinking` or `redacted_thinking` blocks in the latest assistant "
                    "message cannot be modified.",
                )

    def streamed(self, answer: Body) -> str:
        events: list[Body] = [{"type": "message_start", "message": answer | {"content": [], "stop_reason": None}}]
        for index, block in enumerate(answer["content"]):
            start, deltas = _pieces(block)
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        events.append({"type": "message_delta", "delta": {"stop_reason": answer["stop_reason"]}, "usage": {}})
        return sse(*events, {"type": "message_stop"})

    def refusal(self, why: str) -> Body:
        return {"type": "error", "error": {"type": "invalid_request_error", "message": why}}


def _pieces(block: Body) -> tuple[Body, list[Body]]:
    match block["type"]:
        case "thinking":
            half = len(block["thinking"]) // 2
            texts = [block["thinking"][:half], block["thinking"][half:]]
            deltas = [{"type": "thinking_delta", "thinking": text} for text in texts if text]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": letter} for letter in block["text"]]
        case "tool_use":
            written = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in (written[:3], written[3:])]
            return block | {"input": {}}, deltas
        case _:
            return block, []


def _blocks(message: Body) -> list[Body]:
    content: Any = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list[Body](content)


def _prefix(body: Body, end: int) -> str:
    """Everything before the message of this number, whether it is written as text or as blocks, cached or not."""
    messages = [
        (message["role"], [{**block, "cache_control": None} for block in _blocks(message)])
        for message in body["messages"][:end]
    ]
    return json.dumps([body.get("system"), body.get("tools"), messages], sort_keys=True)


def _order(blocks: list[Body]) -> list[str]:
    return [
        json.dumps(block) if block["type"] in _THINKING else block["id"] for block in blocks if block["type"] != "text"
    ]
