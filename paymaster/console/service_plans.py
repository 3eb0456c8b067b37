"""Pausing and resuming services, and what is done to runs, as plans that somebody confirms."""

from collections.abc import Awaitable

from paymaster.console.pages import BASE
from paymaster.console.plans import Confirmed, Fields, Plan, action_address, amount, number
from paymaster.console.words import exact_usd
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.messages import (
    AccountStatus,
    EndRun,
    PauseService,
    RaiseRun,
    ResumeRun,
    ResumeService,
    ServiceStatus,
)


class ServicePlans:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def pause(self, fields: Fields) -> Plan:
        service = await self._service(fields)
        name = service.service

        def send(given: Confirmed) -> Awaitable[object]:
            change = PauseService(service=name, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.pause_service(change))

        return Plan(
            says=f"Nothing more is sent to {name} until somebody resumes it. Its calls fall back to others or wait.",
            done=f"{name} is paused.",
            command=("services", "pause", name),
            send=send,
            back=f"{BASE}/services",
            tag=service.tag or None,
            undo=action_address("resume", service=name, reason="taken back"),
        )

    async def resume(self, fields: Fields) -> Plan:
        service = await self._service(fields)
        name = service.service

        def send(given: Confirmed) -> Awaitable[object]:
            change = ResumeService(service=name, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.resume_service(change))

        return Plan(
            says=f"Calls go to {name} again: a pause ends, also one that it asked for, and its breaker closes.",
            done=f"{name} is resumed.",
            command=("services", "resume", name),
            send=send,
            back=f"{BASE}/services",
            tag=service.tag or None,
            undo=None if service.paused_by is None else action_address("pause", service=name, reason="taken back"),
        )

    async def _service(self, fields: Fields) -> ServiceStatus:
        """Raises Problem."""
        services = (await self._administrated.whole()).status.services
        found = next((each for each in services if each.service == fields["service"]), None)
        if found is None:
            raise Problem(404, "not_found", f"there is no service {fields['service']!r}")
        return found


class RunPlans:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def raise_(self, fields: Fields) -> Plan | None:
        status = await self._run(fields)
        if not (fields["by"] or fields["calls"] or fields["minutes"]):
            return None
        run = status.account.removeprefix("run:")
        by = exact_usd(amount(fields["by"])) if fields["by"] else None
        calls, minutes = number(fields["calls"], "calls"), number(fields["minutes"], "minutes")
        more = [
            *((f"${by}",) if by else ()),
            *((f"{calls:,} calls",) if calls else ()),
            *((f"{minutes:,} minutes",) if minutes else ()),
        ]

        def send(given: Confirmed) -> Awaitable[object]:
            change = RaiseRun(run=run, by=by, calls=calls, lasts_ms=minutes * 60_000, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.raise_run(change, f"console-{given.once}"))

        options = (
            *(("--by", by) if by else ()),
            *(("--calls", str(calls)) if calls else ()),
            *(("--lasts", f"{minutes}m") if minutes else ()),
        )
        return Plan(
            says=f"The run {run} gets more: {', '.join(more) or 'nothing'}. Calls of it that wait for that go on.",
            done=f"The run {run} got {', '.join(more)} more.",
            command=("runs", "raise", run, *options),
            send=send,
            back=f"{BASE}/runs",
            tag=status.tag or None,
            is_hard=True,
        )

    async def resume(self, fields: Fields) -> Plan:
        status = await self._run(fields)
        run = status.account.removeprefix("run:")

        def send(given: Confirmed) -> Awaitable[object]:
            change = ResumeRun(run=run, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.resume_run(change))

        return Plan(
            says=f"The run {run}, which is held as a runaway, goes on; what it did so far counts no more towards that.",
            done=f"The run {run} goes on.",
            command=("runs", "resume", run),
            send=send,
            back=f"{BASE}/runs",
            tag=status.tag or None,
        )

    async def end(self, fields: Fields) -> Plan:
        status = await self._run(fields)
        run = status.account.removeprefix("run:")

        def send(given: Confirmed) -> Awaitable[object]:
            change = EndRun(run=run, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.end_run(change))

        return Plan(
            says=f"No further call of the run {run} begins: those that wait are denied, and what was not sent is taken "
            "back.",
            done=f"The run {run} is ended.",
            command=("runs", "end", run),
            send=send,
            back=f"{BASE}/runs",
            tag=status.tag or None,
            is_hard=True,
        )

    async def _run(self, fields: Fields) -> AccountStatus:
        """Raises Problem."""
        return await self._administrated.account(f"run:{fields['run']}")
