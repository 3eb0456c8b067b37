"""Ends of holds that a desk remembers, but for the latest, in groups that it hands on as they are.

So what a run of the ledger writes, and the next one reads, does not grow with the calls of the last minute. Of a hold
id a group has its digest: who sends a command again is found by it.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from paymaster.admission.holds import EndedHold
from paymaster.messages import Denied
from paymaster.values.limits import STATE_JSON_BYTES_MAX
from paymaster.values.packed import NotPacked, pack, unpack

ENDS_IN_GROUP = 2_000
"""They take two milliseconds to become one, and about 32 KB; denials take up to ten times as much."""
_DIGEST_BYTES = 12
"""Two of 100,000 ids have the same with a probability of 10^-19."""
_LEVEL = 1
"""Of zlib. Digests are not compressed at all."""
_DENIED = TypeAdapter(dict[int, Denied])


@dataclass(slots=True)
class _Group:
    until_ms: int
    """None of them ended later."""
    digests: str
    """Of their ids, one after the other, in base64."""
    told: str
    """What else is known of some of them, packed JSON by their positions: which were given back, which presumed, and
    denials."""
    positions: dict[bytes, int]
    """By digest."""
    read: tuple[frozenset[int], frozenset[int], dict[int, Denied]] | None = field(default=None, compare=False)
    """`told`, once somebody asked."""

    def end(self, hold_id: str, position: int) -> EndedHold:
        if self.read is None:
            told = from_json(unpack(self.told, STATE_JSON_BYTES_MAX))
            denied = _DENIED.validate_python({int(at): {**each, "hold_id": ""} for at, each in told["denied"].items()})
            self.read = frozenset(told["given_back"]), frozenset(told["presumed"]), denied
        given_back, presumed, denials = self.read
        denied = denials.get(position)
        return EndedHold(
            self.until_ms,
            posted=position not in given_back,
            denied=None if denied is None else denied.model_copy(update={"hold_id": hold_id}),
            presumed=position in presumed,
        )

    def line(self) -> str:
        return f"{self.until_ms} {self.digests} {self.told}"

    def bytes(self) -> int:
        return len(self.digests) + len(self.told)


@dataclass(slots=True)
class EarlierEnds:
    groups: list[_Group] = field(default_factory=list[_Group])
    """The oldest first."""

    @property
    def number(self) -> int:
        return sum(len(group.positions) for group in self.groups)

    def get(self, hold_id: str) -> EndedHold | None:
        """The end of this hold, whose time is that of the last one in its group."""
        if self.groups:
            digest = _digest(hold_id)
            for group in reversed(self.groups):
                if (position := group.positions.get(digest)) is not None:
                    return group.end(hold_id, position)
        return None

    def take(self, ended: Mapping[str, EndedHold]) -> None:
        """Makes a group of these ends."""
        ends = list(ended.values())
        digests = list(map(_digest, ended))
        told = {
            "given_back": [position for position, end in enumerate(ends) if not end.posted],
            "presumed": [position for position, end in enumerate(ends) if end.presumed],
            "denied": {
                position: _without_id(end.denied) for position, end in enumerate(ends) if end.denied is not None
            },
        }
        text = b64encode(b"".join(digests)).decode()
        until_ms = max(end.at_ms for end in ends)
        self.groups.append(_Group(until_ms, text, pack(to_json(told), _LEVEL), _positions(digests)))

    def without_oldest(self) -> int:
        """How many there would be if the oldest group were forgotten."""
        return self.number - len(self.groups[0].positions)

    def put_back(self, to_ms: int) -> None:
        """The clock has gone back to this time."""
        for group in self.groups:
            group.until_ms = min(group.until_ms, to_ms)

    def lines(self) -> list[str]:
        """Each group as text without line breaks, from which `of` makes it again."""
        return [group.line() for group in self.groups]

    def bytes(self) -> int:
        """What they take of a dump, but for their times."""
        return sum(group.bytes() for group in self.groups)

    @classmethod
    def of(cls, lines: Sequence[str]) -> "EarlierEnds":
        """Raises NotPacked for a line that is no group. What a group tells of its ends is read when somebody asks."""
        return cls(list(map(_group_of, lines)))


def _group_of(line: str) -> _Group:
    try:
        until_ms, digests, told = line.split(" ")
        data = b64decode(digests, validate=True)
        number = int(until_ms)
    except ValueError as error:
        raise NotPacked(f"no group of ends: {error}") from None
    each = [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
    return _Group(number, digests, told, _positions(each))


def _positions(digests: Sequence[bytes]) -> dict[bytes, int]:
    return dict(zip(digests, range(len(digests)), strict=True))


def _digest(hold_id: str) -> bytes:
    return blake2b(hold_id.encode(), digest_size=_DIGEST_BYTES).digest()


def _without_id(denied: Denied) -> dict[str, Any]:
    return denied.model_dump(mode="json", exclude={"kind", "hold_id"})
