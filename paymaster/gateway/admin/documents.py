"""What the administration answers, as JSON. Money is US dollars as exact text with nine decimals."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from paymaster.messages import (
    AccountStatus,
    LimitName,
    RunState,
    ServiceStatus,
    UsageEntry,
    Window,
    WindowStatus,
)
from paymaster.storage.clients import StoredClient
from paymaster.storage.ledger_log import LoggedChange
from paymaster.storage.status_rows import CopiedLedger
from paymaster.values.money import Price, nanos_to_usd


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


class CapDocument(Document):
    """The cap of a budget, or of a service, in one window."""

    budget: str | None
    service: str | None
    window: Window
    cap_usd: str | None
    """Null: not capped."""
    cap_from: Literal["file", "admin"]
    lapsing_usd: str
    """The part of the cap that is taken away when the window ends."""


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
    renews: Window | None
    """It has money and calls anew in each such window, and all figures are of the open one."""
    renews_at: datetime | None


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


class UnconfirmedDocument(Document):
    attempt: str
    call_id: str
    budget: str
    service: str
    model: str
    granted_at: datetime | None
    why: str
    charged_usd: str
    """Its bound, until somebody resolves it."""


class ResolvedDocument(Document):
    attempt: str
    cost_usd: str
    posted: bool
    """The books have it. False: the row is stored, and `paymaster reconcile --repair` posts it."""


class PriceDocument(Document):
    """In US dollars for a million tokens, at this moment. Null: unknown."""

    model: str
    """`service/model`."""
    input_usd: str | None
    cached_input_usd: str | None
    output_usd: str | None
    source: str | None
    """Null: there is no price, and calls are refused."""


class PricesDocument(Document):
    list: str
    """What prices are looked up in that the configuration does not say."""
    sha256: str | None
    """Of the list that was brought last. Null: none was, and each package's own is used."""
    brought_at: datetime | None
    brought_by: str | None
    source: str | None
    prices: tuple[PriceDocument, ...]
    """Of the models that the configuration names."""


class ListChangeDocument(Document):
    name: str
    """`service/model`."""
    text: str
    needs_consent: bool
    """It falls to zero or by a large part."""


class NewerPricesDocument(Document):
    """What is at the list's address now."""

    url: str
    sha256: str
    in_force: bool
    changes: tuple[ListChangeDocument, ...]


class DifferenceDocument(Document):
    text: str
    loosens: bool
    """A cap, a budget or a service goes."""


class ConfigurationDocument(Document):
    digest: str
    brought_at: datetime
    brought_by: str
    differences: tuple[DifferenceDocument, ...]
    """What the gateway's file would change."""


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


class UnconfirmedPage(Document):
    items: tuple[UnconfirmedDocument, ...]
    """Oldest first."""
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


def cap_document(account: str, window: Window, status: AccountStatus | None) -> CapDocument:
    """Of the account with this key; None: there is none any more, and so no cap."""
    kind, _, name = account.partition(":")
    windows = () if status is None else status.windows
    found = next((each for each in windows if each.window == window), None)
    return CapDocument(
        budget=name if kind == "budget" else None,
        service=name if kind == "service" else None,
        window=window,
        cap_usd=None if found is None or found.cap_nanos is None else usd(found.cap_nanos),
        cap_from="file" if found is None else found.cap_from,
        lapsing_usd=usd(0 if found is None else found.lapsing_nanos),
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
    counted = status.window_of_run
    return RunDocument(
        run=run.run,
        cap_usd=None if run.cap_nanos is None else usd(run.cap_nanos),
        posted_usd=usd(counted.posted_nanos),
        pending_usd=usd(counted.pending_nanos),
        calls=run.calls,
        calls_max=run.calls_max,
        began_at=at(run.began_at_ms),
        ends_at=at(run.ends_at_ms),
        ended_by=run.ended_by or None,
        held=run.held or None,
        parked=status.parked,
        renews=run.renews,
        renews_at=at(run.renews_at_ms),
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


def unconfirmed_document(entry: UsageEntry) -> UnconfirmedDocument:
    return UnconfirmedDocument(
        attempt=entry.attempt_id,
        call_id=entry.call_id,
        budget=entry.budget,
        service=entry.service,
        model=entry.model,
        granted_at=at(entry.granted_at_ms),
        why=entry.error_class or entry.status,
        charged_usd=usd(entry.cost_nanos),
    )


def price_document(model: str, price: Price | None) -> PriceDocument:
    if price is None:
        return PriceDocument(model=model, input_usd=None, cached_input_usd=None, output_usd=None, source=None)
    return PriceDocument(
        model=model,
        input_usd=usd(price.input_nanos),
        cached_input_usd=usd(price.cached_nanos),
        output_usd=usd(price.output_nanos),
        source=price.source,
    )


def change_document(change: LoggedChange) -> ChangeDocument:
    return ChangeDocument(at=change.at, who=change.who, what=change.what, reason=change.reason)


def _limits(status: AccountStatus) -> tuple[LimitDocument, ...]:
    return tuple(LimitDocument(what=each.what, limit=each.limit, used=each.used) for each in status.limits)
