"""Who may command the desk: when signatures are required, nobody without one, and with one nobody twice."""

from collections.abc import MutableMapping
from datetime import UTC, datetime

from paymaster.admission.signatures import SIGNATURE_LIVES_MAX_MS, SignedT, is_genuine
from paymaster.messages import (
    AdminConfig,
    AdminMessage,
    ApproverConfig,
    DeskConfig,
    RunawayTerms,
    RunTerms,
    Signature,
    Window,
)
from paymaster.values.time_zones import UTC_NAME

REMEMBER_USED = 200
"""So many used signatures are remembered however old they are."""


class SignatureRefused(ValueError):
    """A command without the signature that it needs, or with a wrong, used or expired one. Somebody should know."""


def check_signature(
    action: str,
    command: SignedT,
    config: AdminConfig,
    used: MutableMapping[str, int],
    *,
    ledger: str,
    epoch: str,
    now_ms: int,
    may_have_expired: bool = False,
    table: str = "[admin.keys]",
) -> SignedT:
    """The command, in the name of its signer. Raises SignatureRefused.

    A signature that is there is checked, also where none is required. `used` are the ids of signatures with the times
    at which they expire; this one joins them, whatever becomes of the command: a signature is good for one try.
    `table` has the keys of `config`.
    """
    signature = command.signature
    if signature is None:
        if config.require_signature:
            raise SignatureRefused(f"{action} must be signed here: give `--sign-with FILE` to the command")
        return command
    public = config.keys.get(signature.by)
    if public is None:
        known = ", ".join(sorted(config.keys)) or "nobody"
        raise SignatureRefused(f"signed by {signature.by!r}, and {table} of the ledger has only: {known}")
    if not is_genuine(public, action, command, signature, ledger=ledger, epoch=epoch):
        raise SignatureRefused(
            f"not what {signature.by} signed: made with another key, for another ledger or another epoch of this one, "
            "or changed on its way"
        )
    if not may_have_expired:
        _check_time(signature, now_ms)
    # The latest stay longer than they are good for: if the clock goes back, those would be good once more.
    expired = [name for name, expires_at_ms in used.items() if expires_at_ms <= now_ms]
    for name in expired[: max(0, len(used) - REMEMBER_USED)]:
        del used[name]
    name = f"{signature.by}/{signature.id}"
    if name in used:
        raise SignatureRefused(f"{signature.by}'s signature was used before: each is good for one command")
    used[name] = signature.expires_at_ms
    if isinstance(command, AdminMessage):
        return command.model_copy(update={"who": signature.by})
    return command


def _check_time(signature: Signature, now_ms: int) -> None:
    if signature.expires_at_ms <= now_ms:
        raise SignatureRefused(
            f"{signature.by}'s signature expired at {utc(signature.expires_at_ms)}, and the ledger has "
            f"{utc(now_ms)}: sign it again, and look at the clock"
        )
    if signature.expires_at_ms > now_ms + SIGNATURE_LIVES_MAX_MS:
        raise SignatureRefused(
            f"{signature.by}'s signature is good until {utc(signature.expires_at_ms)}; none may be good for more than "
            f"{SIGNATURE_LIVES_MAX_MS // 60_000} minutes"
        )


def changes_money(before: DeskConfig, after: DeskConfig) -> bool:
    """Whether a configuration changes who may raise caps and by how much, any cap, whether it binds, its time zone,
    what runs may take, or which budgets there are."""
    return any(said(before) != said(after) for said in (_admin, _approvers, _caps, _zones, _watched, _runs))


def _admin(config: DeskConfig) -> AdminConfig:
    return config.admin


def _approvers(config: DeskConfig) -> dict[str, ApproverConfig]:
    return config.approvers


def _watched(config: DeskConfig) -> set[str]:
    return {path for path, budget in config.budgets.items() if not budget.enforce}


def _runs(config: DeskConfig) -> dict[str, tuple[RunTerms | None, RunawayTerms | None]]:
    return {path: (each.per_run, each.runaway) for path, each in config.budgets.items() if each.limits_runs}


def _caps(config: DeskConfig) -> dict[str, dict[Window, int]]:
    """A service without a cap is left out: it lets nobody spend more."""
    return {f"budget:{path}": budget.caps_nanos for path, budget in config.budgets.items()} | {
        f"service:{name}": service.caps_nanos for name, service in config.services.items() if service.caps_nanos
    }


def _zones(config: DeskConfig) -> dict[str, str]:
    return {path: budget.time_zone for path, budget in config.budgets.items() if budget.time_zone != UTC_NAME}


def utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
