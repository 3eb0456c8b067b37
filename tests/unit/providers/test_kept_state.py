"""What a service wants back with its answer: kept unchanged or not at all, for it alone, and seen by nobody."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue
from wire import GRANT, service

from paymaster import redaction
from paymaster.messages import ChatMessage, LLMRequest, LLMResult, Outcome, ProviderState, ToolCall
from paymaster.providers.bounds import input_bytes
from paymaster.providers.kept_state import Piece, WrittenPiece, kept, pieces_of, state_of
from paymaster.settings import Api
from paymaster.values.limits import NESTING_MAX, STATE_OF_MESSAGE_BYTES_MAX

CALLS = (ToolCall(id="1", name="a"), ToolCall(id="2", name="b"))
THOUGHT: dict[str, JsonValue] = {"type": "thinking", "thinking": "hm"}
WRITTEN = [
    WrittenPiece(own=THOUGHT),
    WrittenPiece(text="Let "),
    WrittenPiece(text="me see."),
    WrittenPiece(call=0),
    WrittenPiece(own=THOUGHT),
    WrittenPiece(call=1, own={"beside": 1}),
    WrittenPiece(own=THOUGHT),
]


def message(data: JsonValue, **fields: Any) -> ChatMessage:
    state = state_of(data, GRANT, service("anthropic"))
    assert state is not None
    given = {"content": "Let me see.", "tool_calls": CALLS} | fields
    return ChatMessage.model_validate({"role": "assistant", "state": state, **given})


def test_pieces_come_back_in_their_order_but_for_a_last_thought() -> None:
    assert pieces_of(message(kept(WRITTEN)), GRANT, service("anthropic")) == [
        Piece(own=THOUGHT),
        Piece(text="Let me see."),
        Piece(call=CALLS[0]),
        Piece(own=THOUGHT),
        Piece(call=CALLS[1], own={"beside": 1}),
    ]


@pytest.mark.parametrize("pieces", [[], [WrittenPiece(text="x"), WrittenPiece(call=0)], [WrittenPiece(own=THOUGHT)]])
def test_an_answer_without_anything_of_its_own_has_no_state(pieces: list[WrittenPiece]) -> None:
    assert kept(pieces) is None


@pytest.mark.parametrize(
    "changed",
    [{"content": "Let me look."}, {"content": ""}, {"tool_calls": CALLS[:1]}, {"tool_calls": (*CALLS, *CALLS)}],
)
def test_a_changed_message_is_sent_without_its_state(changed: dict[str, Any]) -> None:
    found = pieces_of(message(kept(WRITTEN), **changed), GRANT, service("anthropic"))
    assert not any(piece.own for piece in found)
    assert "".join(piece.text or "" for piece in found) == changed.get("content", "Let me see.")
    assert tuple(piece.call for piece in found if piece.call) == changed.get("tool_calls", CALLS)


junk = st.recursive(
    st.none() | st.integers(-3, 20) | st.text(max_size=3) | st.sampled_from(["text", "call", "own"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "call", "own", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(data=st.lists(st.fixed_dictionaries({}, optional={"text": junk, "call": junk, "own": junk}), max_size=6) | junk)
def test_whatever_a_state_holds_the_message_is_sent_whole(data: Any) -> None:
    """Anybody can write a state."""
    state = ProviderState(api="anthropic", host="api.anthropic.com", service="one", model="the-model", data=data)
    said = ChatMessage(role="assistant", content="Let me see.", tool_calls=CALLS, state=state)
    found = pieces_of(said, GRANT, service("anthropic"))
    assert "".join(piece.text or "" for piece in found) == "Let me see."
    assert tuple(piece.call for piece in found if piece.call) == CALLS


@pytest.mark.parametrize(
    ("api", "changed", "is_sent"),
    [
        ("anthropic", {}, True),
        ("anthropic", {"service": "two", "model": "another"}, True),
        ("anthropic", {"host": "claude.example"}, False),
        ("openai", {"service": "two"}, True),
        ("openai", {"model": "another"}, False),
        ("azure-openai", {"model": "another"}, False),
        ("vertex-gemini", {"model": "another"}, False),
        ("vertex-claude", {"model": "another"}, True),
        ("bedrock", {"service": "two"}, True),
        ("bedrock", {"model": "another"}, False),
        ("openai", {"host": "api.deepseek.com"}, False),
        ("gemini", {"service": "two"}, True),
        ("gemini", {"model": "another"}, False),
        ("openai-responses", {}, True),
        ("openai-responses", {"service": "two"}, False),
        ("openai-responses", {"model": "another"}, False),
    ],
)
def test_a_state_goes_to_nobody_else(api: Api, changed: dict[str, str], is_sent: bool) -> None:
    state = state_of([{"own": {"x": 1}}, {"text": 2}], GRANT, service(api))
    assert state is not None
    said = ChatMessage(role="assistant", content="ok", state=state.model_copy(update=changed))
    assert any(piece.own for piece in pieces_of(said, GRANT, service(api))) is is_sent
    for other in get_args(Api):
        if other != api:
            assert not any(piece.own for piece in pieces_of(said, GRANT, service(other)))


def nested(levels: int) -> JsonValue:
    data: JsonValue = "x"
    for _ in range(levels):
        data = [data]
    return data


@pytest.mark.parametrize(
    "data",
    [["x" * STATE_OF_MESSAGE_BYTES_MAX], ["half \ud83d"], nested(NESTING_MAX + 1), ["sk-live-0123456789"]],
    ids=["large", "no text", "deep", "a key"],
)
def test_what_cannot_be_carried_unchanged_is_left_out(data: JsonValue) -> None:
    redaction.remember("sk-live-0123456789")
    assert state_of(data, GRANT, service("anthropic")) is None


def test_a_state_is_in_no_text_of_a_message() -> None:
    said = message([{"own": {"thinking": "private"}}, {"text": 11}, {"call": 0}, {"call": 1}])
    result = LLMResult(outcome=Outcome.COMPLETED, call_id="1", state=said.state)
    request = LLMRequest(route="r", budget="acme", messages=(said,))
    for each in (said, result, request):
        assert "private" not in f"{each} {each!r}"
        assert "private" in each.model_dump_json()


def test_a_state_counts_in_the_bound() -> None:
    small, large = (
        message([{"own": {"thinking": "x" * size}}, {"text": 11}, {"call": 0}, {"call": 1}]) for size in (1, 1_001)
    )
    sizes = [input_bytes(LLMRequest(route="r", budget="acme", messages=(each,))) for each in (small, large)]
    assert sizes[1] - sizes[0] == 1_000
