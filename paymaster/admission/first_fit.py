"""Entries in an order, each with a need: the first one whose need is small or large enough is found among tens of
thousands without a look at each."""

from bisect import bisect_left

CHUNK = 128
"""Entries that are looked at one by one. Below 64 and above 512 the search and its upkeep take longer (measured)."""

Place = tuple[int, int]
"""In the queue: by priority, then by order of arrival."""
FIRST: Place = (-(2**62), 0)
"""Before all that there can be."""


class _Chunk:
    """Some entries that follow one another, with the lowest and the highest of their needs."""

    __slots__ = ("high", "low", "needs", "places")

    def __init__(self, places: list[Place], needs: list[int]) -> None:
        self.places, self.needs = places, needs
        self.low, self.high = min(needs), max(needs)


class FirstFit:
    """At most one entry for each place."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self, places: list[Place] | None = None, needs: list[int] | None = None) -> None:
        """`places` are in order, and as many as `needs`."""
        places, needs = places or [], needs or []
        if 0 < len(places) <= CHUNK:  # ten thousand accounts may have one each
            self._chunks = [_Chunk(places, needs)]
        else:
            starts = range(0, len(places), CHUNK)
            self._chunks = [_Chunk(places[start : start + CHUNK], needs[start : start + CHUNK]) for start in starts]
        self._lasts = [chunk.places[-1] for chunk in self._chunks]

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, place: Place, need: int) -> None:
        if not self._chunks:
            self._chunks, self._lasts = [_Chunk([place], [need])], [place]
            return
        number = min(bisect_left(self._lasts, place), len(self._chunks) - 1)
        chunk = self._chunks[number]
        at = bisect_left(chunk.places, place)
        chunk.places.insert(at, place)
        chunk.needs.insert(at, need)
        chunk.low, chunk.high = min(chunk.low, need), max(chunk.high, need)
        if len(chunk.places) > 2 * CHUNK:
            halves = [
                _Chunk(chunk.places[:CHUNK], chunk.needs[:CHUNK]),
                _Chunk(chunk.places[CHUNK:], chunk.needs[CHUNK:]),
            ]
            self._chunks[number : number + 1] = halves
            self._lasts[number : number + 1] = [half.places[-1] for half in halves]
        else:
            self._lasts[number] = chunk.places[-1]

    def remove(self, place: Place) -> None:
        """Raises KeyError for a place that has no entry."""
        number = bisect_left(self._lasts, place)
        if number == len(self._chunks):
            raise KeyError(place)
        chunk = self._chunks[number]
        at = bisect_left(chunk.places, place)
        if chunk.places[at] != place:
            raise KeyError(place)
        del chunk.places[at]
        need = chunk.needs.pop(at)
        if not chunk.places:
            del self._chunks[number], self._lasts[number]
            return
        self._lasts[number] = chunk.places[-1]
        if need in (chunk.low, chunk.high):
            chunk.low, chunk.high = min(chunk.needs), max(chunk.needs)

    @property
    def first(self) -> Place | None:
        return self._chunks[0].places[0] if self._chunks else None

    @property
    def lowest(self) -> int | None:
        """The lowest need."""
        return min((chunk.low for chunk in self._chunks), default=None)

    @property
    def highest(self) -> int | None:
        """The highest need."""
        if len(self._chunks) == 1:
            return self._chunks[0].high
        return max((chunk.high for chunk in self._chunks), default=None)

    def first_at_most(self, limit: int) -> Place | None:
        """The first place whose need is not above the limit."""
        for chunk in self._chunks:
            if chunk.low <= limit:
                return next(place for place, need in zip(chunk.places, chunk.needs, strict=True) if need <= limit)
        return None

    def first_above(self, limit: int) -> Place | None:
        """The first place whose need is above the limit."""
        for chunk in self._chunks:
            if chunk.high > limit:
                return next(place for place, need in zip(chunk.places, chunk.needs, strict=True) if need > limit)
        return None
