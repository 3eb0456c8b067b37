"""What an answer other than success means: one table, one pure function.

| class                 | billed  | same service again | next candidate | breaker | alert |
|-----------------------|---------|--------------------|----------------|---------|-------|
| rate_limited          | no      | after its wait     | if too long, and at once where the limit is the model's | | |
| overloaded            | no      | yes                | then           | yes     |       |
| server_error          | no, or unknown without the provider's own body | yes; Google's INTERNAL once | then | yes | |
| timeout               | unknown | under a new hold   | then           | yes     |       |
| bad_sample            | unknown | under a new hold   | then           |         |       |
| quota_exhausted       | no      | no                 | yes            | yes     | yes   |
| auth                  | no      | no                 | yes            | yes     | yes   |
| model_not_found       | no      | no                 | yes            |         | yes   |
| exceeds_rate_limit    | no      | no                 | yes            |         |       |
| context_too_long      | no      | no                 | a larger one   |         |       |
| content_filtered      | no      | no                 | if so set      |         |       |
| invalid_request       | no      | no                 | yes            |         |       |

The body's codes and words come before the status, because providers say several things with one status. Never by the
error's `type` alone: a bad key and an empty balance are both `invalid_request_error` at some of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pydantic import JsonValue

from paymaster import messages
from paymaster.messages import Billing
from paymaster.providers.retry_after import wait_asked_ms
from paymaster.values.json_reading import list_of, object_of, read_json, text_of

DAY_MS = 86_400_000
MESSAGE_SEARCHED = 4_096
"""Characters of a provider's message that are searched for what it means."""
MODEL_LENGTH_MIN = 4
"""A shorter name may be a part of any word."""
ERROR_TYPE_HEADER = "x-amzn-errortype"
"""Where AWS says what went wrong, as a name that a colon and an address may follow."""
CODES_MAX = 100
"""Of one error; the rest is not looked at."""
CODE_LENGTH_MAX = 200


class ErrorClass(NamedTuple):
    """What to do about an error."""

    name: str
    billing: Billing
    retry: bool = False
    """The service is asked again, under the same hold. Only where nothing was billed."""
    fall_back: bool = True
    """The next candidate of the route may do better. What one model or service refuses, another may take."""
    trips_breaker: bool = False
    """The service's fault: so many in a row open its breaker."""
    alert: bool = False
    """Somebody must act: pay, change the key or the configuration."""
    of_model: bool = False
    """What was reached is a limit of the model's: others of the service may be called."""
    pauses: bool = False
    """For as long as the answer asks for, nothing is sent there, by other calls neither."""
    attempts_max: int | None = None
    """Not more attempts under one hold than this. None: as many as the service's policy says."""


RATE_LIMITED = ErrorClass("rate_limited", Billing.NOT_BILLED, retry=True, pauses=True)
RATE_LIMITED_MODEL = RATE_LIMITED._replace(retry=False, of_model=True)
"""Under a new hold, for which the ledger chooses a candidate: this one when its wait is over."""
OVERLOADED = ErrorClass("overloaded", Billing.NOT_BILLED, retry=True, trips_breaker=True)
SERVER_ERROR = ErrorClass("server_error", Billing.NOT_BILLED, retry=True, trips_breaker=True)
GOOGLE_INTERNAL = SERVER_ERROR._replace(attempts_max=2)
"""Google says so also when the input is too long, which does not pass."""
SERVER_ERROR_UNKNOWN = ErrorClass("server_error", Billing.UNKNOWN, trips_breaker=True)
TIMEOUT = ErrorClass("timeout", Billing.UNKNOWN, trips_breaker=True)
BAD_SAMPLE = ErrorClass(messages.BAD_SAMPLE, Billing.UNKNOWN)
QUOTA = ErrorClass("quota_exhausted", Billing.NOT_BILLED, trips_breaker=True, alert=True)
QUOTA_OF_MODEL = QUOTA._replace(trips_breaker=False, of_model=True)
AUTH = ErrorClass("auth", Billing.NOT_BILLED, trips_breaker=True, alert=True)
MODEL_NOT_FOUND = ErrorClass("model_not_found", Billing.NOT_BILLED, alert=True)
EXCEEDS_RATE_LIMIT = ErrorClass("exceeds_rate_limit", Billing.NOT_BILLED)
STATE_REFUSED = ErrorClass("state_refused", Billing.NOT_BILLED)
"""What was kept of a model's thoughts cannot be read here, or something before it was changed."""
CONTEXT_TOO_LONG = ErrorClass(messages.CONTEXT_TOO_LONG, Billing.NOT_BILLED)
CONTENT_FILTERED = ErrorClass("content_filtered", Billing.NOT_BILLED, fall_back=False)
_MAY_ASK_FOR_DAYS = (RATE_LIMITED, QUOTA, OVERLOADED)
"""Of which a wait of a day or more is a pause with an alert."""
INVALID_REQUEST = ErrorClass("invalid_request", Billing.NOT_BILLED)
UNEXPECTED = ErrorClass("unexpected_status", Billing.NOT_BILLED)


class _Rule(NamedTuple):
    """Holds when everything that it names is there."""

    error_class: ErrorClass
    statuses: frozenset[int] | None = None
    codes: tuple[str, ...] = ()
    """Of which the body's codes, types, reasons or quota ids have one, in lower case. Empty: whatever they are."""
    code_part: str | None = None
    """One of them has this in it."""
    message: tuple[str, ...] = ()
    """Phrases of which one is in the body's message, in lower case; "…" stands for anything between. Empty: whatever it
    says."""
    wait: bool | None = None
    """Whether the answer says how long to wait."""


# In this order: the first rule that holds decides.
_RULES = (
    _Rule(RATE_LIMITED, codes=("openrouter_in_flight_budget",)),
    _Rule(
        QUOTA,
        codes=(
            "insufficient_quota",
            "enforced_spend_limit_reached",
            "contract_spend_limit_reached",
            "billing_error",
            "servicequotaexceeded",
            "servicequotaexceededexception",
        ),
    ),
    _Rule(QUOTA, code_part="perday"),
    _Rule(QUOTA, frozenset({400}), message=("credit balance is too low", "reached your specified … api usage limits")),
    _Rule(RATE_LIMITED, frozenset({429}), code_part="perminute"),
    _Rule(QUOTA, frozenset({429}), message=("too many tokens per day",)),
    _Rule(QUOTA, frozenset({429}), message=("check your plan and billing",), wait=False),
    _Rule(EXCEEDS_RATE_LIMIT, frozenset({413}), codes=("rate_limit_exceeded",)),
    _Rule(EXCEEDS_RATE_LIMIT, frozenset({429}), message=("request too large",)),
    _Rule(CONTEXT_TOO_LONG, frozenset({400, 413}), codes=("context_length_exceeded", "exceed_context_size_error")),
    _Rule(
        CONTEXT_TOO_LONG,
        frozenset({400, 413}),
        message=(
            "prompt is too long",
            "maximum context length",
            "exceeds the maximum number of tokens",
            "input is too long",
        ),
    ),
    _Rule(STATE_REFUSED, frozenset({400}), codes=("invalid_encrypted_content",)),
    _Rule(
        STATE_REFUSED,
        frozenset({400}),
        message=(
            "invalid `signature` in `",
            "blocks in the latest assistant message cannot be modified",
            "the encrypted content … could not be",
            "invalid thought signature",
            "corrupted thought signature",
            "of type 'reasoning' was provided without its required",
            "property 'reasoning' is unsupported",
            "reasoning_content' is unsupported",
            "].reasoning: reasoning is not supported",
        ),
    ),
    _Rule(
        AUTH,
        codes=(
            "api_key_invalid",
            "invalid_api_key",
            "organization_on_hold",
            "expiredtokenexception",
            "incompletesignatureexception",
            "unrecognizedclientexception",
        ),
    ),
    _Rule(
        CONTENT_FILTERED,
        codes=(
            "content_filter",
            "responsibleaipolicyviolation",
            "bio_policy",
            "misalignment_policy_violation",
            "content_policy_violation",
            "image_content_policy_violation",
        ),
    ),
    _Rule(CONTENT_FILTERED, frozenset({403}), message=("moderation",)),
    _Rule(
        MODEL_NOT_FOUND,
        codes=(
            "model_not_found",
            "deploymentnotfound",
            "not_found_error",
            "not_found",
            "invalid_model",
            "model_decommissioned",
            "model_deprecated",
            "model_not_available",
            "model_not_active",
            "model_terms_required",
        ),
    ),
    _Rule(
        MODEL_NOT_FOUND,
        frozenset({400, 403}),
        message=(
            "model identifier is invalid",
            "on-demand throughput isn",
            "have access to the model with the specified model id",
        ),
    ),
    _Rule(BAD_SAMPLE, codes=("tool_use_failed",)),
    _Rule(OVERLOADED, codes=("overloaded_error", "capacity_exceeded", "service_tier_capacity_exceeded")),
    _Rule(OVERLOADED, codes=("modelnotreadyexception",)),
    _Rule(SERVER_ERROR, codes=("modelerrorexception", "modelstreamerrorexception")),
    _Rule(OVERLOADED, message=("service tier capacity exceeded",)),
    _Rule(GOOGLE_INTERNAL, frozenset({500}), codes=("internal",)),
)
_BY_STATUS = {
    400: INVALID_REQUEST,
    401: AUTH,
    402: QUOTA,
    403: AUTH,
    404: MODEL_NOT_FOUND,
    405: INVALID_REQUEST,
    408: TIMEOUT,
    409: SERVER_ERROR,
    410: MODEL_NOT_FOUND,
    413: CONTEXT_TOO_LONG,
    415: INVALID_REQUEST,
    422: INVALID_REQUEST,
    429: RATE_LIMITED,
    498: OVERLOADED,
    502: SERVER_ERROR_UNKNOWN,
    504: TIMEOUT,
    529: OVERLOADED,
}
_WITH_OWN_BODY = {500: SERVER_ERROR, 503: OVERLOADED}


class HttpError(NamedTuple):
    error_class: ErrorClass
    message: str
    """The provider's own words, or the start of the body."""
    retry_after_ms: int | None
    """What the server asked for. None: it did not say, or waiting does not help."""


def classify(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_ms: int,
    model: str = "",
    errors_billed: bool = False,
    within_200: bool = False,
) -> HttpError:
    """The meaning of an answer whose status is not 2xx. Header names are in lower case.

    A 500 or 503 with the provider's own error body came from the provider, which did not bill it (unless its
    configuration says `errors_billed`); without one a proxy on the way may have cut off a call that was.

    `model`: that was asked. A limit is the model's where the answer says so or names it, and how long to wait.

    `within_200`: the error came inside an answer 200, as this status; by then work was done, which may be billed.
    """
    error = _error_object(body)
    message = provider_message(error)
    text = message or body[:300].decode(errors="replace")
    searched = (message or "")[:MESSAGE_SEARCHED].lower()
    wait_ms = wait_asked_ms(status, headers, error, searched, now_ms)
    codes = _lower_codes(error, headers)
    decided = _by_body(status, codes, searched, wait_ms)
    error_class = decided or _by_status(status, own=message is not None)
    if error_class in _MAY_ASK_FOR_DAYS:
        of_model = _is_of_model(codes, searched, model.lower())
        if wait_ms is not None and wait_ms >= DAY_MS:
            error_class = _asked_for_days(error_class, of_model=of_model)
        elif of_model and error_class == QUOTA:
            error_class = QUOTA_OF_MODEL
        elif of_model and error_class == RATE_LIMITED and wait_ms:
            error_class = RATE_LIMITED_MODEL
    wish = headers.get("x-should-retry", "").lower()
    if wish == "false" or within_200 or (errors_billed and status >= 500):
        error_class = error_class._replace(retry=False)
    elif wish == "true" and decided is None and error_class.billing is Billing.NOT_BILLED:
        error_class = error_class._replace(retry=True)
    if within_200 or (errors_billed and status >= 500):
        error_class = error_class._replace(billing=Billing.UNKNOWN)
    helps = error_class.name not in (QUOTA.name, EXCEEDS_RATE_LIMIT.name) or (wait_ms or 0) >= DAY_MS
    return HttpError(error_class, f"HTTP {status}: {text}", wait_ms if helps else None)


def _asked_for_days(error_class: ErrorClass, *, of_model: bool) -> ErrorClass:
    """It is paused for as long: a breaker would have it probed all the time."""
    name = QUOTA.name if error_class == RATE_LIMITED else error_class.name
    return ErrorClass(name, Billing.NOT_BILLED, alert=True, of_model=of_model, pauses=True)


def _by_body(status: int, codes: Sequence[str], message: str, wait_ms: int | None) -> ErrorClass | None:
    for rule in _RULES:
        if (
            (rule.statuses is None or status in rule.statuses)
            and (not rule.codes or any(code in rule.codes for code in codes))
            and (rule.code_part is None or any(rule.code_part in code for code in codes))
            and (not rule.message or any(_says(message, phrase) for phrase in rule.message))
            and (rule.wait is None or rule.wait == (wait_ms is not None))
        ):
            return rule.error_class
    return None


def _is_of_model(codes: Sequence[str], message: str, model: str) -> bool:
    return any("permodel" in code for code in codes) or (len(model) >= MODEL_LENGTH_MIN and model in message)


def _lower_codes(error: JsonValue, headers: Mapping[str, str]) -> list[str]:
    of_header = headers.get(ERROR_TYPE_HEADER, "").partition(":")[0]
    return [code[:CODE_LENGTH_MAX].lower() for code in (of_header, *islice(_codes(error), CODES_MAX))]


def _says(message: str, phrase: str) -> bool:
    at = 0
    for part in phrase.split("…"):
        found_at = message.find(part, at)
        if found_at < 0:
            return False
        at = found_at + len(part)
    return True


def _by_status(status: int, *, own: bool) -> ErrorClass:
    known = _BY_STATUS.get(status) or (_WITH_OWN_BODY.get(status) if own else None)
    return known or (SERVER_ERROR_UNKNOWN if status >= 500 else UNEXPECTED)


# ---------------------------------------------------------------- the body


def _error_object(body: bytes) -> JsonValue:
    """The provider's error: below `error` (an object or a text), the whole body, or the only item of a list."""
    try:
        data = read_json(body)
    except ValueError:
        return None
    if isinstance(data, list):
        data = data[0] if data else None
    return data.get("error") or data if isinstance(data, dict) else None


def provider_message(error: JsonValue) -> str | None:
    """The message in a provider's error, or None when the body is none of a provider's own."""
    if isinstance(error, str):
        return text_of(error)
    fields = object_of(error)
    said = fields.get("message") or fields.get("detail")
    if isinstance(said, list):  # Mistral's list of what is wrong with the request
        said = "; ".join(text for text in (text_of(object_of(item).get("msg")) for item in said) if text)
    return text_of(said)


def request_id_in(body: bytes) -> str | None:
    """The request's id in an error body, for the providers that do not (always) send it as a header."""
    try:
        return text_of(object_of(read_json(body)).get("request_id"))
    except ValueError:
        return None


def _codes(error: JsonValue) -> Iterator[str]:
    """Everything in the error that is a word for programs."""
    fields = object_of(error)
    for place in (
        fields,
        object_of(fields.get("innererror")),
        object_of(fields.get("details")),
        object_of(fields.get("metadata")),
    ):
        for name in ("code", "type", "status", "reason", "error_code", "limit_source", "error_type"):
            value = text_of(place.get(name))
            if value:
                yield value
    for detail in map(object_of, list_of(fields.get("details"))):
        yield text_of(detail.get("reason")) or ""
        for violation in list_of(detail.get("violations")):
            yield text_of(object_of(violation).get("quotaId")) or ""
