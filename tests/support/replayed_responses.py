"""OpenAI's Responses API without state: reasoning items come back encrypted, with the item that follows them."""

import re
from typing import Any

from replayed_provider import Body, ReplayedProvider, Said, require, require_known
from wire_answers import sse

_KNOWN = {
    *("model", "input", "max_output_tokens", "store", "include", "text", "temperature", "top_p", "reasoning", "tools"),
    *("tool_choice", "stream"),
}
_ITEMS = {
    "message": {"type", "role", "content", "phase"},
    "function_call": {"type", "call_id", "name", "arguments"},
    "function_call_output": {"type", "call_id", "output"},
    "reasoning": {"type", "id", "summary", "encrypted_content"},
}
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")


class ReplayedResponses(ReplayedProvider):
    api = "openai-responses"
    base_url = "https://api.openai.com/v1"
    model = "gpt-6-astra"
    thinks = True

    def __init__(self) -> None:
        super().__init__()
        self._encrypted: dict[str, str] = {}
        """By the id of each reasoning item, its content."""
        self._phases: dict[str, str] = {}
        """By the text of each message, its phase."""
        self._before: dict[str, list[str]] = {}
        """By the id of each call, the reasoning items of its response."""

    def _answer(self, said: Said, turn: int, body: Body | None) -> Body:
        output: list[Body] = []
        encrypts = body is None or "reasoning.encrypted_content" in body.get("include", [])
        if said.thought:
            output.append(self._reasoning(f"rs_{turn}", encrypts))
        if said.text:
            phase = "commentary" if said.calls else "final_answer"
            kind = "refusal" if said.refused else "output_text"
            part = {"type": kind, "refusal" if said.refused else "text": said.text}
            output.append({"type": "message", "id": f"msg_{turn}", "role": "assistant", "status": "completed"})
            output[-1] |= {"phase": phase, "content": [part]}
            self._phases[said.text] = phase
        for number, call in enumerate(said.calls):
            if number and said.thought:
                output.append(self._reasoning(f"rs_{turn}_{number}", encrypts))
            item = {"type": "function_call", "id": f"fc_{turn}_{number}", "call_id": f"call_r{turn}_{number}"}
            output.append(item | {"name": call.name, "arguments": call.arguments, "status": "completed"})
        if encrypts:
            reasoning = [item["id"] for item in output if item["type"] == "reasoning"]
            self._before |= {item["call_id"]: reasoning for item in output if item["type"] == "function_call"}
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        return {"object": "response", "model": self.model, "status": "completed", "output": output, "usage": usage}

    def _reasoning(self, name: str, encrypts: bool) -> Body:
        item: Body = {"type": "reasoning", "id": name, "summary": [{"type": "summary_text", "text": "hm"}]}
        if encrypts:
            item["encrypted_content"] = self._encrypted[name] = f"gAAAA-{name}=="
        return item

    def _check(self, body: Body) -> None:
        require_known(body, _KNOWN, "")
        require(not body.get("include") or self.thinks, "Encrypted content is not supported with this model.")
        for number, tool in enumerate(body.get("tools", [])):
            require(_NAME.fullmatch(tool["name"]), f"Invalid 'tools[{number}].name'")
        items = [item if "type" in item else {"type": "message", **item} for item in body["input"]]
        waiting, called = set[str](), set[str]()
        for at, item in enumerate(items):
            where = f"input[{at}]"
            require(item["type"] in _ITEMS, f"Invalid value: '{item['type']}' of '{where}'")
            require_known(item, _ITEMS[item["type"]], f"{where}.")
            match item["type"]:
                case "reasoning":
                    self._check_reasoning(item, items[at + 1 :], where)
                case "function_call":
                    require(_NAME.fullmatch(item["name"]), f"Invalid '{where}.name'")
                    require(0 < len(item["call_id"]) <= 64, f"Invalid '{where}.call_id'")
                    require(item["call_id"] not in called, f"Duplicate call_id in '{where}'")
                    called.add(item["call_id"])
                    waiting.add(item["call_id"])
                case "function_call_output":
                    call_id = item["call_id"]
                    _check_parts(item["output"], where)
                    require(call_id in waiting, f"No tool call found for function call output with call_id {call_id}.")
                    waiting.discard(call_id)
                case _:
                    require(item["role"] != "assistant" or isinstance(item["content"], str), f"'{where}.content'")
                    _check_parts(item["content"], where)
                    require(item["role"] == "assistant" or "phase" not in item, f"Unknown parameter: '{where}.phase'")
                    require(item["content"] or item["role"] != "assistant", f"Invalid '{where}.content': empty")
        require(not waiting, f"No tool output found for function call {waiting}.")
        require(items[-1].get("role") == "user" or items[-1]["type"] == "function_call_output", "nothing is asked")
        self._check_reasoning_is_there(items)

    def _check_reasoning(self, item: Body, after: list[Body], where: str) -> None:
        content = str(item.get("encrypted_content") or "")
        require(content, f"Item with id '{item['id']}' not found. Items are not persisted when `store` is false.")
        require(
            content == self._encrypted.get(item["id"]),
            f"The encrypted content {content[:4]}... could not be verified.",
        )
        follows: Body = next((each for each in after if each["type"] != "reasoning"), {})
        require(
            follows.get("type") == "function_call" or follows.get("role") == "assistant",
            f"Item '{item['id']}' of type 'reasoning' was provided without its required following item. {where}",
        )

    def _check_reasoning_is_there(self, items: list[Body]) -> None:
        """Not an error at OpenAI, but what its guide asks for: the reasoning of every call since the last question."""
        given = {item["id"] for item in items if item["type"] == "reasoning"}
        for item in items:
            missing = set(self._before.get(item.get("call_id", ""), ())) - given
            require(not missing, f"'function_call' was provided without its required 'reasoning' item: {missing}")

    def phases_of(self, body: Body) -> list[str | None]:
        """The phases of the assistant's messages."""
        return [item.get("phase") for item in body["input"] if item.get("role") == "assistant"]

    def streamed(self, answer: Body) -> str:
        events: list[Body] = [{"type": "response.created", "response": {"status": "in_progress"}}]
        events += [{"type": "response.output_item.done", "item": item} for item in answer["output"]]
        return sse(*events, {"type": "response.completed", "response": answer})

    def refusal(self, why: str) -> Body:
        return {"error": {"message": why, "type": "invalid_request_error", "param": "input", "code": None}}


class ReplayedAzureResponses(ReplayedResponses):
    """Azure's, where a model is called by the name of its deployment."""

    base_url = "https://example.openai.azure.com/openai/v1"
    model = "our-best-one"


def _check_parts(content: Any, where: str) -> None:
    for part in content if isinstance(content, list) else ():
        require(part["type"] == "input_text", f"Invalid value: '{part['type']}' of '{where}'")
        require_known(part, {"type", "text", "prompt_cache_breakpoint"}, f"{where}.content.")
