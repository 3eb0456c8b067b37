"""The console's addresses: who may open them, what a form must prove, and what is said when something fails."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from temporalio.service import RPCError

from paymaster.console.actions import Actions
from paymaster.console.budgets import BudgetPages
from paymaster.console.changes import ChangePages
from paymaster.console.lately import ShownLately
from paymaster.console.opened import Opened
from paymaster.console.pages import BASE, SECURITY_HEADERS, Pages, View
from paymaster.console.parked import ParkedPages
from paymaster.console.people import NoRole, People, Person, TooManyGuesses
from paymaster.console.services import RunPages, ServicePages
from paymaster.console.sessions import Sessions
from paymaster.console.usage import UsagePages
from paymaster.errors import AdminRefused, AdminStale, LedgerNotFound
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.asked import Refused
from paymaster.gateway.reading import CallerGone, check_headers, read_body
from paymaster.ledger.approving import Approvers
from paymaster.observability.temporal_links import TemporalLinks
from paymaster.settings import Settings
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.status_rows import CopiedLedger

Handler = Callable[[Opened], Awaitable[View]]
HOME = f"{BASE}/budgets"
_FORM_BYTES_MAX = 20_000
PAGES_AT_ONCE = 3
"""That are made, while others wait for their turn: calls need the database's connections and the event loop too."""
_WITHIN = re.compile(r"/console/[A-Za-z0-9/._~%?&=+,:@!*()-]{0,1500}")
"""Where a login may lead: a page of the console, which begins with its path, so that no other host is named."""
_NAVIGATION = (
    ("budgets", "Budgets"),
    ("parked", "Parked"),
    ("services", "Services"),
    ("runs", "Runs"),
    ("calls", "Calls"),
    ("usage", "Usage"),
    ("changes", "Changes and alerts"),
)
_CALLER_GONE = 499
_UNKNOWN = "Nobody knows whether it was carried out: look before you repeat it."
logger = logging.getLogger(__name__)


class ConsoleSite:
    def __init__(
        self, settings: Settings, sessions: Sessions, people: People, administrated: AdminSite, approvers: Approvers
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._people = people
        self._administrated = administrated
        self._approvers = approvers
        self._pages = Pages()
        self._turns = asyncio.Semaphore(PAGES_AT_ONCE)

    def routes(self) -> list[Route]:
        site = self._administrated
        links = TemporalLinks(self._settings.console.temporal_ui, site.ledger.namespace)
        lately = ShownLately(site.engine, site.ledger.name)
        budgets, usage = BudgetPages(site, lately), UsagePages(site, links)
        actions = Actions(site, self._approvers, signs=self._settings.admin.require_signature)
        gets: list[tuple[str, Handler]] = [
            ("/budgets", budgets.all),
            ("/budgets/{budget:path}", budgets.one),
            ("/parked", ParkedPages(site, links, lately).all),
            ("/services", ServicePages(site, lately).all),
            ("/runs", RunPages(site).all),
            ("/calls", usage.calls),
            ("/usage", usage.usage),
            ("/changes", ChangePages(site).all),
            ("/do/{action}", actions.ask),
        ]
        return [
            Route(BASE, self._home, methods=["GET"]),
            Route(f"{BASE}/", self._home, methods=["GET"]),
            Route(f"{BASE}/login", self._login_page, methods=["GET"]),
            Route(f"{BASE}/login", self._log_in, methods=["POST"]),
            Route(f"{BASE}/logout", self._log_out, methods=["POST"]),
            Route(f"{BASE}/static/{{name}}", self._static, methods=["GET"]),
            *(Route(f"{BASE}{path}", self._opened(handler), methods=["GET"]) for path, handler in gets),
            Route(f"{BASE}/do/{{action}}", self._opened(actions.do), methods=["POST"]),
            Route(f"{BASE}/{{rest:path}}", self._opened(_no_such_page), methods=["GET", "POST"]),
        ]

    # -------------------------------------------------------- every page

    def _opened(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The handler for people who may look, behind its checks."""

        async def endpoint(request: Request) -> Response:
            began, person = time.monotonic(), None
            try:
                check_headers(request, self._settings.gateway)
                person = self._people.of(request)
                if person is None:
                    response = self._to_login(request)
                else:
                    form = await self._form(request)
                    if request.method == "POST":
                        self._check_form(request, person, form)
                    opened = Opened(person, request.path_params, request.query_params, form, datetime.now(UTC))
                    response = await self._made(request, handler, opened)
            except CallerGone:
                response = Response(status_code=_CALLER_GONE)
            except Exception as error:
                response = await self._failed(request, error, person)
            who, took_s = "-" if person is None else person.name, round(time.monotonic() - began, 3)
            path = quote(request.scope["path"])  # as it was sent: a terminal would obey what control characters say
            logger.info("console %s %s %d", request.method, path, response.status_code, extra={"who": who, "s": took_s})
            return response

        return endpoint

    async def _made(self, request: Request, handler: Handler, opened: Opened) -> Response:
        if request.method == "POST":  # an action may wait for a ledger that does not answer
            return await self._shown(request, await handler(opened), opened.person)
        async with self._turns:
            return await self._shown(request, await handler(opened), opened.person)

    async def _shown(self, request: Request, view: View, person: Person | None) -> Response:
        return self._pages.response(view, await self._shared(request, person))

    async def _shared(self, request: Request, person: Person | None) -> dict[str, object]:
        """What every page shows. Nobody who is not let in is told how the ledger stands."""
        path = request.scope["path"]
        return {
            "person": person,
            "form_token": "" if person is None else self._sessions.form_token(person.session_id),
            "ledger_name": self._settings.ledger.name,
            "ledger": None if person is None else await self._ledger(),
            "navigation": [(f"{BASE}/{name}", title, path.startswith(f"{BASE}/{name}")) for name, title in _NAVIGATION],
            "now": datetime.now(UTC),
            "now_ms": int(time.time() * 1_000),
            "is_live": False,
        }

    async def _ledger(self) -> CopiedLedger | None:
        try:
            return await self._administrated.copy.ledger()
        except DATABASE_ERRORS:
            return None

    async def _failed(self, request: Request, error: Exception, person: Person | None) -> Response:
        status, title, detail = _told(error)
        view = View("problem.html", {"title": title, "detail": detail, "status": status}, status)
        response = await self._shown(request, view, person)
        if request.method == "POST":
            response.headers["connection"] = "close"  # what is left of its body is not read
        return response

    # -------------------------------------------------------- forms

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of the form that was sent, the last of each name. Raises Refused."""
        if request.method != "POST":
            return {}
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Problem(415, "bad_request", "a form is sent as application/x-www-form-urlencoded")
        bounds = self._settings.gateway.model_copy(
            update={"body_bytes_max": min(_FORM_BYTES_MAX, self._settings.gateway.body_bytes_max)}
        )
        body = await read_body(request, bounds)
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=False, max_num_fields=100))
        except ValueError:
            raise Problem(400, "bad_request", "the form cannot be read") from None

    def _check_form(self, request: Request, person: Person, form: Mapping[str, str]) -> None:
        """Raises Problem for a form that is not from a page of this person's."""
        _check_origin(request)
        if not self._sessions.is_form_token(form.get("token", ""), person.session_id):
            detail = "this form is of another login or of another page; open the page again and repeat what you did"
            raise Problem(403, "not_allowed", detail)

    # -------------------------------------------------------- who

    async def _home(self, request: Request) -> Response:
        return _redirect(HOME)

    def _to_login(self, request: Request) -> Response:
        if request.method != "GET":
            return _redirect(f"{BASE}/login")
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return _redirect(f"{BASE}/login?next={quote(path, safe='')}")

    async def _login_page(self, request: Request) -> Response:
        try:
            if self._people.of(request) is not None:
                return _redirect(_within(request.query_params.get("next")))
        except NoRole as error:
            return await self._failed(request, error, None)
        return await self._shown(request, self._login_view(request.query_params.get("next")), None)

    def _login_view(self, to: str | None, wrong: str = "", status: int = 200) -> View:
        shows = {"next": _within(to), "wrong": wrong, "by_key": self._people.log_in_by_key}
        return View("login.html", shows, status)

    async def _log_in(self, request: Request) -> Response:
        try:
            check_headers(request, self._settings.gateway)
            _check_origin(request)
            form = await self._form(request)
            token = self._people.log_in(request, form.get("key", ""))
        except TooManyGuesses as error:
            response = await self._shown(request, self._login_view(None, str(error), 429), None)
            response.headers["retry-after"] = str(round(error.wait_s) + 1)
            return response
        except CallerGone:
            return Response(status_code=_CALLER_GONE)
        except Exception as error:
            return await self._failed(request, error, None)
        if token is None:
            address = "-" if request.client is None else request.client.host
            logger.warning("console: a wrong key", extra={"address": address})
            view = self._login_view(form.get("next"), "This is no key of the console.", 403)
            return await self._shown(request, view, None)
        response = _redirect(_within(form.get("next")))
        self._set_cookie(request, response, token)
        return response

    async def _log_out(self, request: Request) -> Response:
        try:
            person = self._people.of(request)
            if person is not None:
                self._check_form(request, person, await self._form(request))
        except Exception as error:
            return await self._failed(request, error, None)
        self._people.log_out(request)
        response = _redirect(f"{BASE}/login")
        self._set_cookie(request, response, None)
        return response

    def _set_cookie(self, request: Request, response: Response, token: str | None) -> None:
        """`token` None: the cookie is taken away."""
        name, tls_only = self._people.cookie(request)
        response.set_cookie(
            name,
            token or "",
            max_age=0 if token is None else self._sessions.lasts_s,
            path="/",
            secure=tls_only,
            httponly=True,
            samesite="strict",
        )

    async def _static(self, request: Request) -> Response:
        asset = self._pages.assets.get(request.path_params["name"])
        if asset is None:
            return Response(status_code=404, headers=dict(SECURITY_HEADERS))
        kept = asset.version == request.query_params.get("v")
        headers = {"cache-control": "public, max-age=31536000, immutable" if kept else "no-cache", **SECURITY_HEADERS}
        return Response(asset.content, 200, headers, media_type=asset.media_type)


async def _no_such_page(opened: Opened) -> View:
    raise Problem(404, "not_found", "the console has no such page")


def _within(address: str | None) -> str:
    """The address, where it is one of the console's own, else its first page."""
    return address if address is not None and _WITHIN.fullmatch(address) else HOME


def _redirect(to: str) -> Response:
    return RedirectResponse(to, 303, {"cache-control": "no-store", **SECURITY_HEADERS})


def _check_origin(request: Request) -> None:
    """Raises Problem for a form that a browser sends from a page of somebody else's. No browser sends none of these."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if (site is not None and site != "same-origin") or (site is None and not own):
        raise Problem(403, "not_allowed", "a form was sent from a page that is not the console's")


def _told(error: Exception) -> tuple[int, str, str]:
    """The status, a title and what to do."""
    match error:
        case Problem():
            titles = {403: "This is not allowed", 404: "Not found", 503: "Nothing to show yet"}
            return error.status, titles.get(error.status, "This cannot be done"), error.detail
        case NoRole():
            return 403, "You are not let in", str(error)
        case Refused():
            return 400, "This cannot be read", error.detail
        case AdminStale():
            return 409, "Somebody was faster", str(error)
        case AdminRefused():
            return 409, "The ledger refused", str(error)
        case LedgerNotFound():
            unknown = "" if error.command_id is None else f". {_UNKNOWN}"
            return 503, "The ledger does not answer", f"{error}{unknown}"
        case RPCError():
            logger.warning("Temporal did not answer the console: %s", error)
            return 503, "Temporal does not answer", _UNKNOWN
        case _ if isinstance(error, DATABASE_ERRORS):
            logger.warning("the database did not answer the console: %s", error)
            return (
                503,
                "The database does not answer",
                "What is shown is read from the database. Calls go on without it.",
            )
        case _:
            logger.error("internal error", exc_info=error)
            return 500, "The console failed", "The gateway's log says why."
