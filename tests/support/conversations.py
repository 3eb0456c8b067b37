"""Conversations that services take, for searches with hypothesis: turns, with each call's result after it."""

from itertools import count

from hypothesis import strategies as st

from paymaster.messages import ChatMessage, Document, Image, ToolCall

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10).filter(str.strip)
_images = st.just(Image.of(b"png?>", "image/png")) | st.just(Image(url="https://example.com/a.png"))
_documents = st.sampled_from(
    [
        Document.of(b"pdf?>", name="tides.pdf"),
        Document(url="https://example.com/a.pdf"),
        Document.of(b"tides", "text/plain", "tides.txt"),
    ]
)
_arguments = st.dictionaries(words, words | st.integers(0, 9), max_size=2)
_users = st.builds(
    ChatMessage,
    role=st.just("user"),
    content=words,
    images=st.lists(_images, max_size=2).map(tuple),
    documents=st.lists(_documents, max_size=2).map(tuple),
)


@st.composite
def conversations(draw: st.DrawFn, *, marks: bool = False) -> tuple[ChatMessage, ...]:
    """A system message perhaps, turns, and something to be answered. `marks`: some of it is to be cached."""
    numbers = count(1)
    found = [ChatMessage(role="system", content=draw(words))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        found.append(draw(_users))
        names = draw(st.lists(st.sampled_from(["weather", "tides"]), max_size=2))
        calls = tuple(ToolCall(id=f"id_{next(numbers)}", name=name, arguments={**draw(_arguments)}) for name in names)
        text = draw(words) if not calls or draw(st.booleans()) else ""
        found.append(ChatMessage(role="assistant", content=text, tool_calls=calls))
        found += [ChatMessage(role="tool", content=draw(words), tool_call_id=call.id) for call in calls]
    if found[-1:] == [] or found[-1].role != "tool" or draw(st.booleans()):
        found += draw(st.lists(_users, min_size=1, max_size=2))
    marked = draw(st.sets(st.integers(0, len(found) - 1), max_size=4)) if marks else set[int]()
    return tuple(message.model_copy(update={"cache": at in marked}) for at, message in enumerate(found))
