"""The gateway's ASGI application, made of its parts."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from paymaster.gateway.admin.endpoints import BASE, AdminEndpoints
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.who import Admins
from paymaster.gateway.answered import response_of
from paymaster.gateway.approvals.links import ApproveLinks
from paymaster.gateway.approvals.raising import Raising
from paymaster.gateway.approvals.slack import SlackActions
from paymaster.gateway.body_room import BodyRoom, RoomForBodies
from paymaster.gateway.clients import Clients
from paymaster.gateway.endpoints import Endpoints, dialect_spoken
from paymaster.gateway.streams import Streams
from paymaster.ledger.approving import Approvers, Keys
from paymaster.ledger.handle import Ledger
from paymaster.settings import Settings
from paymaster.wire.refusals import refusal


def gateway_app(
    settings: Settings,
    clients: Clients,
    temporal: Client,
    streams: Streams,
    keys: Keys,
    engine: AsyncEngine | None = None,
    pages: Sequence[Route] = (),
) -> Starlette:
    """Everything that the gateway answers on its public address. `engine` None: there is no database. `pages`: for
    people."""
    ledger = Ledger(temporal, settings.ledger.name)
    raising = Raising(Approvers(settings.approvals, keys, ledger.name), ledger, settings.alerts.buttons_key, keys)
    presses = [
        *SlackActions(settings.gateway, raising, keys).routes(),
        *ApproveLinks(settings.gateway, raising).routes(),
    ]
    administration: list[Route] = []
    if engine is not None:
        site = AdminSite(settings, ledger, engine)
        administration = AdminEndpoints(settings.gateway, Admins(settings.gateway.admins, clients), site).routes()
    calls = Endpoints(settings, clients, temporal, streams, engine).routes()
    app = Starlette(
        routes=[*administration, *pages, *presses, *calls],
        exception_handlers={HTTPException: _not_served},
        middleware=[Middleware(RoomForBodies, room=BodyRoom(settings.gateway.bodies_bytes_max))],
    )
    app.router.redirect_slashes = False
    return app


async def _not_served(request: Request, error: Exception) -> Response:
    """A path, or a method, that the gateway does not have, in the words of whoever asks."""
    assert isinstance(error, HTTPException)  # that is what it is called for
    where = f"{request.method} {request.url.path}"
    is_method = error.status_code == 405
    if f"{request.url.path}/".startswith(f"{BASE}/"):
        name = "method_not_allowed" if is_method else "not_found"
        response = Problem(error.status_code, name, f"{where} is no request of the administration").response()
    elif is_method:
        response = response_of(refusal(dialect_spoken(request), "method_not_allowed", f"{where} is not served"))
    else:
        said = f"{where} is no call of an LLM and nothing else here"
        response = response_of(refusal(dialect_spoken(request), "no_such_path", said))
    response.headers.update(error.headers or {})
    return response
