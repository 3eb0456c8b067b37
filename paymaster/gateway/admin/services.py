"""Services and runs, and what admins do to them."""

from paymaster.gateway.admin.asked import Answer, Asked, command
from paymaster.gateway.admin.documents import RunPage, ServicePage, run_document, service_document
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.wanted import RunWanted, ServiceWanted
from paymaster.messages import EndRun, PauseService, ResumeRun, ResumeService


class ServiceEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def all(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        status = (await self._administrated.whole()).status
        keys = [f"service:{each.service}" for each in status.services]
        found = await self._administrated.copy.accounts(keys)
        accounts = {} if found is None else {each.account: each for each in found.accounts}
        documents = (service_document(each, accounts.get(f"service:{each.service}")) for each in status.services)
        return Answer(ServicePage(items=tuple(documents)))

    async def one(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        return await self._told(asked.path["service"])

    async def pause_or_resume(self, asked: Asked) -> Answer:
        asked.admin.check("services")
        name, wanted, ledger = asked.path["service"], asked.read(ServiceWanted), self._administrated.ledger
        said = asked.said(wanted)
        if wanted.paused:
            answer = ledger.pause_service(command(PauseService, service=name, **said))
        else:
            answer = ledger.resume_service(command(ResumeService, service=name, **said))
        await self._administrated.carry_out(answer)
        return await self._told(name)

    async def _told(self, name: str) -> Answer:
        services = (await self._administrated.whole()).status.services
        service = next((each for each in services if each.service == name), None)
        if service is None:
            known = ", ".join(each.service for each in services)
            raise Problem(404, "not_found", f"there is no service {name!r}; there are: {known}")
        found = await self._administrated.copy.accounts([f"service:{name}"])
        account = found.accounts[0] if found is not None and found.accounts else None
        return Answer(service_document(service, account), service.tag)


class RunEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def all(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        found = await self._administrated.page("run", asked.after, asked.limit)
        items = tuple(run_document(each, each.run) for each in found if each.run is not None)
        return Answer(RunPage(items=items, next=items[-1].run if len(items) == asked.limit else None))

    async def one(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        return await self._told(asked.path["run"])

    async def end_or_resume(self, asked: Asked) -> Answer:
        asked.admin.check("runs")
        run, wanted, ledger = asked.path["run"], asked.read(RunWanted), self._administrated.ledger
        said = asked.said(wanted)
        if (wanted.ended is None) == (wanted.held is None):
            raise Problem(400, "bad_request", "say either `ended: true` or `held: false`")
        if wanted.ended:
            answer = ledger.end_run(command(EndRun, run=run, **said))
        else:
            answer = ledger.resume_run(command(ResumeRun, run=run, **said))
        await self._administrated.carry_out(answer)
        return await self._told(run)

    async def _told(self, run: str) -> Answer:
        status = await self._administrated.account(f"run:{run}")
        assert status.run is not None  # the key says it
        return Answer(run_document(status, status.run), status.tag)
