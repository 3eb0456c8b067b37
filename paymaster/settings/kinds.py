"""Kinds of values in the configuration: durations, names, URLs, and what they may be."""

import ipaddress
import re
from base64 import b64decode
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    WithJsonSchema,
)

from paymaster.messages.temporal_names import PURCHASE_WORKFLOW_PREFIX
from paymaster.settings.time_zones import check_time_zone
from paymaster.values.budget_path import BUDGET_PATH, BUDGET_TABLE, check_budget_path, check_budget_table
from paymaster.values.durations import DURATION, duration_from_input, format_duration
from paymaster.values.key_name import KEY_NAME, check_key_name
from paymaster.values.limits import ALERT_PARTS_MAX, MODEL_CHARACTERS_MAX

AWS_CREDENTIALS = "aws://default"
"""What the keys are asked for where a service takes AWS's own credentials of where it runs."""
GOOGLE_TOKENS = "google://"
"""What the keys are asked for where a service takes tokens of Google Cloud: this, and the name of the key that has the
service account's file, or nothing for who we are where it runs."""
ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"

_PUBLIC_KEY_BYTES = 32  # of Ed25519

_LEDGER_NAME = r"[a-z0-9-]{1,64}"
_NAME = r"[a-z0-9][a-z0-9-]{0,63}"
_ENDPOINT_NAME = r"[A-Za-z][A-Za-z0-9-]{0,198}[A-Za-z0-9]"  # as Temporal has them
_ADMIN_NAME = r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}"
_FACTOR = r"[0-9]{1,3}(\.[0-9]{1,9})?"
_FACTOR_MAX = 100


def split_candidate(candidate: str) -> tuple[str, str]:
    """The service and the model of "service/model". The model may contain slashes. Raises ValueError."""
    service, slash, model = candidate.partition("/")
    if not (service and slash and model):
        raise ValueError(f'{candidate!r} names no model; write "service/model"')
    return service, model


def format_factor(factor: Decimal) -> str:
    """Exact text, which is read as this factor again."""
    return f"{factor:f}"


def _factor_from_input(value: object) -> Decimal:
    """Floats are refused: 0.85 has no exact binary form. 0 would take every cap away."""
    written = format_factor(value) if isinstance(value, Decimal) else str(value) if isinstance(value, str | int) else ""
    if not re.fullmatch(_FACTOR, written, re.ASCII) or not 0 < Decimal(written) <= _FACTOR_MAX:
        raise ValueError(
            f'not a factor; write it as text, like "0.85": more than 0, at most {_FACTOR_MAX}, at most nine decimals'
        )
    return Decimal(written)


def _instant_from_input(value: object) -> datetime:
    """A date is its first moment in UTC. Raises ValueError for a time without a zone."""
    try:
        if isinstance(value, str):
            value = date.fromisoformat(value) if len(value) == len("2026-12-01") else datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a time; {_HOW_INSTANTS_ARE_WRITTEN}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"the time's zone is missing; {_HOW_INSTANTS_ARE_WRITTEN}")
    return value.astimezone(UTC)


_HOW_INSTANTS_ARE_WRITTEN = "write 2026-12-01 (from midnight UTC on) or 2026-12-01T08:00:00+01:00"


def not_a_boolean(value: object) -> object:
    # Python takes true for 1.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _alert_parts(parts: tuple[float, ...]) -> tuple[float, ...]:
    """In rising order, each once."""
    each = tuple(sorted(set(parts)))
    if len(each) > ALERT_PARTS_MAX:
        raise ValueError(
            f"there are {len(each)} parts and may be {ALERT_PARTS_MAX}: a few that people act on are enough"
        )
    return each


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is in the list twice; name each key once")
    return names


def check_object_name(name: str) -> str:
    """A name such as "package.module:object". Raises ValueError."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ValueError(f'{name!r} names nothing in Python; write "module:object", such as "acme.temporal:codec"')
    return name


def check_ledger_name(name: str) -> str:
    """A name as `ledger.name` takes it. Raises ValueError."""
    if not re.fullmatch(_LEDGER_NAME, name):
        raise ValueError(f'{name[:80]!r} is no ledger name: write 1 to 64 of a-z, 0-9 and "-"')
    return name


def check_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError('not a name: write 1 to 64 of a-z, 0-9 and "-", the first one not "-"')
    return name


def _check_endpoint_name(name: str) -> str:
    if not re.fullmatch(_ENDPOINT_NAME, name):
        raise ValueError(
            "not a Nexus endpoint's name: write 2 to 200 letters, digits and '-', a letter first, '-' not last"
        )
    if f"{name}/" == PURCHASE_WORKFLOW_PREFIX:
        raise ValueError("the ids of its calls would begin as those of purchases do: give the endpoint another name")
    return name


def _check_admin_name(name: str) -> str:
    if not re.fullmatch(_ADMIN_NAME, name):
        raise ValueError('not a name: write 1 to 64 of letters, digits, "@", ".", "_" and "-", like "alice"')
    return name


def _check_public_key(key: str) -> str:
    """The key, if it can be one. The message does not repeat it: it may be the private one, in the wrong place."""
    try:
        if len(b64decode(key, validate=True)) == _PUBLIC_KEY_BYTES:
            return key
    except ValueError:
        pass
    raise ValueError("not a public key: write the line that `paymaster admin new-key FILE` printed")


def _check_model(name: str) -> str:
    if len(name) > MODEL_CHARACTERS_MAX:
        raise ValueError(f"a model's name has at most {MODEL_CHARACTERS_MAX} characters, this one has {len(name)}")
    if not name or not name.isprintable() or name != name.strip():
        raise ValueError("not the name of a model: write it as the service's API names it")
    return name


def check_http_url(url: str, *, allow_http: bool) -> str:
    """The URL without a slash at its end. Messages do not repeat the URL: it may hold a secret in the wrong place."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the URL has a space or a character outside printable ASCII; write it percent-encoded")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError('not a URL; write one like "https://api.openai.com/v1"') from None
    if parts.scheme not in ("https", "http") or not host:
        raise ValueError('not an http(s) URL; write one like "https://api.openai.com/v1"')
    if "@" in parts.netloc:
        raise ValueError("the URL holds credentials; remove them, and give the NAME of a key in `key`")
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ValueError(
            "http:// sends prompts and keys unencrypted and is accepted only for this machine (127.0.0.1, localhost); "
            "write https://, or set allow_http = true if the network in between is yours"
        )
    return url.rstrip("/")


def check_tls_files(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise ValueError("tls_certificate and tls_key belong together; set both, or neither")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?", origin):
            raise ValueError(
                f'{origin!r} is no origin; write scheme, host and port in lower case, like "https://temporal.example.com"'
            )
    return origins


class SecretText(SecretStr):
    """Text that prints as stars and cannot be pickled; the value only by `get_secret_value()`."""

    def __getstate__(self) -> object:
        raise TypeError("a secret cannot be stored; pass the configuration's file name instead")

    def __deepcopy__(self, memo: object) -> Self:
        return self  # immutable, and a deep copy would ask for the state


def check_address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (host and colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65_536):
        raise ValueError('not an address; write a host and a port, like "127.0.0.1:8000"')
    return address


def check_collector_url(url: str) -> str:
    """http:// is what a collector in the same network takes; no key goes there."""
    url = check_http_url(url, allow_http=True)
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.path.endswith(("/v1/traces", "/v1/metrics")):
        raise ValueError('write what comes before /v1/traces, like "http://127.0.0.1:4318"')
    return url


def check_database_url(url: SecretText) -> SecretText:
    """The URL with the driver that we use: hosting services hand out `postgres://` and `postgresql://`."""
    scheme, separator, rest = url.get_secret_value().partition("://")
    if scheme not in ("postgresql+asyncpg", "postgresql", "postgres") or not separator or not rest:
        raise ValueError('not a PostgreSQL URL; write it like "postgresql+asyncpg://user:password@host:5432/paymaster"')
    return SecretText(f"postgresql+asyncpg://{rest}")


def check_azure_url(url: str) -> str:
    url = check_http_url(url, allow_http=False)
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.path or parts.query or parts.fragment:
        raise ValueError('write https:// and the host alone, like "https://example.vault.azure.net"')
    return url


def region_of(host: str) -> str | None:
    """The AWS region in the name of one of Bedrock's hosts; None where there is none."""
    found = re.search(r"(?:^|\.)bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.", host)
    return None if found is None else found[1]


def check_scope(scope: str) -> str:
    if not re.fullmatch(r"https://[!-~]{1,200}", scope):
        raise ValueError('not a scope; write it like "https://cognitiveservices.azure.com/.default"')
    return scope


def check_list_url(url: str) -> str:
    return check_http_url(url, allow_http=False)


def check_gateway_url(url: str) -> str:
    url = check_http_url(url, allow_http=False)
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError('write what comes before /v1, like "https://paymaster.example.com"')
    return url


def check_webhook_url(url: SecretText) -> SecretText:
    return SecretText(check_http_url(url.get_secret_value(), allow_http=False))


def _text(pattern: str, **more: object) -> WithJsonSchema:
    """How a value is written in `paymaster.toml`, for editors. The mode is that of values as text: only
    `settings/schema` asks for it."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", **more}, mode="serialization")


Duration = Annotated[
    timedelta,
    BeforeValidator(duration_from_input),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    _text(DURATION),
]
"""Written as text with a unit ("500ms", "30s", "15m", "24h", "7d"): more than zero, at most 366d."""

Factor = Annotated[
    Decimal,
    BeforeValidator(_factor_from_input),
    PlainSerializer(format_factor, return_type=str, when_used="json"),
    WithJsonSchema({"type": ["string", "integer"], "pattern": f"^{_FACTOR}$", "minimum": 1}, mode="serialization"),
]
"""Written as exact text ("0.85"): more than 0, at most 100, at most nine decimals."""

Instant = Annotated[
    datetime,
    BeforeValidator(_instant_from_input),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({}, mode="serialization"),  # TOML's own dates and times, and text
]
"""A date, or a time with its zone; held in UTC."""

LedgerName = Annotated[str, AfterValidator(check_ledger_name), _text(_LEDGER_NAME)]

ServiceName = Annotated[str, AfterValidator(check_name), _text(_NAME)]

RouteName = Annotated[str, AfterValidator(check_name), _text(_NAME)]

ClientName = Annotated[str, AfterValidator(check_name), _text(_NAME)]

EndpointName = Annotated[str, AfterValidator(_check_endpoint_name), _text(_ENDPOINT_NAME)]

ModelName = Annotated[str, AfterValidator(_check_model), _text(r"\S(.*\S)?")]

WireKey = Annotated[str, _text(r"[A-Za-z0-9_.-]{1,100}")]

BudgetPath = Annotated[str, AfterValidator(check_budget_path), _text(BUDGET_PATH)]

BudgetTable = Annotated[str, AfterValidator(check_budget_table), _text(BUDGET_TABLE)]
"""A budget path, or a template for all budgets at one place."""

KeyName = Annotated[str, AfterValidator(check_key_name), _text(KEY_NAME)]

AzureName = Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,100}$")]

AdminName = Annotated[str, AfterValidator(_check_admin_name), _text(_ADMIN_NAME)]

PublicKey = Annotated[str, AfterValidator(_check_public_key), _text(r"[A-Za-z0-9+/]{43}=")]

TimeZone = Annotated[str, AfterValidator(check_time_zone), _text(r"[A-Za-z0-9_+/-]{1,60}")]
"""A name of the tz database."""

AtLeastOne = Annotated[int, BeforeValidator(not_a_boolean), Field(ge=1)]

Api = Literal[
    "openai", "openai-responses", "anthropic", "gemini", "azure-openai", "bedrock", "vertex-gemini", "vertex-claude"
]

Fraction = Annotated[float, BeforeValidator(not_a_boolean), Field(gt=0, le=1)]

AlertParts = Annotated[
    tuple[Fraction, ...],
    AfterValidator(_alert_parts),
    Field(json_schema_extra={"maxItems": ALERT_PARTS_MAX}),
]
