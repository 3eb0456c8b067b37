"""The console without a gateway process: its routes alone, over a database with a copy that a test writes."""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from temporalio.client import Client

from paymaster.admission.status import WAITING_SHOWN
from paymaster.console.routes import console_routes
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.body_room import BodyRoom, RoomForBodies
from paymaster.keys.ring import named_keys
from paymaster.ledger.handle import Ledger
from paymaster.messages import (
    AccountStatus,
    DeskStatus,
    RunState,
    ServiceStatus,
    StatusCopy,
    WaitingCall,
    Window,
    WindowStatus,
)
from paymaster.messages.status import CopiedCall
from paymaster.settings import Settings
from paymaster.storage.engine import create_engine
from paymaster.storage.status_rows import store_status

VIEWER, APPROVER, ADMIN = (f"{name}-0123456789abcdef0123456789abcdef" for name in ("viewer", "approver", "admin"))
USD = 1_000_000_000
HOUR_MS = 3_600_000
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
"""What no page may take for anything but text."""
NOWHERE = "postgresql+asyncpg://nobody@127.0.0.1:1/none"


def key_table(key: str, role: str) -> dict[str, str]:
    """A `[console.keys.NAME]`."""
    return {"key_sha256": sha256(key.encode()).hexdigest(), "role": role}


KEYS = {"vera": key_table(VIEWER, "viewer"), "otto": key_table(APPROVER, "approver"), "ada": key_table(ADMIN, "admin")}


async def console_app(engine: AsyncEngine | None = None, temporal: Client | None = None, **tables: Any) -> Starlette:
    """`engine` None: the database does not answer. `tables`: of the settings, besides the three keys."""
    tables["console"] = {"keys": KEYS, **tables.get("console", {})}
    settings = Settings.model_validate(tables)
    temporal = temporal or await Client.connect("127.0.0.1:1", lazy=True)
    site = AdminSite(settings, Ledger(temporal, settings.ledger.name), engine or create_engine(NOWHERE))
    bodies = Middleware(RoomForBodies, room=BodyRoom(settings.gateway.bodies_bytes_max))
    return Starlette(routes=await console_routes(settings, named_keys(settings), site), middleware=[bodies])


class Browser(httpx.AsyncClient):
    """What a browser sends, with its cookies; forms are sent as it sends them."""

    def __init__(self, app: Starlette, *, address: str = "127.0.0.1", url: str = "http://localhost:4000") -> None:
        super().__init__(transport=httpx.ASGITransport(app, client=(address, 50_000)), base_url=url)
        self.url = url

    async def send_form(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> httpx.Response:
        return await self.post(path, data=fields, headers={"origin": self.url, **(headers or {})})

    async def log_in(self, key: str) -> httpx.Response:
        return await self.send_form("/console/login", key=key)


async def opened(engine: AsyncEngine, path: str, key: str = ADMIN, **tables: Any) -> str:
    """A page, which is there."""
    browser = Browser(await console_app(engine, **tables))
    await browser.log_in(key)
    answer = await browser.get(f"/console/{path}")
    assert answer.status_code == 200, answer.text
    return answer.text


def form_token(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert found is not None, page
    return found[1]


# ---------------------------------------------------------------- what the copy has


def window(name: Window, cap: float | None, posted: float, pending: float = 0, **more: Any) -> WindowStatus:
    """Amounts in dollars. It began six hours ago and ends in six."""
    at_ms = now_ms()
    lasts = name != "total"
    return WindowStatus(
        window=name,
        cap_nanos=None if cap is None else round(cap * USD),
        posted_nanos=round(posted * USD),
        pending_nanos=round(pending * USD),
        ends_at_ms=at_ms + 6 * HOUR_MS if lasts else None,
        began_at_ms=at_ms - 6 * HOUR_MS if lasts else 0,
        **more,
    )


def account(key: str, *windows: WindowStatus, parked: int = 0, **more: Any) -> AccountStatus:
    return AccountStatus(account=key, windows=windows, parked=parked, tag=sha256(key.encode()).hexdigest()[:16], **more)


def now_ms() -> int:
    return int(time.time() * 1_000)


def service(name: str, **more: object) -> ServiceStatus:
    """One that works, but for what is said."""
    fine = {"breaker": "closed", "failures": 0, "open_until_ms": None, "paused_until_ms": None, "paused_by": None}
    return ServiceStatus.model_validate({"service": name, **fine, **more})


def waiting(number: int, **more: object) -> WaitingCall:
    """A parked call."""
    facts = {"workflow_id": f"call/{number}", "budget": "acme", "parked_at_ms": now_ms() - 60_000, "detail": "no money"}
    return WaitingCall.model_validate({**facts, "deadline_at_ms": now_ms() + HOUR_MS, **more})


def run(name: str, **more: object) -> RunState:
    """A run that has used $1 of $2, but for what is said."""
    facts = {
        "run": name,
        "cap_nanos": 2 * USD,
        "calls": 3,
        "calls_max": 10,
        "began_at_ms": now_ms(),
        "ends_at_ms": None,
    }
    return RunState.model_validate({**facts, **more})


async def store_copy(
    engine: AsyncEngine,
    accounts: Sequence[AccountStatus],
    services: Sequence[ServiceStatus] = (),
    waiting: Sequence[WaitingCall] = (),
    short: Mapping[str, object] | None = None,
    **more: Any,
) -> None:
    """The copy of the ledger `default`, in place of the one before. `short`: what each of the calls lacks."""
    facts = {"holds": 0, "parked": sum(each.parked for each in accounts if "/" not in each.account), "outbox": 0}
    status = DeskStatus.model_validate(
        {
            "ledger": "default",
            "epoch": "e1",
            "config_digest": "d",
            "accounts": (),
            "unconfirmed": 0,
            **facts,
            "services": tuple(services),
            "waiting": tuple(waiting)[:WAITING_SHOWN],
            "rules": 2,
            **more,
        }
    )
    calls = tuple(
        CopiedCall.model_validate(
            {"hold_id": f"h/{number}", "priority": 0, "sequence": number, "call": call, **(short or {})}
        )
        for number, call in enumerate(waiting)
    )
    copy = StatusCopy(version=1, anew=True, status=status, accounts=tuple(accounts), gone=(), calls=calls)
    await store_status(engine, copy, datetime.now(UTC))
