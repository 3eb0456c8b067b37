"""When the open windows began, in UTC and in each time zone that the configuration names."""

from collections.abc import KeysView, Mapping

from paymaster.messages import Window
from paymaster.values.time_zones import UTC_NAME, UTC_ZONE, Offsets, Zone
from paymaster.values.windows import STEPS_MS, window_end_ms, window_start_ms

Ended = Mapping[str, tuple[Window, ...]]
"""By time zone."""


class Calendars:
    def __init__(self, utc_ms: dict[Window, int], zones_ms: dict[str, dict[Window, int]]) -> None:
        """`utc_ms` and `zones_ms` are of the state: when the windows began whose money the balances have."""
        self._utc_ms, self._zones_ms = utc_ms, zones_ms
        self._starts_ms: dict[str, dict[Window, int]] = {}
        """With the rolling windows, which follow from when the minute began."""
        self._zones = {UTC_NAME: UTC_ZONE}

    @property
    def windows(self) -> KeysView[Window]:
        """Those in which money is counted, in their order."""
        return self._utc_ms.keys()

    def know(self, offsets: Mapping[str, Offsets]) -> None:
        """The zones of the configuration that the state has."""
        self.note_starts()
        self._zones = {UTC_NAME: UTC_ZONE} | {name: Zone(each) for name, each in offsets.items()}

    def bring(self, offsets: Mapping[str, Offsets], now_ms: int) -> set[str]:
        """The zones of another configuration. Returns those whose open windows begin at other times than before."""
        self.know(offsets)
        before = self._zones_ms.copy()
        self._zones_ms.clear()
        for name in offsets:
            self._zones_ms[name] = self.starts_at(name, now_ms)
        self.note_starts()
        return {name for name in offsets if name in before and before[name] != self._zones_ms[name]}

    def note_starts(self) -> None:
        """After the state's windows began."""
        rolling: dict[Window, int] = {
            window: window_start_ms(window, self._utc_ms.get("minute", 0)) for window in STEPS_MS
        }
        every = {UTC_NAME: self._utc_ms} | self._zones_ms
        self._starts_ms = {name: starts | rolling for name, starts in every.items()}

    def zone(self, name: str) -> Zone:
        return self._zones[name]

    def starts_ms(self, name: str) -> Mapping[Window, int]:
        """When the open windows of this zone began."""
        return self._starts_ms[name]

    def starts_at(self, name: str, now_ms: int) -> dict[Window, int]:
        """When the windows of this zone began that are around this time."""
        return {window: window_start_ms(window, now_ms, self._zones[name]) for window in self.windows}

    def end_ms(self, name: str, window: Window, now_ms: int) -> int | None:
        """When the window around this time ends; None for `total`."""
        return window_end_ms(window, now_ms, self._zones[name])

    def ended(self, now_ms: int) -> Ended:
        """The windows that are over at this time, and whose balances were not begun anew yet."""
        over: dict[str, tuple[Window, ...]] = {}
        for name in (UTC_NAME, *self._zones_ms):
            starts, zone = self._starts_ms[name].items(), self._zones[name]
            found: list[Window] = [window for window, at_ms in starts if window_start_ms(window, now_ms, zone) > at_ms]
            if found:
                over[name] = tuple(found)
        return over

    def begin(self, now_ms: int) -> None:
        """Makes the windows around this time the open ones."""
        for name in (UTC_NAME, *self._zones_ms):
            (self._utc_ms if name == UTC_NAME else self._zones_ms[name]).update(self.starts_at(name, now_ms))
        self.note_starts()
