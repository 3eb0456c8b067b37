"""No message that anybody can send to a workflow holds the process: texts of 2 MB, and of as many values as may be."""

import json
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from pydantic import BaseModel
from temporalio.api.common.v1 import Payload

from paymaster.messages import (
    AttemptReports,
    ChatMessage,
    CommandBatch,
    Configure,
    Image,
    LLMRequest,
    ParkedAnswer,
    RaiseCap,
    Tool,
    ToolCall,
)
from paymaster.messages.bounds import check_text
from paymaster.security.encryption import PaymasterPayloadConverter
from paymaster.values.json_reading import exact_json
from paymaster.values.limits import CONFIG_VALUES_MAX, JSON_VALUES_MAX

BYTES = 1_900_000
HELD_S = 0.05
MESSAGES: list[type[BaseModel]] = [AttemptReports, CommandBatch, LLMRequest, ParkedAnswer, RaiseCap]
SIGNALS: list[type[BaseModel]] = [AttemptReports, RaiseCap]
CONVERTER = PaymasterPayloadConverter()


def repeated(begin: str, piece: str, end: str, times: int | None = None) -> bytes:
    """So often, or to 2 MB."""
    return (begin + piece * (times or (BYTES - len(begin) - len(end)) // len(piece.encode())) + end).encode()


def many(piece: str, times: int) -> str:
    return "[" + ",".join([piece] * times) + "]"


HOSTILE: dict[str, bytes] = {
    "lists": repeated("[", "[],", "0]"),
    "objects": repeated("[", '{"":0},', "0]"),
    "numbers": repeated("[", "0,", "0]"),
    "powers": repeated("[", "1e9,", "1]"),
    "the millionth power in an amount": b'{"account": "budget:a", "window": "day", "by": [1e999999]}',
    "the millionth power in a count": b'{"reports": [{"hold_id": "h", "service": "s", "pause_ms": 1e999999}]}',
    "the millionth power in a signature": b'{"signature": {"expires_at_ms": 1e999999}}',
    "digits": repeated("[", "1", "]"),
    "decimals": repeated("[1.", "1", "]"),
    "nested": repeated("", '{"a":', "1"),
    "brackets": repeated("", "[", ""),
    "quotes": repeated("", '"', ""),
    "escapes": repeated('"', "\\u00e9", '"'),
    "half pairs": repeated('"', "\\ud800", '"'),
    "CJK": repeated('"', "\u4e2d", '"'),
    "no text": b"\xff" * BYTES,
    "a million bad reports": f'{{"reports":{many("{}", BYTES // 3 - 9)}}}'.encode(),
    "a million bad commands": f'{{"commands":{many("{}", BYTES // 3 - 9)}}}'.encode(),
    "bad reports within the bound": f'{{"reports":{many("{}", JSON_VALUES_MAX // 2 - 9)}}}'.encode(),
    "bad commands within the bound": f'{{"commands":{many("{}", JSON_VALUES_MAX // 2 - 9)}}}'.encode(),
    "a large command that lacks all else": json.dumps(
        {"commands": [{"kind": "reserve", "x": [0] * (JSON_VALUES_MAX - 99)}]}
    ).encode(),
    "metadata within the bound": json.dumps(
        {"metadata": {f"{number}": "" for number in range(JSON_VALUES_MAX - 9)}}
    ).encode(),
}


def seconds(run: Callable[[], object]) -> float:
    """Of processor time, the least of some tries: others use the processor too."""
    longest_s = float("inf")
    for _ in range(15):
        began = time.thread_time()
        run()
        longest_s = min(longest_s, time.thread_time() - began)
        if longest_s < HELD_S / 2:
            break
    return longest_s


def refused(kind: type[BaseModel], text: bytes) -> bool:
    try:
        CONVERTER.from_payloads([Payload(metadata={"encoding": b"json/plain"}, data=text)], [kind])
    except ValueError:
        return True
    return False


def refused_by_hand(kind: type[BaseModel], text: bytes) -> bool:
    """As the ledger reads a signal, whose amounts keep each digit."""
    try:
        check_text(text, kind)
        kind.model_validate(exact_json(text.decode(errors="replace")))
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("what", HOSTILE)
def test_no_message_to_a_workflow_holds_the_process(what: str) -> None:
    reads = [(refused, kind) for kind in MESSAGES] + [(refused_by_hand, kind) for kind in SIGNALS]
    for read, kind in reads:
        assert read(kind, HOSTILE[what]), kind
        took_s = seconds(lambda read=read, kind=kind: read(kind, HOSTILE[what]))
        assert took_s < HELD_S, (kind, read, took_s)


@pytest.mark.parametrize("what", HOSTILE)
def test_no_configuration_holds_the_process_for_long(what: str) -> None:
    """A plain one may be larger than other messages, because 0.1.0 sends it."""
    assert refused(Configure, HOSTILE[what])
    assert seconds(lambda: refused(Configure, HOSTILE[what])) < 2 * HELD_S


@pytest.mark.parametrize("prompt", ["x", "\u4e2d\U0001f600" * 50_000])
def test_a_message_is_the_same_however_long_it_is(prompt: str) -> None:
    """A long one is read in two steps."""
    image = Image(url="https://example.com/i.png")
    request = LLMRequest(
        route="r",
        budget="b",
        prompt=None,
        messages=(
            ChatMessage(role="user", content=prompt, images=(image,)),
            ChatMessage(
                role="assistant",
                content="",
                tool_calls=(ToolCall(id="1", name="t", arguments={"a": [1.5, None, True]}),),
            ),
            ChatMessage(role="tool", tool_call_id="1", content="{}"),
        ),
        tools=(Tool(name="t", parameters={"type": "object", "properties": {"a": {}}}),),
        wait_at_most=timedelta(minutes=90, milliseconds=1),
        temperature=0.1,
        metadata={"a": "b"},
        on_exhausted="wait",
    )
    assert CONVERTER.from_payloads(CONVERTER.to_payloads([request]), [LLMRequest]) == [request]


def test_what_is_within_the_bounds_is_read() -> None:
    config = {"config": {"digest": "d", "budgets": {f"b{number}": {} for number in range(CONFIG_VALUES_MAX // 10)}}}
    assert not refused(Configure, json.dumps(config).encode())
    assert not refused(LLMRequest, json.dumps({"route": "r", "budget": "b", "prompt": "x" * 1_000_000}).encode())
