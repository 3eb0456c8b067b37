"""One breaker for each service: consecutive failures open it for a cooldown, then one call probes."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Breaker:
    failures_max: int
    """Consecutive failures that open the breaker."""
    cooldown_ms: int
    failures: int = 0
    open_until_ms: int | None = None
    """None: closed. In the past: half open, the next call is the probe."""
    probe: str | None = None
    """The hold id of the call that probes."""

    def state(self, now_ms: int) -> Literal["closed", "open", "half_open"]:
        if self.open_until_ms is None:
            return "closed"
        return "open" if now_ms < self.open_until_ms else "half_open"

    def started(self, hold_id: str) -> None:
        if self.open_until_ms is not None:
            self.probe = hold_id

    def failed(self, hold_id: str, now_ms: int) -> bool:
        """One more failure. True when this opened it, or kept it open after a probe."""
        self.failures += 1
        if self.probe == hold_id or (self.open_until_ms is None and self.failures >= self.failures_max):
            self.open_until_ms, self.probe = now_ms + self.cooldown_ms, None
            return True
        return False

    def served(self) -> bool:
        """The service answered. True when this closed it."""
        was_open = self.open_until_ms is not None
        self.failures, self.open_until_ms, self.probe = 0, None, None
        return was_open

    def ended(self, hold_id: str) -> None:
        """A call that says nothing about the service is over; when it was the probe, the next call probes."""
        if self.probe == hold_id:
            self.probe = None


COUNTED_MARGIN_PERCENT = 2
"""What bounds add to counted tokens, beside the overhead that every bound has. Of 1,960 recorded texts that OpenAI's
tokenizer counted, the bill was up to 423 tokens above the count, and for those of more than 10,000 tokens up to 0.2 %;
all counts of providers' own counters that are recorded are what was billed."""
COUNTED_MARGIN_PERCENT_MAX = 10_000
"""With which no count makes a bound smaller than bytes do."""
MODELS_PAUSED_MAX = 100
"""Models of one service that are paused at once; of more, those that are paused for the shortest time are not."""


@dataclass(slots=True)
class Gate:
    """Whether a service may be called at all: its breaker, a pause that it asked for, and a pause by an admin; and what
    its bills say of counted bounds."""

    breaker: Breaker
    paused_until_ms: int = 0
    paused_by: str | None = None
    """Who paused it, and why. None: no admin did."""
    models_paused_until_ms: dict[str, int] = field(default_factory=dict[str, int])
    """Models whose own limit was reached."""
    counted_margin_percent: int = COUNTED_MARGIN_PERCENT
    """What bounds add to counted tokens. It grows when a bill is above such a bound, so that this bill would not have
    been."""

    def pause(self, until_ms: int) -> None:
        """The service asked to be left alone; the latest end counts."""
        self.paused_until_ms = max(self.paused_until_ms, until_ms)

    def pause_model(self, model: str, until_ms: int, now_ms: int) -> None:
        """The service asked to leave this model alone; the latest end counts."""
        paused = {name: at_ms for name, at_ms in self.models_paused_until_ms.items() if at_ms > now_ms}
        paused[model] = max(paused.get(model, 0), until_ms)
        longest = sorted(paused.items(), key=lambda each: -each[1])[:MODELS_PAUSED_MAX]
        self.models_paused_until_ms = dict(sorted(longest))

    def billed_above_count(self, lacked_percent: int) -> None:
        """A bill was above a counted bound: it would not have been with so much more."""
        self.counted_margin_percent = min(self.counted_margin_percent + lacked_percent, COUNTED_MARGIN_PERCENT_MAX)

    def shut(self, now_ms: int) -> Literal["paused", "breaker_open", "probing"] | None:
        """Why no call may be sent to it now; None if one may."""
        if self.paused_by is not None or now_ms < self.paused_until_ms:
            return "paused"
        match self.breaker.state(now_ms):
            case "closed":
                return None
            case "open":
                return "breaker_open"
            case "half_open":
                return None if self.breaker.probe is None else "probing"

    def open_up(self) -> None:
        """An admin knows that it works again, and counts right."""
        self.paused_by, self.paused_until_ms, self.models_paused_until_ms = None, 0, {}
        self.counted_margin_percent = COUNTED_MARGIN_PERCENT
        self.breaker.served()
