"""Requests of all kinds, for searches with hypothesis."""

from typing import Any
from urllib.parse import urlsplit

from hypothesis import strategies as st
from wire import BASE_URLS, GRANT, SCHEMA, WEATHER

from paymaster.messages import ChatMessage, Document, Image, LLMRequest, ProviderState, ToolCall
from paymaster.settings import Api

words = st.text(min_size=1, max_size=10)
calls = st.builds(
    ToolCall,
    id=st.from_regex(r"call-[0-9]", fullmatch=True),
    name=st.just("weather"),
    arguments=st.dictionaries(words, words, max_size=2),
)
documents = st.just(Document.of(b"pdf")) | st.just(Document(url="https://example.com/a.pdf"))
images = st.just(Image.of(b"png", "image/png")) | st.just(Image(url="https://example.com/a.png"))
THOUGHTS: dict[Api, list[dict[str, Any]]] = {
    "anthropic": [
        {"type": "thinking", "thinking": "hm", "signature": "s+/=="},
        {"type": "redacted_thinking", "data": "x" * 500},
    ],
    "openai": [{"reasoning_content": "hm " * 200}, {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}],
    "openai-responses": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 500}],
    "gemini": [{"text": "hm", "thought": True, "thoughtSignature": "s+/=="}],
}
"""What a service may write between texts and calls, by its wire format."""
BESIDE: dict[Api, dict[str, Any]] = {
    "openai": {"extra_content": {"google": {"thought_signature": "s"}}},
    "openai-responses": {"phase": "commentary"},
    "gemini": {"thoughtSignature": "s" * 500},
}
"""What it may write beside them."""


@st.composite
def said(draw: st.DrawFn) -> ChatMessage:
    """An assistant's message with the state that one of the services of the tests gave with it."""
    text, asked = draw(words), draw(st.lists(calls, max_size=2))
    api = draw(st.sampled_from(sorted(THOUGHTS)))
    places: list[Any] = [{"own": draw(st.sampled_from(THOUGHTS[api]))}, {"text": len(text)}]
    for number in range(len(asked)):
        places += [{"own": draw(st.sampled_from(THOUGHTS[api]))}] if draw(st.booleans()) else []
        places.append({"call": number})
    for place in places:
        if "own" not in place and api in BESIDE and draw(st.booleans()):
            place["own"] = BESIDE[api]
    host = urlsplit(BASE_URLS[api]).netloc
    state = ProviderState(api=api, host=host, service=GRANT.service, model=GRANT.model, data=places)
    return ChatMessage(role="assistant", content=text, tool_calls=tuple(asked), state=state, cache=draw(st.booleans()))


messages = st.one_of(
    said(),
    st.builds(ChatMessage, role=st.just("system"), content=words, cache=st.booleans()),
    st.builds(
        ChatMessage,
        role=st.just("user"),
        content=words,
        images=st.lists(images, max_size=2).map(tuple),
        documents=st.lists(documents, max_size=1).map(tuple),
        cache=st.booleans(),
    ),
    st.builds(ChatMessage, role=st.just("assistant"), content=words, tool_calls=st.lists(calls, max_size=2).map(tuple)),
    st.builds(ChatMessage, role=st.just("tool"), content=words, tool_call_id=st.just("call-1"), cache=st.booleans()),
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
