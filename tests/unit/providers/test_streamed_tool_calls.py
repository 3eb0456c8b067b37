"""Tool calls that come in pieces are those that would have come whole, however they were cut and mixed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.providers.streamed_tool_calls import StreamedToolCalls

IDS = st.lists(st.text("abc1", min_size=1, max_size=3), min_size=1, max_size=5, unique=True)
PIECES = st.lists(st.text(max_size=5), min_size=1, max_size=4)


@settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)
@given(data=st.data(), ids=IDS, says_id_again=st.booleans())
def test_pieces_of_several_calls_come_in_any_order(data: st.DataObject, ids: list[str], says_id_again: bool) -> None:
    """Those of one call in their own order; only the first of them, or each, has the call's id."""
    written = [data.draw(PIECES) for _ in ids]
    order = data.draw(st.permutations([number for number, pieces in enumerate(written) for _ in pieces]))
    calls, seen = StreamedToolCalls(), dict.fromkeys(range(len(ids)), 0)
    for number in order:
        piece, first = written[number][seen[number]], not seen[number]
        seen[number] += 1
        function: dict[str, Any] = {"name": f"f{number}", "arguments": piece} if first else {"arguments": piece}
        identity = {"id": ids[number]} if first or says_id_again else {}
        calls.add(0, {"index": number, "function": function, **identity})
    whole = {ids[number]: {"name": f"f{number}", "arguments": "".join(pieces)} for number, pieces in enumerate(written)}
    found: list[Any] = calls.whole()
    assert {call["id"]: call["function"] for call in found} == whole
    assert len(calls) == len(found) == len(ids)


def test_without_an_index_the_place_in_the_chunk_counts() -> None:
    calls = StreamedToolCalls()
    for piece in ("{", "}"):
        for number in (0, 1):
            calls.add(number, {"function": {"name": f"f{number}", "arguments": piece}})
    found: list[Any] = calls.whole()
    assert [call["function"] for call in found] == [{"name": f"f{number}", "arguments": "{}"} for number in (0, 1)]


def test_what_is_no_piece_of_a_call_breaks_nothing() -> None:
    calls = StreamedToolCalls()
    odd: list[Any] = [
        {},
        {"index": None, "function": "f"},
        {"index": "0", "id": 7, "function": {"arguments": {"a": 1}}},
    ]
    for part in odd:
        calls.add(0, part)
    assert calls.whole() == [{"id": "", "function": {"name": "", "arguments": ""}}]


def test_another_name_after_whole_arguments_is_another_call() -> None:
    """At one index for all. A name in pieces is one name's."""
    calls = StreamedToolCalls()
    for name, arguments in (("look", '{"at":'), ("", '"it"}'), ("say", "{}"), ("say", ""), ("go", '{"on": {}}')):
        calls.add(0, {"index": 0, "function": {"name": name, "arguments": arguments}})
    found: list[Any] = calls.whole()
    assert [call["function"] for call in found] == [
        {"name": "look", "arguments": '{"at":"it"}'},
        {"name": "say", "arguments": "{}"},
        {"name": "go", "arguments": '{"on": {}}'},
    ]
    calls = StreamedToolCalls()
    for name, arguments in (("look", ""), ("_up", '{"at":'), ("", "1}")):
        calls.add(0, {"index": 0, "function": {"name": name, "arguments": arguments}})
    assert len(calls) == 1
