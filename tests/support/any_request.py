"""Requests of all kinds, for searches with hypothesis."""

from hypothesis import strategies as st
from wire import SCHEMA, WEATHER

from paymaster.messages import ChatMessage, Image, LLMRequest, ToolCall

words = st.text(min_size=1, max_size=10)
calls = st.builds(
    ToolCall,
    id=st.from_regex(r"call-[0-9]", fullmatch=True),
    name=st.just("weather"),
    arguments=st.dictionaries(words, words, max_size=2),
)
images = st.just(Image.of(b"png", "image/png")) | st.just(Image(url="https://example.com/a.png"))
messages = st.one_of(
    st.builds(ChatMessage, role=st.just("system"), content=words),
    st.builds(ChatMessage, role=st.just("user"), content=words, images=st.lists(images, max_size=2).map(tuple)),
    st.builds(ChatMessage, role=st.just("assistant"), content=words, tool_calls=st.lists(calls, max_size=2).map(tuple)),
    st.builds(ChatMessage, role=st.just("tool"), content=words, tool_call_id=st.just("call-1")),
)
requests = st.builds(
    LLMRequest,
    route=st.just("r"),
    budget=st.just("acme"),
    prompt=words,
    system=st.none() | words,
    messages=st.lists(messages, max_size=4).map(tuple),
    json_schema=st.none() | st.just(SCHEMA),
    temperature=st.none() | st.floats(0, 1),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(words, max_size=2).map(tuple),
    seed=st.none() | st.integers(0, 9),
    reasoning_effort=st.none() | st.sampled_from(["none", "minimal", "low", "medium", "high"]),
    tools=st.just((WEATHER,)),
    tool_choice=st.none() | st.sampled_from(["auto", "none", "required", "weather"]),
)
