"""Tools by whatever name: sent in a form that every provider takes, and found again in the answer."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paymaster.messages import ChatMessage, LLMRequest, Tool, ToolCall
from paymaster.providers.tool_names import sent_names, with_given_names, with_sent_names

NAMES = st.lists(st.from_regex(r"[A-Za-z0-9_./:-]{1,128}", fullmatch=True), min_size=1, max_size=8, unique=True)


def ask(names: list[str], choice: str | None = None) -> LLMRequest:
    calls = tuple(ToolCall(id=str(number), name=name) for number, name in enumerate(names))
    said = (ChatMessage(role="user", content="a"), ChatMessage(role="assistant", content="", tool_calls=calls))
    tools = tuple(Tool(name=name) for name in names)
    return LLMRequest(route="r", budget="b", messages=said, prompt="b", tools=tools, tool_choice=choice)


@given(names=NAMES, data=st.data())
def test_each_name_is_sent_as_another_one_and_found_again(names: list[str], data: st.DataObject) -> None:
    request = ask(names, data.draw(st.sampled_from(names)))
    sent = sent_names(request)
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", name) for name in sent.values())
    assert len(set(sent.values())) == len(names)
    asked = with_sent_names(request)
    assert [tool.name for tool in asked.tools] == [sent[name] for name in names]
    assert asked.tool_choice == sent[request.tool_choice or ""]
    called = asked.messages[1].tool_calls
    assert with_given_names(called, request) == request.messages[1].tool_calls


def test_names_that_every_provider_takes_are_sent_as_they_are() -> None:
    request = ask(["look_up", "Read-2", "x" * 64], "required")
    assert with_sent_names(request) is request


def test_names_that_become_the_same_are_told_apart() -> None:
    assert sent_names(ask(["mcp.read", "mcp/read", "mcp_read"])) == {
        "mcp_read": "mcp_read",
        "mcp.read": "mcp_read_2",
        "mcp/read": "mcp_read_3",
    }


def test_a_name_with_other_characters_is_none() -> None:
    for name in ("", "two words", "naïve", "x" * 129):
        with pytest.raises(ValidationError):
            Tool(name=name)
