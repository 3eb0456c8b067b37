"""What a run of an agent may cost: as its author asks for it, and as the desk reads it."""

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from paymaster.messages.base import Message, added
from paymaster.values.durations import DURATION, duration_from_input, format_duration, milliseconds
from paymaster.values.money import nanos_to_usd, usd_to_nanos
from paymaster.values.run_path import RUN_LENGTH_MAX, RUN_SEGMENT, check_run_segment
from paymaster.values.windows import Window


class RunTerms(Message):
    """The most that a run, or a part of one, may take."""

    usd_nanos: int | None = None
    """None, here as below: no limit."""
    calls: int | None = None
    """Calls, and not attempts."""
    lasts_ms: int | None = None
    """Counted from its first reserve."""
    renews: Window | None = added(None)
    """Money and calls are those of each window of this kind, and not of all time. Only of what a budget says."""


class RunawayTerms(Message):
    """When a run of an agent is taken for one in a loop, and is held."""

    identical_calls: int | None = None
    """So many calls that ask for the same thing are granted, and no further one. None, here as below: no limit."""
    calls_per_minute: int | None = None
    """In a minute of the clock."""
    usd_nanos_per_minute: int | None = None
    """Spent in a minute of the clock: the next call is held."""


def _usd(value: str | int | Decimal) -> Decimal:
    nanos = usd_to_nanos(value)
    if nanos < 0:
        raise ValueError(f"{value!r} is negative")
    return nanos_to_usd(nanos)


_Usd = Annotated[
    str | int | Decimal,
    BeforeValidator(_usd),
    PlainSerializer(lambda usd: f"{usd:f}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,11}(\.[0-9]{1,9})?$"}),
]
_Duration = Annotated[
    timedelta | str,
    BeforeValidator(duration_from_input),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION}$"}),
]
RunId = Annotated[
    str,
    Field(max_length=RUN_LENGTH_MAX, json_schema_extra={"pattern": f"^{RUN_SEGMENT}$"}),
    AfterValidator(check_run_segment),
]
"""The id of a run, or the name of a part of one."""


class RunLimits(Message):
    """The most that a run of an agent may take, with all that it starts: sub-agents, tools and retries.

    At least one of the limits is set. Those that the first call of a run names stand.
    """

    model_config = ConfigDict(extra="forbid")

    usd: _Usd | None = None
    """US dollars as exact text, like "0.50". None, here as below: no limit."""
    calls: Annotated[int, Field(ge=1)] | None = None
    """Calls, and not attempts."""
    lasts: _Duration | None = None
    """Counted from the run's first call: a timedelta, or text as in the configuration, like "2h"."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.usd is None and self.calls is None and self.lasts is None:
            raise ValueError("a run's limits name usd, calls or lasts")
        return self

    def terms(self) -> RunTerms:
        return RunTerms(
            usd_nanos=None if self.usd is None else usd_to_nanos(self.usd),
            calls=self.calls,
            lasts_ms=None if self.lasts is None else milliseconds(duration_from_input(self.lasts)),
        )


class RunPart(Message):
    """A part of a run, such as a sub-agent's, with limits of its own; what it takes counts for the run too."""

    model_config = ConfigDict(extra="forbid")

    name: RunId
    limits: RunLimits


class RunScope(Message):
    """What a `run_budget`, and those around it, say of the calls within."""

    run: RunId | None = None
    """None: the run follows from the workflow that asks."""
    limits: RunLimits | None = None
    parts: tuple[RunPart, ...] = ()
    """Outermost first."""
