"""Gemini 3 as generateContent documents itself: turns of calls and their responses, and thought signatures that come
back in the part in which they were given."""

import json
import re
from typing import Any

from replayed_provider import Body, ReplayedProvider, Said, require, require_known
from wire_answers import sse

DUMMY = "skip_thought_signature_validator"
_NAME = re.compile("[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_KNOWN = {"contents", "generationConfig", "systemInstruction", "tools", "toolConfig"}
_CONFIG = {
    *("maxOutputTokens", "responseMimeType", "responseJsonSchema", "temperature", "topP", "stopSequences", "seed"),
    "thinkingConfig",
}
_DATA = {"text", "inlineData", "fileData", "functionCall", "functionResponse"}


class ReplayedGemini(ReplayedProvider):
    api = "gemini"
    base_url = "https://generativelanguage.googleapis.com/v1beta"
    model = "gemini-3.8-flash"
    gives_ids = True

    def __init__(self) -> None:
        super().__init__()
        self._signed: dict[str, Body] = {}
        """By its signature, each part as it was given."""

    def _answer(self, said: Said, turn: int, body: Body | None) -> Body:
        parts: list[Body] = []
        if said.text:
            parts.append({"text": said.text})
        for number, call in enumerate(said.calls):
            function: Body = {"name": call.name, "args": json.loads(call.arguments)}
            if self.gives_ids:
                function["id"] = f"fc_{turn}_{number}"
            parts.append({"functionCall": function})
        signed = next((part for part in parts if "functionCall" in part), parts[-1] if parts else None)
        if said.thought and signed is not None:
            signature = f"signed-{turn}+/=="
            self._signed[signature] = dict(signed)
            signed["thoughtSignature"] = signature
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        reason = "SAFETY" if said.refused else "STOP"
        candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason}
        return {"modelVersion": self.model, "candidates": [candidate], "usageMetadata": usage}

    def _check(self, body: Body) -> None:
        require_known(body, _KNOWN, "")
        require_known(body["generationConfig"], _CONFIG, "generationConfig.")
        for tool in body.get("tools", []):
            for function in tool["functionDeclarations"]:
                require(
                    _NAME.fullmatch(function["name"]),
                    "Invalid function name. Must start with a letter or an underscore.",
                )
        contents = body["contents"]
        require(contents, "contents are required")
        require(contents[0]["role"] == "user", "Please ensure that multiturn requests begin with a user turn.")
        require(contents[-1]["role"] == "user", "Please ensure that the last turn is one of the user.")
        before: list[Body] = []
        for at, content in enumerate(contents):
            where, parts = f"contents[{at}]", content["parts"]
            require(parts, f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.")
            for number, part in enumerate(parts):
                self._check_part(part, content["role"], f"{where}.parts[{number}]")
            calls = [part["functionCall"] for part in parts if "functionCall" in part]
            if calls:
                require(
                    before and contents[at - 1]["role"] == "user",
                    "Please ensure that function call turn comes immediately after a user turn or after a function "
                    "response turn.",
                )
            self._check_responses(before, parts)
            before = parts
        self._check_signatures(contents)
        require(not [part for part in before if "functionCall" in part], "function calls without their responses")

    def _check_part(self, part: Body, role: str, where: str) -> None:
        require_known(part, _DATA | {"thoughtSignature", "thought"}, f"{where}.")
        require(len(_DATA & set(part)) == 1, f"{where}.data: required oneof field 'data' must have one initialized")
        if role == "model" and part.get("text") == "":
            require("thoughtSignature" in part, f"Unable to submit request because {where} has an empty text")
        if "functionCall" in part:
            require(_NAME.fullmatch(part["functionCall"]["name"]), f"{where}: Invalid function name")
            require(isinstance(part["functionCall"].get("args", {}), dict), f"{where}: args are no Struct")

    def _check_responses(self, before: list[Body], parts: list[Body]) -> None:
        calls = [part["functionCall"] for part in before if "functionCall" in part]
        responses = [part["functionResponse"] for part in parts if "functionResponse" in part]
        require(
            len(calls) == len(responses),
            "Please ensure that the number of function response parts is equal to the number of function call parts "
            "of the function call turn.",
        )
        for call, response in zip(calls, responses, strict=True):
            require(call["name"] == response["name"], "function_response.name must be that of its call")
            require(call.get("id") == response.get("id"), "function_response.id must be that of its call")

    def _check_signatures(self, contents: list[Body]) -> None:
        began = max(at for at, content in enumerate(contents) if _asks(content))
        for at, content in enumerate(contents):
            calls = [part for part in content["parts"] if "functionCall" in part]
            if at > began and calls:
                name = calls[0]["functionCall"]["name"]
                require(
                    "thoughtSignature" in calls[0],
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                    f"work correctly. Additional data, function call `default_api:{name}`, position {at}.",
                )
            for part in content["parts"]:
                signature: Any = part.get("thoughtSignature")
                if signature not in (None, DUMMY):
                    issued = self._signed.get(signature)
                    found = {name: value for name, value in part.items() if name != "thoughtSignature"}
                    require(issued is not None, "Invalid thought signature.")
                    require(issued == found, "Corrupted thought signature.")

    def streamed(self, answer: Body) -> str:
        candidate = answer["candidates"][0]
        chunks: list[list[Body]] = []
        for part in candidate["content"]["parts"]:
            if "text" in part and "thoughtSignature" in part:  # the signature comes last, with an empty text
                self._signed[part["thoughtSignature"]] = {"text": ""}
                chunks += [[{"text": part["text"]}], [part | {"text": ""}]]
            else:
                chunks.append([part])
        events: list[Body] = [{"candidates": [{"content": {"role": "model", "parts": parts}}]} for parts in chunks]
        return sse(*events, answer | {"candidates": [{"finishReason": candidate["finishReason"]}]})

    def refusal(self, why: str) -> Body:
        return {"error": {"code": 400, "message": why, "status": "INVALID_ARGUMENT"}}


class ReplayedGeminiWithoutIds(ReplayedGemini):
    """An earlier model, whose calls had no ids."""

    model = "gemini-3.1-pro-preview"
    gives_ids = False


def _asks(content: Body) -> bool:
    """Whether it begins a turn: what a user wrote, and not the responses of functions."""
    return content["role"] == "user" and any("functionResponse" not in part for part in content["parts"])
