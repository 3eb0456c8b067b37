"""Answers in neutral words, for searches with hypothesis."""

from typing import Any

from hypothesis import strategies as st

from paymaster.messages import ToolCall
from paymaster.translation.neutral import Ending, NeutralAnswer
from paymaster.values.money import TokenUsage

# Texts of any characters that UTF-8 has.
texts = st.text(st.characters(codec="utf-8"), max_size=20)
_numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | _numbers | texts,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(texts, below, max_size=3),
)
objects = st.dictionaries(texts, values, max_size=3)
_ids = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True).map(lambda text: f"id-{text}")
calls = st.lists(
    st.builds(ToolCall, id=_ids, name=st.from_regex("[a-z_]{1,10}", fullmatch=True), arguments=objects),
    max_size=3,
    unique_by=lambda call: call.id,
).map(tuple)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """Counts that a service could bill: parts are not more than the whole."""
    parts: dict[str, int] = {name: draw(st.integers(0, 9_999)) for name in TokenUsage.model_fields}
    of_input = parts["cached_input_tokens"] + parts["cache_write_tokens"]
    return TokenUsage(
        **parts
        | {
            "input_tokens": parts["input_tokens"] + of_input,
            "output_tokens": parts["output_tokens"] + parts["reasoning_tokens"],
        }
    )


@st.composite
def answers(draw: st.DrawFn) -> NeutralAnswer:
    """Whole ones, and such as end early; where calls are wanted, nothing else ends them."""
    called = draw(calls)
    endings: list[Ending] = ["tools", "length"] if called else ["stop", "length", "refused"]
    return answer(
        id=draw(st.from_regex("[a-zA-Z0-9-]{1,30}", fullmatch=True)),
        text=draw(texts),
        tool_calls=called,
        ending=draw(st.sampled_from(endings)),
        usage=draw(st.none() | usages()),
    )


def answer(**fields: Any) -> NeutralAnswer:
    usual: dict[str, Any] = {
        "id": "attempt-1",
        "at_s": 1_790_000_000,
        "model": "mini",
        "text": "",
        "tool_calls": (),
        "ending": "stop",
        "usage": None,
    }
    return NeutralAnswer(**usual | fields)
