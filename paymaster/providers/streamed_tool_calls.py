"""Tool calls that chat completions stream in pieces, put together."""

from dataclasses import dataclass, field

from pydantic import JsonValue

from paymaster.providers.kept_state import only
from paymaster.values.json_reading import object_of, text_of


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    own: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def ends_before(self, call_id: str, name: str) -> bool:
        """Whether a piece with this id and name, at its index, belongs to another call.

        Without any ids another name after whole arguments is another call's; a name may come in pieces too.
        """
        if call_id or self.id:
            return bool(call_id and self.id) and call_id != self.id
        has_all = bool(self.arguments) and self.arguments[-1].rstrip().endswith("}")
        return bool(name) and name != self.name and has_all


class StreamedToolCalls:
    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._latest: dict[int, _Call] = {}
        """By index."""

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, number: int, part: dict[str, JsonValue]) -> None:
        """A piece, at this place of its chunk. It belongs to the last call with its index, unless it brings another id,
        or another name where nothing has ids: some servers count none."""
        index, call_id, function = part.get("index"), text_of(part.get("id")) or "", object_of(part.get("function"))
        at = index if isinstance(index, int) else number
        call = self._latest.get(at)
        name = text_of(function.get("name")) or ""
        if call is None or call.ends_before(call_id, name):
            call = self._latest[at] = _Call()
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name
        if arguments := text_of(function.get("arguments")):
            call.arguments.append(arguments)
        call.own |= only(part, ("extra_content",))

    def whole(self) -> list[JsonValue]:
        """The calls as an answer that is not streamed has them."""
        return [
            {"id": call.id, "function": {"name": call.name, "arguments": "".join(call.arguments)}, **call.own}
            for call in self._calls
        ]
