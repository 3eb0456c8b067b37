"""Services that speak chat completions, each with what it documents beyond them."""

import re
from typing import Any, ClassVar

from replayed_provider import Body, ReplayedProvider, Said, require, require_known
from wire_answers import sse

_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_MESSAGE = {"role", "content", "tool_calls", "tool_call_id"}
_CALL = {"id", "type", "function"}


class ReplayedOpenAI(ReplayedProvider):
    """OpenAI's own."""

    api = "openai"
    base_url = "https://api.openai.com/v1"
    model = "gpt-6-astra"
    known: ClassVar[set[str]] = {
        *("model", "messages", "max_completion_tokens", "stream", "stream_options", "stop", "seed", "temperature"),
        *("top_p", "tools", "tool_choice", "response_format", "reasoning_effort"),
    }
    message_fields = _MESSAGE
    call_fields = _CALL
    ids = re.compile(".{1,40}")
    part_fields: ClassVar[set[str]] = {"type", "text", "prompt_cache_breakpoint"}
    said_parts: ClassVar[set[str]] = set()
    """Types of the parts that an assistant's content may have. Empty: it is a string."""
    needs_content = False
    """An assistant message without any content is refused."""

    def call_id(self, turn: int, number: int, written: str) -> str:
        return f"call_{turn}_{number}"

    def of_message(self, said: Said, turn: int) -> Body:
        """What the service adds to its message."""
        return {}

    def of_call(self, said: Said, turn: int, number: int) -> Body:
        """What the service adds to a call."""
        return {}

    def check_calls(self, message: Body, where: str) -> None:
        """What the service wants of an assistant message with calls."""

    def _answer(self, said: Said, turn: int, body: Body | None) -> Body:
        calls = [
            {"id": self.call_id(turn, number, call.id), "type": "function"}
            | {"function": {"name": call.name, "arguments": call.arguments}}
            | self.of_call(said, turn, number)
            for number, call in enumerate(said.calls)
        ]
        message: Body = {"role": "assistant", "content": said.text, **self.of_message(said, turn)}
        if calls:
            message["tool_calls"] = calls
        if said.refused:
            message |= {"content": None, "refusal": said.text or "No."}
        finish = "tool_calls" if calls else "stop"
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        return {"object": "chat.completion", "model": self.model, "choices": [choice], "usage": usage}

    def _check(self, body: Body) -> None:
        require_known(body, self.known, "")
        for number, tool in enumerate(body.get("tools", [])):
            require(_NAME.fullmatch(tool["function"]["name"]), f"Invalid 'tools[{number}].function.name'")
        messages = body["messages"]
        require(messages[-1]["role"] in ("user", "tool"), "Expected last role User or Tool, but got assistant")
        waiting = set[str]()
        for at, message in enumerate(messages):
            where = f"messages[{at}]."
            require_known(message, self.message_fields, where)
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                if message["role"] == "assistant":
                    require(part["type"] in self.said_parts, f"Invalid type for '{where}content': expected a string")
                else:
                    require_known(part, self.part_fields, f"{where}content.")
            if message["role"] == "tool":
                require(
                    message["tool_call_id"] in waiting,
                    f"Invalid parameter: {where} messages with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls'.",
                )
                waiting.discard(message["tool_call_id"])
                continue
            require(
                not waiting,
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {waiting}",
            )
            if message["role"] == "assistant":
                waiting = self._check_said(message, where)
        require(not waiting, f"An assistant message with 'tool_calls' must be followed by tool messages: {waiting}")

    def _check_said(self, message: Body, where: str) -> set[str]:
        calls: list[Body] = message.get("tool_calls", [])
        content: Any = message.get("content")
        is_said = isinstance(content, str) or bool(content and self.said_parts)
        require(calls or is_said, f"Invalid value for '{where}content': expected a string, got null.")
        require(
            calls or content or not self.needs_content, "Invalid assistant message: content or tool_calls must be set"
        )
        for number, call in enumerate(calls):
            require_known(call, self.call_fields, f"{where}tool_calls[{number}].")
            require(self.ids.fullmatch(call["id"]), f"Invalid '{where}tool_calls[{number}].id': {call['id']!r}")
            function = call["function"]
            require(_NAME.fullmatch(function["name"]), f"Invalid '{where}tool_calls[{number}].function.name'")
            require(isinstance(function["arguments"], str), f"Invalid type for '{where}arguments'")
        ids = {call["id"] for call in calls}
        require(len(ids) == len(calls), f"Duplicate tool call id in '{where}tool_calls'")
        if calls:
            self.check_calls(message, where)
        return ids

    def streamed(self, answer: Body) -> str:
        choice = answer["choices"][0]
        message = choice["message"]
        deltas: list[Body] = []
        for name, value in message.items():
            if name == "tool_calls":
                for index, call in enumerate(value):
                    function = call["function"]
                    written = function["arguments"]
                    head = call | {"index": index, "function": function | {"arguments": written[:4]}}
                    deltas.append({"tool_calls": [head]})
                    deltas.append({"tool_calls": [{"index": index, "function": {"arguments": written[4:]}}]})
            elif name == "reasoning_details":
                deltas += [{name: [piece]} for detail in value for piece in _detail_pieces(detail)]
            elif name == "content" and isinstance(value, list):
                deltas += [{name: piece} for part in value for piece in _content_pieces(part)]
            elif isinstance(value, str) and name != "role":
                deltas += [{name: value[:2]}, {name: value[2:]}]
        chunks: list[Body] = [{"model": answer["model"], "choices": [{"index": 0, "delta": each}]} for each in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
        return sse(*chunks, {"choices": [], "usage": answer["usage"]}, last="[DONE]")

    def refusal(self, why: str) -> Body:
        return {"error": {"message": why, "type": "invalid_request_error", "param": None, "code": None}}


def _content_pieces(part: Body) -> list[Any]:
    """A thought comes in parts, a text in strings."""
    if part["type"] == "text":
        return [part["text"][:2], part["text"][2:]]
    (thought,) = part["thinking"]
    return [[part | {"thinking": [thought | {"text": piece}]}] for piece in (thought["text"][:2], thought["text"][2:])]


def _detail_pieces(detail: Body) -> list[Body]:
    """A text comes in pieces, and its signature alone in the last one."""
    if "text" not in detail:
        return [detail]
    of_all = {name: value for name, value in detail.items() if name not in ("text", "signature")}
    texts = [of_all | {"text": part} for part in (detail["text"][:1], detail["text"][1:])]
    return [*texts, of_all | {"signature": detail["signature"]}]


class ReplayedAzureChat(ReplayedOpenAI):
    api = "azure-openai"
    base_url = "https://example.openai.azure.com/openai/v1"
    model = "our-best-one"
    part_fields: ClassVar[set[str]] = {"type", "text"}


class ReplayedGroq(ReplayedOpenAI):
    """What its models thought may go back."""

    base_url = "https://api.groq.com/openai/v1"
    model = "openai/gpt-oss-120b"
    part_fields: ClassVar[set[str]] = {"type", "text"}
    message_fields = _MESSAGE | {"reasoning"}

    def call_id(self, turn: int, number: int, written: str) -> str:
        return f"fc_{turn:08}-{number:04}"

    def of_message(self, said: Said, turn: int) -> Body:
        return {"reasoning": said.thought} if said.thought else {}


class ReplayedXai(ReplayedOpenAI):
    base_url = "https://api.x.ai/v1"
    model = "grok-4.5"
    part_fields: ClassVar[set[str]] = {"type", "text"}
    known = (ReplayedOpenAI.known - {"max_completion_tokens"}) | {"max_tokens"}
    message_fields = _MESSAGE | {"reasoning_content"}

    def of_message(self, said: Said, turn: int) -> Body:
        return {"reasoning_content": said.thought} if said.thought else {}


class ReplayedMistral(ReplayedOpenAI):
    base_url = "https://api.mistral.ai/v1"
    model = "mistral-large-latest"
    part_fields: ClassVar[set[str]] = {"type", "text"}
    known = (ReplayedOpenAI.known - {"max_completion_tokens", "seed"}) | {"max_tokens", "random_seed"}
    ids = re.compile("[a-zA-Z0-9]{9}")
    needs_content = True

    def call_id(self, turn: int, number: int, written: str) -> str:
        return f"call{turn:03}{number:02}"[:9]


class ReplayedMagistral(ReplayedMistral):
    """A model that thinks, in parts of its content; what it thought is not to be changed or left out."""

    model = "magistral-medium-latest"
    said_parts: ClassVar[set[str]] = {"thinking", "text"}

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, list[Body]] = {}

    def of_message(self, said: Said, turn: int) -> Body:
        if not said.thought:
            return {}
        thinking: Body = {"type": "thinking", "thinking": [{"type": "text", "text": said.thought}]}
        parts = [thinking, {"type": "text", "text": said.text}] if said.text else [thinking]
        self._said |= {self.call_id(turn, number, ""): parts for number in range(len(said.calls))}
        return {"content": parts}

    def check_calls(self, message: Body, where: str) -> None:
        for call in message["tool_calls"]:
            issued = self._said.get(call["id"])
            require(issued in (None, message.get("content")), f"{where}content: the thinking was changed")


class ReplayedDeepSeek(ReplayedOpenAI):
    """In its thinking mode, which is the default: every message with calls needs its `reasoning_content`."""

    base_url = "https://api.deepseek.com"
    model = "deepseek-v4-pro"
    part_fields: ClassVar[set[str]] = {"type", "text"}
    known = (ReplayedOpenAI.known - {"max_completion_tokens", "seed", "response_format"}) | {"max_tokens"}
    message_fields = _MESSAGE | {"reasoning_content"}
    needs_content = True

    def __init__(self) -> None:
        super().__init__()
        self._thoughts: dict[str, str] = {}

    def call_id(self, turn: int, number: int, written: str) -> str:
        return f"call_{number:02}_{turn:020}"

    def of_message(self, said: Said, turn: int) -> Body:
        self._thoughts |= {self.call_id(turn, number, ""): said.thought for number in range(len(said.calls))}
        return {"reasoning_content": said.thought} if said.thought else {}

    def check_calls(self, message: Body, where: str) -> None:
        why = "The `reasoning_content` in the thinking mode must be passed back to the API."
        found = message.get("reasoning_content")
        require(isinstance(found, str), why)
        for call in message["tool_calls"]:
            require(self._thoughts.get(call["id"], found) == found, why)


class ReplayedOpenRouter(ReplayedOpenAI):
    """Wants `reasoning_details` back as they came."""

    base_url = "https://openrouter.ai/api/v1"
    model = "anthropic/claude-opus-5.5"
    part_fields: ClassVar[set[str]] = {"type", "text", "cache_control"}
    known = (ReplayedOpenAI.known - {"max_completion_tokens"}) | {"max_tokens"}
    message_fields = _MESSAGE | {"reasoning", "reasoning_details"}

    def __init__(self) -> None:
        super().__init__()
        self._details: dict[str, list[Body]] = {}

    def of_message(self, said: Said, turn: int) -> Body:
        if not said.thought:
            return {}
        form = {"format": "anthropic-claude-v1"}
        details: list[Body] = [
            {"type": "reasoning.text", "text": said.thought, "signature": f"signed-{turn}", "index": 0, **form},
            {"type": "reasoning.encrypted", "data": f"hidden-{turn}", "index": 1, **form},
        ]
        self._details |= {self.call_id(turn, number, ""): details for number in range(len(said.calls))}
        return {"reasoning": said.thought, "reasoning_details": details}

    def check_calls(self, message: Body, where: str) -> None:
        for call in message["tool_calls"]:
            issued = self._details.get(call["id"])
            require(issued in (None, message.get("reasoning_details")), f"{where}reasoning_details were modified")


class ReplayedGoogleChat(ReplayedOpenAI):
    """Gemini at Google's address for chat completions: the first call of a message needs its signature."""

    base_url = "https://generativelanguage.googleapis.com/v1beta/openai"
    model = "gemini-3.8-flash"
    part_fields: ClassVar[set[str]] = {"type", "text"}
    known = (ReplayedOpenAI.known - {"max_completion_tokens"}) | {"max_tokens"}
    call_fields = _CALL | {"extra_content"}

    def call_id(self, turn: int, number: int, written: str) -> str:
        return f"function-call-{turn}{number}"

    def of_call(self, said: Said, turn: int, number: int) -> Body:
        return {} if number else {"extra_content": {"google": {"thought_signature": f"signed-{turn}"}}}

    def check_calls(self, message: Body, where: str) -> None:
        first = message["tool_calls"][0]
        signature = first.get("extra_content", {}).get("google", {}).get("thought_signature")
        require(signature, f"Function call is missing a thought_signature in functionCall parts. {where}")
        issued = re.fullmatch(r"function-call-(.+)0", first["id"])
        expected = f"signed-{issued[1]}" if issued else "skip_thought_signature_validator"
        require(signature == expected, "Invalid thought signature.")


class ReplayedLocal(ReplayedOpenAI):
    """A server of one's own: it passes on whatever ids its model writes, the same ones in every turn, or none."""

    base_url = "http://localhost:11434/v1"
    model = "qwen3"
    part_fields: ClassVar[set[str]] = {"type", "text"}
    known = (ReplayedOpenAI.known - {"max_completion_tokens", "tool_choice"}) | {"max_tokens"}
    message_fields = _MESSAGE | {"reasoning"}

    def call_id(self, turn: int, number: int, written: str) -> str:
        return written

    def of_message(self, said: Said, turn: int) -> Body:
        return {"reasoning": said.thought} if said.thought else {}
