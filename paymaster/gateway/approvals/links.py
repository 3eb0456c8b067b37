"""Links of alerts: to open one asks, and only to send its form raises, since chat programs open links by themselves."""

import logging
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from paymaster.gateway.approvals.pages import HEADERS, NAME_CHARACTERS_MAX, question_page, told_page
from paymaster.gateway.approvals.raising import Raising
from paymaster.gateway.approvals.refused import status_of
from paymaster.gateway.asked import Refused
from paymaster.gateway.reading import CallerGone, check_headers, read_body
from paymaster.keys.api_key import KeyUnavailable
from paymaster.observability.alert_buttons import APPROVE_PATH
from paymaster.observability.alert_forms import offer_in_words
from paymaster.security.raise_tokens import OfferedRaise, TokenRefused
from paymaster.settings import GatewaySettings
from paymaster.values.money import format_usd

BODY_BYTES_MAX = 4 * 1024
_STATUS = {"raised": 200, "refused": 409, "unknown": 503}
_TITLE = {"raised": "Raised", "refused": "Not raised", "unknown": "Not known"}
logger = logging.getLogger(__name__)


class _NoRaise(Exception):
    """What a link does not do, as a page."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class ApproveLinks:
    def __init__(self, settings: GatewaySettings, raising: Raising) -> None:
        self._settings = settings.model_copy(update={"body_bytes_max": min(settings.body_bytes_max, BODY_BYTES_MAX)})
        self._raising = raising

    def routes(self) -> list[Route]:
        path = f"{APPROVE_PATH}{{token}}"
        return [Route(path, self._ask, methods=["GET"]), Route(path, self._approve, methods=["POST"])]

    async def _ask(self, request: Request) -> Response:
        try:
            offered, approver = await self._offered(request)
        except _NoRaise as error:
            return _page(told_page("Not raised", error.text), error.status)
        sentence = offer_in_words(offered)
        button = f"Raise by {format_usd(offered.by_nanos)}"
        return _page(question_page(f"{sentence[0].upper()}{sentence[1:]}", approver, button), 200)

    async def _approve(self, request: Request) -> Response:
        try:
            body = await read_body(request, self._settings)
            offered, approver = await self._offered(request)
        except Refused as error:
            return _page(told_page("Not raised", error.detail), status_of(error))
        except CallerGone:
            return Response(status_code=400)
        except _NoRaise as error:
            return _page(told_page("Not raised", error.text), error.status)
        where = f"link, from {'?' if request.client is None else request.client.host}"
        name = _name(body)
        reason = f"calls are parked; whoever it was wrote: {name}" if name else "calls are parked"
        outcome = await self._raising.carry_out(offered, approver, where, reason)
        logger.info("a press of a link of %s: %s", approver, outcome.kind)
        return _page(told_page(_TITLE[outcome.kind], outcome.text), _STATUS[outcome.kind])

    async def _offered(self, request: Request) -> tuple[OfferedRaise, str]:
        """With the approver in whose name. Raises _NoRaise."""
        try:
            check_headers(request, self._settings)
            offered = await self._raising.offered(request.path_params["token"])
        except Refused as error:
            raise _NoRaise(status_of(error), error.detail) from None
        except TokenRefused as error:
            raise _NoRaise(403, f"The link is not good: {error}.") from None
        except KeyUnavailable as error:
            logger.error("a link of an alert: %s", error)
            raise _NoRaise(503, "The gateway lacks the secret of links; its log says more.") from None
        approver = self._raising.approver_by_link(offered)
        if approver is None:
            raise _NoRaise(403, f"No approver of [approvals] has by_link for such a raise of {offered.budget}.")
        return offered, approver


def _name(body: bytes) -> str:
    """What was written into the form, which anybody can."""
    try:
        found = parse_qs(body.decode(), max_num_fields=5).get("name", [""])[0]
    except ValueError:
        return ""
    return "".join(each for each in found if each.isprintable()).strip()[:NAME_CHARACTERS_MAX]


def _page(text: str, status: int) -> Response:
    return HTMLResponse(text, status, HEADERS)
