"""The administration's endpoints: one table, of which the routes are made and the OpenAPI document."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster.errors import AdminRefused, AdminStale, LedgerNotFound
from paymaster.gateway.admin import documents, wanted
from paymaster.gateway.admin.asked import Answer, Asked
from paymaster.gateway.admin.budgets import BudgetEndpoints
from paymaster.gateway.admin.caps import CapEndpoints
from paymaster.gateway.admin.clients import ClientEndpoints
from paymaster.gateway.admin.configuration import ConfigurationEndpoints
from paymaster.gateway.admin.prices import PriceEndpoints
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.services import RunEndpoints, ServiceEndpoints
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.unconfirmed import UnconfirmedEndpoints
from paymaster.gateway.admin.who import Admins
from paymaster.gateway.asked import Refused
from paymaster.gateway.reading import CallerGone, check_headers, read_body
from paymaster.settings import GatewaySettings
from paymaster.storage.engine import DATABASE_ERRORS

BASE = "/v1/paymaster/admin"
_CALLER_GONE = 499
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    method: Literal["GET", "PUT", "DELETE"]
    path: str
    """Below `BASE`, in Starlette's way."""
    summary: str
    answers: type[BaseModel]
    takes: type[BaseModel] | None = None
    is_paged: bool = False
    is_tagged: bool = False
    """Its answer has an ETag, and a change takes `If-Match`."""
    or_answers: type[BaseModel] | None = None
    takes_reason: bool = False
    """In the query, because it takes no body."""


def _caps(name: str, path: str, of: str) -> dict[str, Endpoint]:
    """Of one cap, and by the names of what answers it."""
    answers = documents.CapDocument
    return {
        name: Endpoint("GET", path, f"The cap of a {of} in a window", answers, is_tagged=True),
        f"put_{name}": Endpoint(
            "PUT", path, f"Set the cap of a {of} in a window", answers, wanted.CapWanted, is_tagged=True
        ),
        f"delete_{name}": Endpoint(
            "DELETE",
            path,
            f"Take back what admins made of a {of}'s cap: the configuration's counts",
            answers,
            is_tagged=True,
            takes_reason=True,
        ),
    }


ENDPOINTS: Mapping[str, Endpoint] = {
    "ledger": Endpoint("GET", "/ledger", "The ledger as a whole", documents.LedgerDocument),
    "budgets": Endpoint("GET", "/budgets", "Budgets and how they stand", documents.BudgetPage, is_paged=True),
    "budget": Endpoint("GET", "/budgets/{budget:path}", "One budget", documents.BudgetDocument, is_tagged=True),
    **_caps("cap", "/caps/{window}/{budget:path}", "budget"),
    **_caps("service_cap", "/services/{service}/caps/{window}", "service"),
    "raise": Endpoint(
        "PUT",
        "/raises/{raise_id}",
        "Raise the cap of a budget or a service, or a run's limits, once for each id",
        documents.CapDocument,
        wanted.RaiseWanted,
        is_tagged=True,
        or_answers=documents.RunDocument,
    ),
    "changes": Endpoint("GET", "/changes", "Who changed caps, configuration and prices", documents.ChangePage),
    "services": Endpoint("GET", "/services", "Services and how they stand", documents.ServicePage),
    "service": Endpoint("GET", "/services/{service}", "One service", documents.ServiceDocument, is_tagged=True),
    "pause": Endpoint(
        "PUT",
        "/services/{service}",
        "Pause a service, or let it go on",
        documents.ServiceDocument,
        wanted.ServiceWanted,
        is_tagged=True,
    ),
    "runs": Endpoint("GET", "/runs", "Runs with limits that somebody uses now", documents.RunPage, is_paged=True),
    "run": Endpoint("GET", "/runs/{run:path}", "One run", documents.RunDocument, is_tagged=True),
    "end": Endpoint(
        "PUT",
        "/runs/{run:path}",
        "End a run, or let one go on that is held",
        documents.RunDocument,
        wanted.RunWanted,
        is_tagged=True,
    ),
    "unconfirmed": Endpoint(
        "GET", "/unconfirmed", "Attempts that may or may not have been billed", documents.UnconfirmedPage
    ),
    "resolve": Endpoint(
        "PUT",
        "/unconfirmed/{attempt:path}",
        "Say what an unconfirmed attempt did cost",
        documents.ResolvedDocument,
        wanted.ResolveWanted,
    ),
    "configuration": Endpoint(
        "GET",
        "/configuration",
        "The configuration in force, and what the gateway's file would change",
        documents.ConfigurationDocument,
    ),
    "prices": Endpoint("GET", "/prices", "Prices in force", documents.PricesDocument),
    "newer_prices": Endpoint(
        "GET", "/prices/newer", "What the newest list of prices would change", documents.NewerPricesDocument
    ),
    "bring_prices": Endpoint(
        "PUT",
        "/prices",
        "Bring the newest list of prices to the workers",
        documents.PricesDocument,
        wanted.PricesWanted,
    ),
    "clients": Endpoint("GET", "/clients", "Clients of the database", documents.ClientPage),
    "client": Endpoint("GET", "/clients/{name}", "One client", documents.ClientDocument),
    "make": Endpoint(
        "PUT",
        "/clients/{name}",
        "Make a client; its key is told once",
        documents.ClientDocument,
        wanted.ClientWanted,
    ),
    "revoke": Endpoint("DELETE", "/clients/{name}", "Revoke a client's key", documents.ClientDocument),
}
"""By the name of what answers it."""


class AdminEndpoints:
    def __init__(self, settings: GatewaySettings, admins: Admins, site: AdminSite) -> None:
        self._settings = settings
        self._admins = admins
        budgets, services, runs = BudgetEndpoints(site), ServiceEndpoints(site), RunEndpoints(site)
        clients, caps = ClientEndpoints(site), CapEndpoints(site)
        unconfirmed, prices = UnconfirmedEndpoints(site), PriceEndpoints(site)
        self._answers: dict[str, Callable[[Asked], Awaitable[Answer]]] = {
            "ledger": budgets.ledger,
            "budgets": budgets.all,
            "budget": budgets.one,
            "cap": caps.one,
            "put_cap": caps.put,
            "delete_cap": caps.delete,
            "service_cap": caps.one,
            "put_service_cap": caps.put,
            "delete_service_cap": caps.delete,
            "raise": caps.raise_,
            "changes": budgets.changes,
            "services": services.all,
            "service": services.one,
            "pause": services.pause_or_resume,
            "runs": runs.all,
            "run": runs.one,
            "end": runs.end_or_resume,
            "unconfirmed": unconfirmed.all,
            "resolve": unconfirmed.resolve,
            "configuration": ConfigurationEndpoints(site).in_force,
            "prices": prices.in_force,
            "newer_prices": prices.newer,
            "bring_prices": prices.bring,
            "clients": clients.all,
            "client": clients.one,
            "make": clients.make,
            "revoke": clients.revoke,
        }

    def routes(self) -> list[Route]:
        return [
            Route(f"{BASE}{each.path}", self._served(name, self._answers[name]), methods=[each.method])
            for name, each in ENDPOINTS.items()
        ]

    def _served(
        self, name: str, answer: Callable[[Asked], Awaitable[Answer]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            began, who = time.monotonic(), "-"
            try:
                check_headers(request, self._settings)
                admin = await self._admins.of(request.headers)
                who = admin.name
                body = await read_body(request, self._settings)
                given = await answer(
                    Asked(admin, request.path_params, request.query_params, body, request.headers.get("if-match"))
                )
                response = _json(given)
            except CallerGone:
                response = Response(status_code=_CALLER_GONE)
            except Exception as error:
                response = problem_of(error).response()
                response.headers["connection"] = "close"
            took_s = round(time.monotonic() - began, 3)
            logger.info("admin %s %d", name, response.status_code, extra={"admin": who, "took_s": took_s})
            return response

        return endpoint


def _json(answer: Answer) -> Response:
    headers = {"cache-control": "no-store"} | ({} if answer.tag is None else {"etag": f'"{answer.tag}"'})
    text = answer.document.model_dump_json()
    return Response(text, answer.status, headers, media_type="application/json")


def problem_of(error: Exception) -> Problem:
    """How whoever asked is told of it."""
    match error:
        case Problem():
            return error
        case Refused(reason="bodies_full"):
            return Problem(503, "unavailable", error.detail)
        case Refused():
            return Problem(
                413 if "large" in error.reason or "long" in error.reason else 400, "bad_request", error.detail
            )
        case AdminStale():
            return Problem(412, "stale", str(error))
        case AdminRefused():
            return Problem(409, "refused", str(error))
        case LedgerNotFound():
            return Problem(503, "unavailable", str(error))
        case _ if isinstance(error, DATABASE_ERRORS):
            logger.warning("the database did not answer the administration: %s", error)
            return Problem(503, "unavailable", "the database does not answer: ask again")
        case _:
            logger.error("internal error", exc_info=error)
            return Problem(500, "internal_error", "the gateway failed; its log says why")
