"""What admins and workers command the ledger, as signals or updates."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from paymaster.messages.base import CountsForBudgets, Message, added
from paymaster.messages.config import CarriedConfig
from paymaster.values.limits import BUDGETS_OF_CALL_MAX, COUNT_MAX, DURATION_MS_MAX
from paymaster.values.run_path import RUN_LENGTH_MAX
from paymaster.values.windows import Window


class Signature(BaseModel):
    """Who gives a command. What is signed, and how, says paymaster/admission/signatures.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(max_length=200)
    """The name of the key in `[admin.keys]`; it is kept with the change as who made it."""
    id: str = Field(min_length=1, max_length=64)
    """Each is good for one command."""
    expires_at_ms: int
    value: str = Field(max_length=200)
    """The signature in base64."""


class AdminMessage(BaseModel):
    """What an admin sends, as a signal or as an update of the same name; often by hand, so nothing is guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(default="", max_length=1_000)
    who: str = Field(default="", max_length=200)
    """Of a signed command its signer, whatever is written here."""
    signature: Signature | None = None
    """None: refused where `[admin] require_signature` is set."""
    if_tag: str | None = added(None, max_length=64)
    """The tag of what it changes, as its sender saw it: refused where that has changed. None: whatever there is."""


class Approval(BaseModel):
    """What an approver of `[approvals]` raises a cap by: a button, a link or a form that was made for this."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(max_length=100)
    """The approver's name."""
    nonce: str = Field(min_length=1, max_length=200)
    """Of the button: it raises once, whoever presses it, and however often."""
    cap_nanos: int
    """The cap as the approver saw it: another one is not raised."""
    window_ends_at_ms: int
    """The end of the window that the raise is for."""
    where: str = Field(max_length=150)
    """Where it was given, such as "Slack, U012AB3CD"."""


class RaiseCap(AdminMessage):
    """`raise_cap`: adds to a cap. Amounts are US dollars as exact text."""

    account: str = Field(max_length=300)
    """`budget:acme/content` or `service:openai`."""
    window: Window
    by: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]
    until_window_end: bool = False
    """The raise lapses when the window ends."""
    approval: Approval | None = added(None)
    """None: an admin's."""


class SetCap(AdminMessage):
    """`set_cap`: sets a cap, or puts one where there was none."""

    account: str = Field(max_length=300)
    window: Window
    to: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]


class UnsetCap(AdminMessage):
    """`unset_cap`: what admins made of a cap is over, and the configuration's value is in force."""

    account: str = Field(max_length=300)
    window: Window


class RaiseRun(AdminMessage):
    """`raise_run`: gives a run, or a part of one, more than its limits."""

    run: str = Field(max_length=RUN_LENGTH_MAX)
    by: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)] | None = None
    """US dollars as exact text. None: no money."""
    calls: int = Field(default=0, ge=0, le=COUNT_MAX)
    lasts_ms: int = Field(default=0, ge=0, le=DURATION_MS_MAX)


class EndRun(AdminMessage):
    """`end_run`: no further call of a run, or of a part of one, gets a grant."""

    run: str = Field(max_length=RUN_LENGTH_MAX)


class ResumeRun(AdminMessage):
    """`resume_run`: a run that is held as a runaway goes on, and what it did so far is forgotten."""

    run: str = Field(max_length=RUN_LENGTH_MAX)


class PauseService(AdminMessage):
    """`pause_service`: nothing is sent to it until `resume_service`; calls fall back or park."""

    service: str = Field(max_length=300)


class ResumeService(AdminMessage):
    """`resume_service`: ends an admin's pause, a pause that the service asked for, and an open breaker."""

    service: str = Field(max_length=300)


class TakeClock(AdminMessage):
    """`take_clock`: the ledger's time goes back to that of the Temporal server, which was ahead and is right again.

    A signature of it may have expired: by a clock that is ahead every one has.
    """


class AcceptLower(AdminMessage):
    """`accept_lower`: the stored rows of an account are the truth, also where the ledger's books have more."""

    account: str = Field(max_length=300)
    """`budget:acme/content`, `service:openai`, or `all`."""


class CorrectSpend(CountsForBudgets, AdminMessage):
    """`correct_spend`: the rows of a hold that the ledger does not have any more were corrected by a person."""

    hold_id: str = Field(max_length=600)
    budget: str = Field(max_length=300)
    service: str = Field(max_length=300)
    granted_at_ms: int = Field(ge=1)
    from_usd: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]
    """What the rows said before."""
    to_usd: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]
    further_budgets: tuple[Annotated[str, Field(max_length=300)], ...] = added((), max_length=BUDGETS_OF_CALL_MAX - 1)
    """Others that the hold counts for."""
    run: Annotated[str, Field(max_length=RUN_LENGTH_MAX)] | None = added(None)
    """The path of the run that it counts for. None: none."""


class Upgrade(AdminMessage):
    """The update `upgrade`: the ledger continues as new, by newer rules."""

    rules: int = Field(ge=1)


class Configure(Message):
    """The update `configure`."""

    config: CarriedConfig
    force: bool = False
    """Bring back a configuration that was superseded."""
    signature: Signature | None = None
    """Where `[admin] require_signature` is set, a configuration with other caps, budgets or `[admin]` needs one."""
    who: str = added("", max_length=300)
    """Who brings it, and from where, such as "worker on HOST". A signed one has its signer here, whatever it says."""
    may_remove: bool = added(False)
    """Somebody agreed: budgets, services and caps that it lacks go. Default false, as of a worker: they stay."""


class ConfigState(Message):
    """The answer to the update `configure`."""

    digest: str
    """Of the configuration that is in force."""
    applied: bool
    detail: str
    kept: str = added("")
    """What stays in force although the configuration lacks it, in words, cut to length. Empty: nothing."""
    rules: int = added(1)
    """By which the ledger decides."""
