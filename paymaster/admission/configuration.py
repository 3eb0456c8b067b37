"""Configurations of the ledger: how two of them differ, in words, and what a worker's start may change."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple, TypeVar, cast

from paymaster.admission.account_rows import account_configs
from paymaster.messages import (
    AccountConfig,
    AdminConfig,
    ApproverConfig,
    DeskConfig,
    RetrySettings,
    RunawayTerms,
    RunTerms,
    Window,
)
from paymaster.values.durations import format_duration
from paymaster.values.money import format_usd
from paymaster.values.windows import ALL_WINDOWS

WORDS_MAX_BYTES = 600
"""How much is said of the differences where they are kept or sent on; with who and what to do, an alert takes 1 KB."""

ConfigT = TypeVar("ConfigT", bound=AccountConfig)

_NAMED = {"digest", "budgets", "services", "admin", "approvers", "time_zones"}
"""Fields of a configuration whose differences are told one by one."""

AdminCaps = Mapping[str, Mapping[Window, int]]
"""By account, the caps in nano-dollars that an admin changed since the file's value came into force."""


class Difference(NamedTuple):
    """One thing that another configuration would change."""

    text: str
    loosens: bool
    """A cap, a budget or a service goes, or a price falls: somebody has to agree."""


def differences(before: DeskConfig, after: DeskConfig, admin_caps: AdminCaps | None = None) -> tuple[Difference, ...]:
    """What `after` changes where `before` is in force; empty when they say the same."""
    found: list[Difference] = []
    old, new, by_admin = account_configs(before), account_configs(after), admin_caps or {}
    for key in sorted(old.keys() | new.keys()):
        found += _account(key, old.get(key), new.get(key), by_admin.get(key, {}))
    found += _admin(before.admin, after.admin)
    found += _approvers(before.approvers, after.approvers)
    found += _fields("the ledger's", before, after, _NAMED)
    for zone in sorted(before.time_zones.keys() & after.time_zones.keys()):
        if before.time_zones[zone] != after.time_zones[zone]:
            found.append(Difference(f"the clocks of {zone} change at other times", loosens=False))
    return tuple(found)


def account_differences(key: str, before: AccountConfig | None, after: AccountConfig | None) -> tuple[Difference, ...]:
    """What changes for one account; None: the configuration does not name it."""
    return tuple(_account(key, before, after, {}))


def without_removals(before: DeskConfig, after: DeskConfig) -> DeskConfig:
    """`after` with all budgets, services and caps that only `before` has: what a worker's start leads to."""
    budgets = {path: _with_caps_of(before.budgets.get(path), account) for path, account in after.budgets.items()}
    services = {name: _with_caps_of(before.services.get(name), account) for name, account in after.services.items()}
    both = {**before.budgets, **budgets}
    zones, named = {**before.time_zones, **after.time_zones}, {budget.time_zone for budget in both.values()}
    return after.model_copy(
        update={
            "budgets": both,
            "services": {**before.services, **services},
            "time_zones": {name: offsets for name, offsets in zones.items() if name in named},
        }
    )


def in_words(found: Iterable[Difference], most_bytes: int = WORDS_MAX_BYTES) -> str:
    """The differences in one line, those that loosen first; cut, with how many more there are."""
    texts = [difference.text for difference in sorted(found, key=lambda difference: not difference.loosens)]
    said, room = list[str](), most_bytes - len("; and 999,999 more")
    for number, text in enumerate(texts):
        room -= len(text.encode()) + len("; ")
        if room < 0:
            return "; ".join([*said, f"and {len(texts) - number:,} more"])
        said.append(text)
    return "; ".join(said)


def _with_caps_of(before: ConfigT | None, after: ConfigT) -> ConfigT:
    """With `per_run` likewise."""
    if before is None:
        return after
    if not before.caps_nanos.keys() <= after.caps_nanos.keys():
        after = after.model_copy(update={"caps_nanos": {**before.caps_nanos, **after.caps_nanos}})
    if before.per_run is None or not _limits(before.per_run).keys() - _limits(after.per_run).keys():
        return after
    per_run = before.per_run.model_copy(update=_limits(after.per_run))
    return after.model_copy(update={"per_run": per_run})


def _limits(per_run: RunTerms | None) -> dict[str, object]:
    """Those that are set."""
    return {} if per_run is None else per_run.model_dump(exclude_none=True)


def _account(
    key: str, before: AccountConfig | None, after: AccountConfig | None, by_admin: Mapping[Window, int]
) -> Iterable[Difference]:
    if before == after:
        return
    kind, _, path = key.partition(":")
    name = path if kind == "budget" else f"service {path}"
    if after is None:
        yield Difference(f"{name} ({_caps(before, by_admin)}) → removed", loosens=True)
    elif before is None:
        yield Difference(f"{name}: new, {_caps(after, by_admin)}", loosens=False)
    else:
        for window in ALL_WINDOWS:
            if before.caps_nanos.get(window) != after.caps_nanos.get(window):
                now, then = _cap(before, window, by_admin), _cap(after, window, {})
                yield Difference(f"{name} {window} {now} → {then}", loosens=window not in after.caps_nanos)
        if before.enforce != after.enforce:
            yield Difference(f"{name} {_binds(before)} → {_binds(after)}", loosens=before.enforce)
        if before.per_run != after.per_run:
            loosens = bool(_limits(before.per_run).keys() - _limits(after.per_run).keys())
            text = f"{name} per run {_per_run(before.per_run)} → {_per_run(after.per_run)}"
            yield Difference(text, loosens=loosens)
        yield from _fields(name, before, after, {"caps_nanos", "enforce", "per_run"})


def _per_run(terms: RunTerms | None) -> str:
    if terms is None:
        return "no limit"
    said = (
        None if terms.usd_nanos is None else format_usd(terms.usd_nanos),
        None if terms.calls is None else f"{terms.calls:,} calls",
        None if terms.lasts_ms is None else format_duration(timedelta(milliseconds=terms.lasts_ms)),
        None if terms.renews is None else f"anew each {terms.renews}",
    )
    return ", ".join(limit for limit in said if limit is not None)


def _binds(account: AccountConfig) -> str:
    return "enforced" if account.enforce else "watched only"


def _caps(account: AccountConfig | None, by_admin: Mapping[Window, int]) -> str:
    capped = {} if account is None else account.caps_nanos
    caps = [f"{window} {_cap(account, window, by_admin)}" for window in ALL_WINDOWS if window in {*capped, *by_admin}]
    return ", ".join(caps) or "no cap"


def _cap(account: AccountConfig | None, window: Window, by_admin: Mapping[Window, int]) -> str:
    cap = None if account is None else account.caps_nanos.get(window)
    text = "no cap" if cap is None else format_usd(cap)
    if window not in by_admin:
        return text
    return f"{format_usd(by_admin[window])} (an admin's; the file's was {text})"


def _admin(before: AdminConfig, after: AdminConfig) -> Iterable[Difference]:
    yield from _fields("[admin]", before, after, {"keys"})
    for owner in sorted(before.keys.keys() | after.keys.keys()):
        old, new = before.keys.get(owner), after.keys.get(owner)
        if old != new:
            what = "new key" if old is None else "key removed" if new is None else "another key"
            yield Difference(f"[admin.keys] {owner}: {what}", loosens=False)


def _approvers(before: Mapping[str, ApproverConfig], after: Mapping[str, ApproverConfig]) -> Iterable[Difference]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            key = old is not None and new is not None and old.key != new.key
            text = f"[approvals] {name}: {_approver(old)} → {_approver(new)}{', with another key' if key else ''}"
            yield Difference(text, loosens=False)


def _approver(approver: ApproverConfig | None) -> str:
    if approver is None:
        return "nothing"
    most, in_a_day = format_usd(approver.per_raise_nanos), format_usd(approver.per_day_nanos)
    return f"{most} at once, {in_a_day} a day, of {', '.join(approver.budgets)}"


def _fields(
    name: str,
    before: AccountConfig | AdminConfig | DeskConfig,
    after: AccountConfig | AdminConfig | DeskConfig,
    leave_out: set[str],
) -> Iterable[Difference]:
    """Everything that has no words of its own, also what a later version adds."""
    old, new = dict(iter(before)), dict(iter(after))  # `dict(before)` would call the field `keys`
    for field in [field for field in old if field not in leave_out]:
        if old[field] != new[field]:
            text = f"{name} {field.removesuffix('_ms')} {_value(field, old[field])} → {_value(field, new[field])}"
            yield Difference(text, loosens=False)


def _value(field: str, value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and field.endswith("_ms"):
        return f"{value / 1000:g} s"
    if isinstance(value, int) and "nanos" in field:
        return format_usd(value)
    if isinstance(value, RunawayTerms):
        said = [(name.replace("_nanos", ""), _value(name, part)) for name, part in value if part is not None]
        return ", ".join(f"{name} {text}" for name, text in said)
    if isinstance(value, RetrySettings):
        return ", ".join(f"{name.removesuffix('_ms')} {_value(name, part)}" for name, part in value)
    if isinstance(value, tuple):
        return ", ".join(map(str, cast(tuple[object, ...], value))) or "none"
    return str(value)
