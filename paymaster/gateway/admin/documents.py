"""What the administration answers and takes, as JSON. Money is US dollars as exact text with nine decimals."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from paymaster.messages import AccountStatus, LimitName, RunState, ServiceStatus, Signature, Window, WindowStatus
from paymaster.settings.kinds import BudgetPath
from paymaster.storage.clients import StoredClient
from paymaster.storage.ledger_log import LoggedChange
from paymaster.storage.status_rows import CopiedLedger
from paymaster.values.money import nanos_to_usd, usd_to_nanos


def _check_amount(text: str) -> str:
    usd_to_nanos(text)
    return text


Amount = Annotated[str, Field(max_length=100, examples=["12.50"]), AfterValidator(_check_amount)]


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class WindowDocument(Document):
    window: Window
    cap_usd: str | None
    """Null: not capped."""
    cap_from: Literal["file", "admin"]
    lapsing_usd: str
    """The part of the cap that is taken away when the window ends."""
    posted_usd: str
    """Spent."""
    pending_usd: str
    """On hold for calls that run."""
    left_usd: str | None
    began_at: datetime | None
    ends_at: datetime | None


class LimitDocument(Document):
    what: LimitName
    limit: int
    used: int


class BudgetDocument(Document):
    budget: str
    windows: tuple[WindowDocument, ...]
    limits: tuple[LimitDocument, ...]
    parked: int
    """Calls that wait for something in it."""
    loading: bool
    """What was spent before is being read, and its calls wait."""
    enforced: bool
    time_zone: str


class ServiceDocument(Document):
    service: str
    paused: bool
    paused_by: str | None
    """Who paused it, and why."""
    breaker: Literal["closed", "open", "half_open"]
    failures: int
    open_until: datetime | None
    paused_until: datetime | None
    """A pause that the service asked for."""
    windows: tuple[WindowDocument, ...]
    limits: tuple[LimitDocument, ...]
    parked: int


class RunDocument(Document):
    run: str
    cap_usd: str | None
    posted_usd: str
    pending_usd: str
    calls: int
    calls_max: int | None
    began_at: datetime | None
    ends_at: datetime | None
    ended_by: str | None
    held: str | None
    """Why it is held as a runaway."""
    parked: int


class ClientDocument(Document):
    name: str
    key_id: str
    budget: str
    routes: tuple[str, ...] | None
    requests_at_once: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None
    key: str | None = None
    """Told once, in the answer that made it."""


class ChangeDocument(Document):
    at: datetime
    who: str
    what: str
    reason: str


class LedgerDocument(Document):
    ledger: str
    epoch: str
    """Which books these are: a signature names them."""
    holds: int
    parked: int
    unconfirmed: int
    refused_messages: tuple[str, ...]
    """The latest commands that could not be carried out, with the reason."""
    rules: int
    version: int
    """Of the copy of the ledger's status that this was read from."""
    copied_at: datetime
    """When the ledger told last that anything changed."""


class BudgetPage(Document):
    items: tuple[BudgetDocument, ...]
    next: str | None
    """For `after` in the request for the next page. Null: this is the last one."""


class RunPage(Document):
    items: tuple[RunDocument, ...]
    next: str | None


class ServicePage(Document):
    items: tuple[ServiceDocument, ...]
    next: None = None


class ClientPage(Document):
    items: tuple[ClientDocument, ...]
    next: None = None


class ChangePage(Document):
    items: tuple[ChangeDocument, ...]
    """Oldest first."""


class StandingDocument(Document):
    """How the budget of a client stands, with those above it."""

    client: str
    budgets: tuple[BudgetDocument, ...]
    copied_at: datetime
    """When the ledger told last that anything changed."""
    age_s: float


class Wanted(Document):
    reason: Annotated[str, Field(max_length=1_000)] = ""
    """Kept with the change."""
    who: Annotated[str, Field(max_length=200)] = ""
    """Of a signed command: what its signer wrote there. Without a signature it is the admin's name."""
    signature: Signature | None = None
    """Needed where `[admin] require_signature` is set; docs/security.md."""


class CapWanted(Wanted):
    usd: Amount


class RaiseWanted(Wanted):
    budget: BudgetPath | None = None
    window: Window | None = None
    """Of a budget."""
    run: Annotated[str, Field(max_length=1_000)] | None = None
    by_usd: Amount | None = None
    until_window_end: bool = False
    calls: Annotated[int, Field(ge=0)] = 0
    """Of a run: so many calls more."""
    lasts_s: Annotated[int, Field(ge=0)] = 0
    """Of a run: so many seconds longer."""


class ServiceWanted(Wanted):
    paused: bool


class RunWanted(Wanted):
    ended: Literal[True] | None = None
    """It is ended: no further call of it begins."""
    held: Literal[False] | None = None
    """It goes on, which is held as a runaway."""


class ClientWanted(Document):
    budget: BudgetPath
    routes: tuple[str, ...] | None = None
    requests_at_once: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    expires_at: AwareDatetime | None = None


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def usd(nanos: int) -> str:
    return f"{nanos_to_usd(nanos):.9f}"


def at(at_ms: int | None) -> datetime | None:
    return None if not at_ms else datetime.fromtimestamp(at_ms / 1_000, UTC)


def window_document(status: WindowStatus) -> WindowDocument:
    cap = status.cap_nanos
    left = None if cap is None else usd(cap - status.posted_nanos - status.pending_nanos)
    return WindowDocument(
        window=status.window,
        cap_usd=None if cap is None else usd(cap),
        cap_from=status.cap_from,
        lapsing_usd=usd(status.lapsing_nanos),
        posted_usd=usd(status.posted_nanos),
        pending_usd=usd(status.pending_nanos),
        left_usd=left,
        began_at=at(status.began_at_ms),
        ends_at=at(status.ends_at_ms),
    )


def budget_document(status: AccountStatus) -> BudgetDocument:
    return BudgetDocument(
        budget=status.account.removeprefix("budget:"),
        windows=tuple(map(window_document, status.windows)),
        limits=_limits(status),
        parked=status.parked,
        loading=status.loading,
        enforced=status.enforced,
        time_zone=status.time_zone,
    )


def service_document(service: ServiceStatus, account: AccountStatus | None) -> ServiceDocument:
    return ServiceDocument(
        service=service.service,
        paused=service.paused_by is not None,
        paused_by=service.paused_by,
        breaker=service.breaker,
        failures=service.failures,
        open_until=at(service.open_until_ms),
        paused_until=at(service.paused_until_ms),
        windows=() if account is None else tuple(map(window_document, account.windows)),
        limits=() if account is None else _limits(account),
        parked=0 if account is None else account.parked,
    )


def run_document(status: AccountStatus, run: RunState) -> RunDocument:
    [total] = [window for window in status.windows if window.window == "total"]
    return RunDocument(
        run=run.run,
        cap_usd=None if run.cap_nanos is None else usd(run.cap_nanos),
        posted_usd=usd(total.posted_nanos),
        pending_usd=usd(total.pending_nanos),
        calls=run.calls,
        calls_max=run.calls_max,
        began_at=at(run.began_at_ms),
        ends_at=at(run.ends_at_ms),
        ended_by=run.ended_by or None,
        held=run.held or None,
        parked=status.parked,
    )


def client_document(client: StoredClient, key: str | None = None) -> ClientDocument:
    named = {name: getattr(client, name) for name in ClientDocument.model_fields if name != "key"}
    return ClientDocument(**named, key=key)


def ledger_document(copied: CopiedLedger) -> LedgerDocument:
    status = copied.status
    return LedgerDocument(
        ledger=status.ledger,
        epoch=status.epoch,
        holds=status.holds,
        parked=status.parked,
        unconfirmed=status.unconfirmed,
        refused_messages=status.refused_messages,
        rules=status.rules,
        version=copied.version,
        copied_at=copied.copied_at,
    )


def change_document(change: LoggedChange) -> ChangeDocument:
    return ChangeDocument(at=change.at, who=change.who, what=change.what, reason=change.reason)


def _limits(status: AccountStatus) -> tuple[LimitDocument, ...]:
    return tuple(LimitDocument(what=each.what, limit=each.limit, used=each.used) for each in status.limits)
