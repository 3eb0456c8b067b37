"""What the gateway answers: calls in the dialects of the providers, lists of models, and how it is."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import ParamSpec, TypeVar

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from temporalio.client import Client
from temporalio.service import RPCError

from paymaster.gateway.answered import response_of
from paymaster.gateway.asked import AskedCall, Refused, asked_call, check_route
from paymaster.gateway.clients import Clients, ClientTerms, NotAClient
from paymaster.gateway.connections import when_cut
from paymaster.gateway.counted import count_document, counted_request, is_googles_count
from paymaster.gateway.live import LiveCalls, LiveResponse, may_stream
from paymaster.gateway.measured import active_request, measure_request
from paymaster.gateway.models import described, listed, names_for
from paymaster.gateway.once import CALLS_PATH, Once
from paymaster.gateway.openapi import openapi_document
from paymaster.gateway.reading import (
    CallerGone,
    body_was_read,
    check_headers,
    drain,
    let_go,
    read_body,
    while_connected,
)
from paymaster.gateway.standing import standing_of
from paymaster.gateway.streams import Streams
from paymaster.ledger.copied_status import CopiedStatus
from paymaster.messages.wire import Dialect
from paymaster.settings import Settings
from paymaster.wire.refusals import Told, refusal
from paymaster.wire_requests import TemporalUnreachable, counted_by_client

Handler = Callable[[Request, ClientTerms], Awaitable[Response]]
"""Answers a request of a client. Raises Refused, TemporalUnreachable and CallerGone."""

P = ParamSpec("P")
T = TypeVar("T")
_READ_AT_ONCE_BYTES = 256 * 1024
"""Of a body that is read where it is: it takes a few milliseconds."""
_HEALTH_WITHIN = timedelta(seconds=2)
_ANSWERED = range(200, 300)
_CALLER_GONE = 499
"""What proxies write into their logs; nobody gets it."""
logger = logging.getLogger(__name__)


class Endpoints:
    def __init__(
        self,
        settings: Settings,
        clients: Clients,
        temporal: Client,
        streams: Streams,
        engine: AsyncEngine | None,
    ) -> None:
        self._copy = None if engine is None else CopiedStatus(engine, settings.ledger.name)
        self._settings = settings
        self._gateway = settings.gateway
        self._clients = clients
        self._temporal = temporal
        self._once = Once(temporal, engine, settings.ledger.name)
        self._live = LiveCalls(streams, temporal, self._once)
        self._in_flight = Counter[str]()

    def routes(self) -> list[Route]:
        """Each path with what answers it; the gateway has no others."""
        posts: list[tuple[str, Dialect]] = [
            *((f"{base}/chat/completions", "openai") for base in ("/v1", "", "/openai/v1")),
            *((f"{base}/responses", "openai-responses") for base in ("/v1", "", "/openai/v1")),
            *((f"{base}/embeddings", "openai-embeddings") for base in ("/v1", "", "/openai/v1")),
            ("/openai/deployments/{name}/chat/completions", "openai"),
            ("/openai/deployments/{name}/embeddings", "openai-embeddings"),
            ("/v1/messages", "anthropic"),
        ]
        counts: list[tuple[str, Dialect]] = [
            ("/v1/messages/count_tokens", "anthropic"),
            *((f"{base}/responses/input_tokens", "openai-responses") for base in ("/v1", "", "/openai/v1")),
        ]
        googles: list[tuple[str, Dialect]] = [
            ("/v1beta/models/{name:path}", "gemini"),
            ("/v1/models/{name:path}", "gemini"),
        ]
        return [
            Route("/healthz", self._healthz, methods=["GET"]),
            Route(f"{CALLS_PATH}/{{call_id}}", self._served(None, self._fetched), methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/v1/paymaster/budget", self._served(None, self._budget), methods=["GET"]),
            *(Route(path, self._served(dialect, self._call), methods=["POST"]) for path, dialect in posts),
            *(
                Route(path, self._served(dialect, partial(self._count, dialect)), methods=["POST"])
                for path, dialect in counts
            ),
            *(Route(path, self._served(dialect, self._googles), methods=["POST"]) for path, dialect in googles),
            *(Route(path, self._no_websocket, methods=["GET"]) for path in ("/v1/responses", "/responses")),
            *(
                Route(f"{base}/models{name}", self._served(None, self._models), methods=["GET"])
                for base in ("/v1", "", "/openai/v1", "/v1beta")
                for name in ("", "/{name:path}")
            ),
        ]

    # -------------------------------------------------------- every request

    def _served(self, dialect: Dialect | None, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The handler for clients only, whose refusals and failures are told in the dialect. `dialect` None: that of
        the caller's SDK."""

        async def endpoint(request: Request) -> Response:
            began, speaks, name = time.monotonic(), dialect or dialect_spoken(request), "-"
            try:
                check_headers(request, self._gateway)
                client = await self._clients.of(request.headers)
                name = client.name
                with ExitStack() as lasting:
                    lasting.enter_context(self._one_more_of(client))
                    lasting.enter_context(active_request(request.method))
                    response = await handler(request, client)
                    if isinstance(response, LiveResponse):
                        live = response
                        lasting.callback(lambda: _log(request, name, live, time.monotonic() - began))
                        live.lasting.push(lasting.pop_all())
                        return live
            except CallerGone:
                response = Response(status_code=_CALLER_GONE)
            except Exception as error:
                response = response_of(self._told(error, speaks))
                if not body_was_read(request) and not await drain(request, self._gateway.body_bytes_max):
                    response.headers["connection"] = "close"
            _log(request, name, response, time.monotonic() - began)
            return response

        return endpoint

    def _told(self, error: Exception, dialect: Dialect) -> Told:
        match error:
            case Refused():
                return refusal(dialect, error.reason, error.detail)
            case NotAClient():
                return refusal(dialect, error.reason, error.detail, status=error.status)
            case TemporalUnreachable():
                logger.warning("%s", error)
                return refusal(dialect, "temporal_unreachable", "Temporal cannot be reached")
            case _:
                logger.error("internal error", exc_info=error)
                return refusal(dialect, "internal_error", "the gateway failed; its log says why")

    @contextmanager
    def _one_more_of(self, client: ClientTerms) -> Generator[None]:
        """Raises Refused."""
        at_once = client.requests_at_once or self._gateway.requests_at_once
        if self._in_flight[client.name] >= at_once:
            raise Refused("too_many_at_once", f"the client {client.name} has {at_once} requests in flight already")
        self._in_flight[client.name] += 1
        try:
            yield
        finally:
            self._in_flight[client.name] -= 1
            if not self._in_flight[client.name]:
                del self._in_flight[client.name]

    # -------------------------------------------------------- one each

    async def _call(self, request: Request, client: ClientTerms) -> Response:
        asked = await self._asked(request, client)
        streams = not asked.detached and asked.request.wire is not None and may_stream(asked.request.wire)
        async with self._once.call(asked, client) as call:
            del asked  # with its body, which may be stored now
            if call.is_stored:
                let_go(request)
            if streams:
                answer = await self._live.answer(request, call)
            else:
                answer = await while_connected(request, call.told(self._gateway.wait_at_most))
            call.is_told = True
        if isinstance(answer, LiveResponse) or answer.status in _ANSWERED:
            when_cut(request, partial(self._once.lost, call))
        return answer if isinstance(answer, LiveResponse) else response_of(answer)

    async def _asked(self, request: Request, client: ClientTerms) -> AskedCall:
        body = await read_body(request, self._gateway)
        within = self._gateway.wait_at_most
        return await _beside(body, asked_call, target_of(request), request.headers, body, client, within)

    async def _fetched(self, request: Request, client: ClientTerms) -> Response:
        """What became of one of the client's calls."""
        found = await self._once.found(request.path_params["call_id"], client, dialect_spoken(request))
        return response_of(found)

    async def _googles(self, request: Request, client: ClientTerms) -> Response:
        """Google's methods share one path."""
        counts = is_googles_count(request.url.path)
        return await (self._count("gemini", request, client) if counts else self._call(request, client))

    async def _count(self, dialect: Dialect, request: Request, client: ClientTerms) -> Response:
        """How many tokens a request would have: a worker asks for it, since it has the keys."""
        body = await read_body(request, self._gateway)
        counted = await _beside(body, counted_request, target_of(request), body, dialect)
        within = self._gateway.wait_at_most
        asked = await _beside(body, asked_call, counted.target, request.headers, counted.body, client, within)
        count = await while_connected(request, counted_by_client(self._temporal, asked.request))
        if count.tokens is None:
            raise Refused("not_counted", count.detail)
        return _json(count_document(count.tokens, dialect))

    async def _models(self, request: Request, client: ClientTerms) -> Response:
        """All that the client may name, or the one that the path names."""
        dialect, names = dialect_spoken(request), names_for(client, self._settings)
        name = request.path_params.get("name")
        if name is None:
            return _json(listed(names, dialect))
        if name not in names:
            check_route(name, client)
            raise Refused("unknown_route", f"there is no route, and no service with a model, named {name!r}")
        return _json(described(name, dialect))

    async def _budget(self, request: Request, client: ClientTerms) -> Response:
        return await standing_of(client, self._copy)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi_document())

    async def _healthz(self, request: Request) -> Response:
        """Whether calls can be made: Temporal answers."""
        try:
            serving = await self._temporal.service_client.check_health(timeout=_HEALTH_WITHIN)
        except (RPCError, RuntimeError):  # RuntimeError: it has never been reached
            serving = False
        return JSONResponse({"status": "ok" if serving else "no Temporal"}, status_code=200 if serving else 503)

    async def _no_websocket(self, request: Request) -> Response:
        """Codex tries a WebSocket first, and sends what it has as POST after this."""
        response = response_of(refusal("openai-responses", "no_websocket", "there are no WebSockets here: use POST"))
        response.headers["upgrade"] = "HTTP/1.1"
        return response


def dialect_spoken(request: Request) -> Dialect:
    """In whose words an answer is told, where the path does not say it."""
    if "anthropic-version" in request.headers or request.url.path.startswith("/v1/messages"):
        return "anthropic"
    is_googles = "x-goog-api-key" in request.headers or request.url.path.startswith("/v1beta")
    return "gemini" if is_googles else "openai"


def target_of(request: Request) -> str:
    """The request's path and query as they were written."""
    path, query = request.scope["raw_path"].decode("ascii", "replace"), request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


async def _beside(body: bytes, work: Callable[P, T], *of: P.args, **more: P.kwargs) -> T:
    """What the work gives, which reads the body: of a large one beside everything else that the gateway does."""
    if len(body) <= _READ_AT_ONCE_BYTES:
        return work(*of, **more)
    return await asyncio.to_thread(work, *of, **more)


def _json(document: JsonValue) -> Response:
    return Response(json.dumps(document, ensure_ascii=False), media_type="application/json")


def _log(request: Request, client: str, response: Response, took_s: float) -> None:
    route: Route | None = request.scope.get("route")
    path = "-" if route is None else route.path
    measure_request(request.method, path, response.status_code, took_s)
    logger.info(
        "%s %s %d",
        request.method,
        path,
        response.status_code,
        extra={
            "client": client,
            "call_id": response.headers.get("x-paymaster-call-id", "-"),
            "took_s": round(took_s, 3),
        },
    )
