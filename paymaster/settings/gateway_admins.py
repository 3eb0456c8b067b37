"""The tables of `paymaster.toml` for those who administrate over HTTP."""

from typing import Annotated, Literal

from pydantic import Field

from paymaster.settings.kinds import BudgetPath
from paymaster.settings.table import Table

AdminRight = Literal["read", "budgets", "services", "runs", "clients", "prices"]


class GatewayAdminSettings(Table):
    """Who may ask `/v1/paymaster/admin/…`, by a key of which the configuration has only the hash."""

    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the admin's key in hexadecimal: `printf %s "$KEY" | sha256sum`. The key is at least 32 random
    characters, such as `openssl rand -hex 32`, and no client's. No default."""
    may: tuple[AdminRight, ...] = ("read",)
    """What it may change: "budgets" (caps and raises), "services" (pauses), "runs", "clients", "prices" (newer
    lists of them); each may read, too. Where `[admin] require_signature` is set, a change needs a signature besides.
    Default ["read"]."""
    budget: BudgetPath | None = None
    """It sees and changes only this budget, those below it and their clients, and no services and runs. None, the
    default: everything."""
