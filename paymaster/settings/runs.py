"""What a budget says of the runs that it pays for."""

from typing import Literal, Self

from pydantic import model_validator

from paymaster.settings.kinds import AtLeastOne, Duration
from paymaster.settings.table import Table
from paymaster.values.money import UsdAsNanos


class PerRunSettings(Table):
    """The most that each run of an agent may take, with its sub-agents, tools and retries. At least one is set."""

    usd: UsdAsNanos | None = None
    """US dollars as exact text. None, the default: no limit."""
    calls: AtLeastOne | None = None
    """Calls, and not attempts. None, the default: no limit."""
    lasts: Duration | None = None
    """How long after its first call a run may begin others. None, the default: no limit."""
    renews: Literal["1h", "1d", "1w"] | None = None
    """A run that goes on has its money and calls anew in each hour, day or week, in UTC; not with `lasts`. None, the
    default: never."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.usd is None and self.calls is None and self.lasts is None:
            raise ValueError("none of `usd`, `calls` and `lasts` is set; set one, or take this out")
        if self.renews is not None and self.lasts is not None:
            raise ValueError("a run that `renews` goes on for ever, and one that `lasts` ends: take one of them out")
        return self


class RunawaySettings(Table):
    """When a run is taken for an agent in a loop: all its calls wait until an admin lets it go on, or ends it."""

    identical_calls: AtLeastOne | None = None
    """So many calls of a run may ask for the same thing. None, the default: any number."""
    calls_per_minute: AtLeastOne | None = None
    """So many calls of a run may be made in a minute of the clock. None, the default: any number."""
    usd_per_minute: UsdAsNanos | None = None
    """When a run has spent so much in a minute of the clock, its next call is held. US dollars as exact text. None, the
    default: no limit."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.identical_calls is None and self.calls_per_minute is None and self.usd_per_minute is None:
            raise ValueError(
                "none of `identical_calls`, `calls_per_minute` and `usd_per_minute` is set; set one, or take this out"
            )
        return self
