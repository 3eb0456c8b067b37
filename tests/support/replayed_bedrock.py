"""Claude on Bedrock as Converse documents itself: botocore's model of its parameters, turns of user and assistant by
turns, pairs of tool calls and results, no blank text, and signed thoughts as they came."""

import json
import re
from functools import cache
from itertools import pairwise
from typing import Any

from aws_frames import frames
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from replayed_provider import Body, ReplayedProvider, Said, require

_ID = re.compile("[a-zA-Z0-9_.:-]{1,64}")
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_DOCUMENT_NAME = re.compile(r"(?!.*\s\s)[A-Za-z0-9()\[\]\s-]{1,200}")


@cache
def _input_shape() -> Any:
    model = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"), "bedrock-runtime")
    return model.operation_model("Converse").input_shape


def refuse_unknown_parameters(body: Body) -> None:
    """Raises Refusal for what AWS's own SDK would not send."""
    report = ParamValidator().validate({**body, "modelId": "m"}, _input_shape())
    require(not report.has_errors(), report.generate_report())


class ReplayedBedrock(ReplayedProvider):
    api = "bedrock"
    base_url = "https://bedrock-runtime.us-east-1.amazonaws.com"
    model = "us.anthropic.claude-opus-5-5"
    stream_type = "application/vnd.amazon.eventstream"

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[str, list[str]] = {}
        """By the id of each call, the thoughts and calls of its message in their order."""

    def _answer(self, said: Said, turn: int, body: Body | None) -> Body:
        content: list[Body] = []
        if said.thought:
            thought = {"text": said.thought, "signature": f"signed-{turn}+/=="}
            content.append({"reasoningContent": {"reasoningText": thought}})
            content.append({"reasoningContent": {"redactedContent": f"hidden-{turn}+/=="}})
        if said.text:
            content.append({"text": said.text})
        for number, call in enumerate(said.calls):
            tool_id = f"tooluse_{turn}_{number}"
            content.append({"toolUse": {"toolUseId": tool_id, "name": call.name, "input": json.loads(call.arguments)}})
        self._order |= {block["toolUse"]["toolUseId"]: _order(content) for block in content if "toolUse" in block}
        stopped = "content_filtered" if said.refused else "tool_use" if said.calls else "end_turn"
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": stopped,
            "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
            "metrics": {"latencyMs": 1},
        }

    def _check(self, body: Body) -> None:
        refuse_unknown_parameters(body)
        messages = body["messages"]
        marks = json.dumps(body).count('"cachePoint"')
        require(marks <= 4, f"You can use at most 4 cache points. Found {marks}.")
        roles = [message["role"] for message in messages]
        require(roles[:1] == ["user"], "A conversation must start with a user message.")
        require(roles[-1] == "user", "This model does not support assistant message prefill.")
        require(
            all(one != other for one, other in pairwise(roles)),
            "A conversation must alternate between user and assistant roles.",
        )
        blocks = [block for message in messages for block in message["content"]]
        has_tools = any("toolUse" in block or "toolResult" in block for block in blocks)
        require(
            not has_tools or "toolConfig" in body,
            "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
        )
        names = [block["document"]["name"] for block in blocks if "document" in block]
        require(len(set(names)) == len(names), "Messages can't contain duplicate document names.")
        require(all(map(_DOCUMENT_NAME.fullmatch, names)), "The document file name can only contain alphanumeric")
        waiting = list[str]()
        for at, message in enumerate(messages):
            waiting = self._check_turn(message, waiting, f"messages.{at}")

    def _check_turn(self, message: Body, waiting: list[str], where: str) -> list[str]:
        """The ids of its calls, whose results must be in the next turn."""
        blocks = message["content"]
        require(blocks, f"The content field in the Message object at {where} is empty.")
        results = [block["toolResult"] for block in blocks if "toolResult" in block]
        require(
            sorted(result["toolUseId"] for result in results) == sorted(waiting),
            f"Expected toolResult blocks at {where}.content for the following Ids: {waiting}",
        )
        texts = [
            block["text"]
            for block in [*blocks, *(c for result in results for c in result["content"])]
            if "text" in block
        ]
        require(all(text.strip() for text in texts), f"The text field in the ContentBlock object at {where} is blank.")
        if any("document" in block for block in blocks):
            require(any("text" in block for block in blocks), f"{where}: a document needs a text beside it")
        calls = [block["toolUse"] for block in blocks if "toolUse" in block]
        ids = [call["toolUseId"] for call in calls]
        require(len(set(ids)) == len(ids), f"{where}: duplicate ids of toolUse blocks")
        require(all(map(_ID.fullmatch, ids)), f"Value at '{where}.toolUseId' failed to satisfy constraint")
        require(all(_NAME.fullmatch(call["name"]) for call in calls), f"Value at '{where}.name' failed")
        if message["role"] == "user":
            require(not calls, f"{where}: toolUse blocks can only be in assistant messages")
        else:
            require("reasoningContent" not in blocks[-1], f"{where}: the final block cannot be thinking")
            self._check_thoughts(blocks, where)
        return ids

    def _check_thoughts(self, blocks: list[Body], where: str) -> None:
        known = {part for order in self._order.values() for part in order}
        for block in blocks:
            if "toolUse" in block and block["toolUse"]["toolUseId"] in self._order:
                require(
                    self._order[block["toolUse"]["toolUseId"]] == _order(blocks),
                    f"The model returned the following errors: {where}: `thinking` or `redacted_thinking` blocks in "
                    "the latest assistant message cannot be modified.",
                )
            if "reasoningContent" in block and any("toolUse" in each for each in blocks):
                require(
                    json.dumps(block) in known,
                    f"The model returned the following errors: {where}: Invalid `signature` in `thinking` block",
                )

    def is_streamed(self, path: str, body: Body) -> bool:
        return path.endswith("/converse-stream")

    def streamed(self, answer: Body) -> bytes:
        events: list[tuple[str, Any]] = [("messageStart", {"role": "assistant"})]
        for index, block in enumerate(answer["output"]["message"]["content"]):
            start, deltas = _pieces(block)
            at = {"contentBlockIndex": index}
            if start:
                events.append(("contentBlockStart", {"start": start, **at}))
            events += [("contentBlockDelta", {"delta": delta, **at}) for delta in deltas]
            events.append(("contentBlockStop", at))
        events.append(("messageStop", {"stopReason": answer["stopReason"]}))
        events.append(("metadata", {"usage": answer["usage"], "metrics": answer["metrics"]}))
        return b"".join(frames(events))

    def refusal(self, why: str) -> Body:
        return {"message": why}


def _pieces(block: Body) -> tuple[Body, list[Body]]:
    """What a block begins with, and its deltas."""
    if "toolUse" in block:
        tool = block["toolUse"]
        written = json.dumps(tool["input"])
        deltas: list[Body] = [{"toolUse": {"input": part}} for part in (written[:3], written[3:]) if part]
        return {"toolUse": {"toolUseId": tool["toolUseId"], "name": tool["name"]}}, deltas
    if "text" in block:
        return {}, [{"text": letter} for letter in block["text"]]
    thought = block["reasoningContent"]
    if "redactedContent" in thought:
        return {}, [{"reasoningContent": thought}]
    text, half = thought["reasoningText"]["text"], len(thought["reasoningText"]["text"]) // 2
    texts = [{"reasoningContent": {"text": part}} for part in (text[:half], text[half:])]
    return {}, [*texts, {"reasoningContent": {"signature": thought["reasoningText"]["signature"]}}]


def _order(blocks: list[Body]) -> list[str]:
    return [
        json.dumps(block) if "reasoningContent" in block else block["toolUse"]["toolUseId"]
        for block in blocks
        if "text" not in block and "cachePoint" not in block
    ]
