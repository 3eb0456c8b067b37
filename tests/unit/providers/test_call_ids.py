"""Ids of tool calls as they are sent."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages import ChatMessage, ToolCall
from paymaster.providers.call_ids import with_ids

IDS = st.sampled_from(["", "1", "call00001", "call00002", "call00003", "functions.look:0", "x" * 100])


@st.composite
def conversations(draw: st.DrawFn) -> list[list[ChatMessage]]:
    """Turns, each with all of its results."""
    turns: list[list[ChatMessage]] = []
    for ids in draw(st.lists(st.lists(IDS, max_size=3), max_size=5)):
        calls = tuple(ToolCall(id=each, name="look") for each in ids)
        results = [ChatMessage(role="tool", content=each, tool_call_id=each) for each in draw(st.permutations(ids))]
        turns.append([ChatMessage(role="assistant", content="x", tool_calls=calls), *results])
    return turns


@pytest.mark.parametrize("form", ["[a-zA-Z0-9_-]{1,64}", "[a-zA-Z0-9]{9}", ".{1,40}"])
@given(turns=conversations())
def test_what_comes_later_changes_no_id_before_it(form: str, turns: list[list[ChatMessage]]) -> None:
    """Thoughts may be bound to what was sent before them."""
    pattern = re.compile(form)
    whole = with_ids([message for turn in turns for message in turn], pattern)
    for end in range(len(turns)):
        part = with_ids([message for turn in turns[:end] for message in turn], pattern)
        assert part == whole[: len(part)]
    ids = [call.id for message in whole for call in message.tool_calls]
    assert len(set(ids)) == len(ids)
    assert all(pattern.fullmatch(each) for each in ids)
