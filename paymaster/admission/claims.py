"""Who may not be overtaken any more: accounts are kept for the calls that have waited long enough for them to clear."""

from bisect import bisect_left, insort

from paymaster.admission.first_fit import Place
from paymaster.admission.parked_call import ParkedCall


class Claims:
    def __init__(self) -> None:
        self._places: dict[str, list[Place]] = {}
        """By account, who claims it, in order."""
        self._accounts: dict[Place, frozenset[str]] = {}
        """What the call at each place claims."""

    def clear(self) -> None:
        self._places.clear()
        self._accounts.clear()

    def claim(self, call: ParkedCall, now_ms: int) -> frozenset[str]:
        """Keeps what it waits for from those behind it, if it has waited long enough. The accounts."""
        claims_at_ms = call.claims_at_ms()
        if claims_at_ms is None or claims_at_ms > now_ms:
            return frozenset()
        call.keeps |= call.kept_for_it()
        self._accounts[call.place()] = call.keeps
        for key in call.keeps:
            insort(self._places.setdefault(key, []), call.place())
        return call.keeps

    def end(self, call: ParkedCall) -> frozenset[str]:
        """The accounts that it claimed: they may be free for somebody behind it."""
        place = call.place()
        claimed = self._accounts.pop(place, frozenset())
        for key in claimed:
            places = self._places[key]
            del places[bisect_left(places, place)]
        return claimed

    def first(self, account: str) -> Place | None:
        """The first place for which the account is kept."""
        places = self._places.get(account)
        return places[0] if places else None

    def before(self, place: Place, accounts: tuple[str, ...]) -> str | None:
        """An account among these that is kept for a call before this place, or None."""
        if not self._accounts:
            return None
        return next((key for key in accounts if (first := self.first(key)) is not None and first < place), None)
