"""Presses of buttons that Slack sends: known by Slack's signature, taken at once, and told about when they are done."""

import logging
import time
from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
from pydantic import BaseModel, Field, JsonValue, ValidationError
from slack_sdk.signature import Clock, SignatureVerifier
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from paymaster.gateway.approvals.raising import Outcome, Raising
from paymaster.gateway.approvals.refused import status_of
from paymaster.gateway.asked import Refused
from paymaster.gateway.reading import CallerGone, check_headers, read_body
from paymaster.keys.api_key import KeyUnavailable
from paymaster.ledger.approving import Keys
from paymaster.observability.alert_forms import RAISE_ACTION, slack_text
from paymaster.providers.proxies import proxy_for
from paymaster.settings import GatewaySettings
from paymaster.settings.kinds import is_loopback

PATH = "/v1/paymaster/slack/actions"
BODY_BYTES_MAX = 256 * 1024
"""A press has the whole message in it: some 10 KB."""
OLDEST_S = 300
"""Slack's requests are signed with their time, and older ones are refused; the verifier sees to it."""
_SIGNED_BY = ("x-slack-request-timestamp", "x-slack-signature")
ANSWERED_WITHIN_S = 5.0
"""By Slack, when it is told what became of a press."""
logger = logging.getLogger(__name__)


class _User(BaseModel):
    id: str


class _Action(BaseModel):
    action_id: str
    value: Annotated[str, Field(max_length=2_000)]


class _Message(BaseModel):
    blocks: tuple[dict[str, JsonValue], ...] = ()


class Press(BaseModel):
    """What Slack sends when somebody presses a button."""

    type: Literal["block_actions"]
    user: _User
    actions: Annotated[tuple[_Action, ...], Field(min_length=1, max_length=1)]
    response_url: str
    message: _Message = _Message()


class _GivenClock(Clock):
    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now = now_s


class SlackActions:
    def __init__(
        self, settings: GatewaySettings, raising: Raising, keys: Keys, now_s: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings.model_copy(update={"body_bytes_max": min(settings.body_bytes_max, BODY_BYTES_MAX)})
        self._slack = settings.slack
        self._raising = raising
        self._keys = keys
        self._now_s = now_s
        self._seen: dict[str, float] = {}
        """Signatures of the last minutes, with when they came: each is taken once."""

    def routes(self) -> list[Route]:
        return [Route(PATH, self._press, methods=["POST"])]

    async def _press(self, request: Request) -> Response:
        """Answers before anything is done: Slack waits for three seconds."""
        try:
            check_headers(request, self._settings)
            body = await read_body(request, self._settings)
        except Refused as error:
            return PlainTextResponse(error.detail, status_of(error))
        except CallerGone:
            return Response(status_code=400)
        name = self._slack.signing_secret_key
        if name is None:
            return PlainTextResponse("gateway.slack.signing_secret_key is not set", 404)
        try:
            secret = (await self._keys.get(name)).reveal()
        except KeyUnavailable as error:
            logger.error("a press in Slack: %s", error)
            return PlainTextResponse("the gateway lacks its signing secret", 503)
        if not self._is_slacks(secret, body, request):
            return PlainTextResponse("not signed by Slack, or longer than five minutes ago", 401)
        if not self._is_new(request.headers["x-slack-signature"]):
            return PlainTextResponse("this request came before", 409)
        try:
            press = _read(body)
            self._check_answers_to(press.response_url)
        except ValueError as error:
            logger.warning("Slack sent what is no press of ours: %s", type(error).__name__)
            return PlainTextResponse("no press of a button of an alert", 400)
        return Response(background=BackgroundTask(self._carry_out, press))

    def _is_slacks(self, secret: str, body: bytes, request: Request) -> bool:
        if any(len(request.headers.getlist(name)) != 1 for name in _SIGNED_BY):
            return False  # of several the verifier looks at another one than who remembers what came before
        verifier = SignatureVerifier(secret, _GivenClock(self._now_s))
        try:
            return verifier.is_valid_request(body, request.headers)
        except (ValueError, TypeError):  # a time that is no number, a body or a signature that is no text
            return False

    def _is_new(self, signature: str) -> bool:
        now_s = self._now_s()
        self._seen = {each: at_s for each, at_s in self._seen.items() if now_s - at_s <= 2 * OLDEST_S}
        if signature in self._seen:
            return False
        self._seen[signature] = now_s
        return True

    def _check_answers_to(self, url: str) -> None:
        """Raises ValueError for a host that is not Slack's."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
        if host not in self._slack.answers_to or not is_safe:
            raise ValueError("response_url leads elsewhere")

    async def _carry_out(self, press: Press) -> None:
        outcome = await self._raising.press_in_slack(press.actions[0].value, press.user.id)
        logger.info("a press in Slack by %s: %s", press.user.id, outcome.kind)
        try:
            async with httpx.AsyncClient(
                timeout=ANSWERED_WITHIN_S, proxy=proxy_for(press.response_url), trust_env=False
            ) as client:
                answer = await client.post(press.response_url, json=answer_of(press, outcome))
            if not answer.is_success:
                logger.warning("Slack does not take the answer to a press: HTTP %d", answer.status_code)
        except httpx.HTTPError as error:  # its own text may have the URL, by which others could answer
            logger.warning("Slack does not take the answer to a press: %s", type(error).__name__)


def answer_of(press: Press, outcome: Outcome) -> JsonValue:
    """A raise takes the place of the buttons, for everybody; anything else only who pressed sees."""
    text = slack_text(outcome.text)
    if outcome.kind != "raised":
        return {"response_type": "ephemeral", "replace_original": False, "text": text}
    said: JsonValue = {"type": "section", "text": {"type": "mrkdwn", "text": text}}
    kept: list[JsonValue] = [block for block in press.message.blocks if block.get("type") != "actions"]
    return {"replace_original": True, "text": text, "blocks": [*kept, said]}


def _read(body: bytes) -> Press:
    """Raises ValueError."""
    found = parse_qs(body.decode(), max_num_fields=10, strict_parsing=True).get("payload", [])
    if len(found) != 1:
        raise ValueError("no payload")
    try:
        press = Press.model_validate_json(found[0])
    except ValidationError:
        raise ValueError("another payload") from None
    if not press.actions[0].action_id.startswith(RAISE_ACTION):
        raise ValueError("another button")
    return press
