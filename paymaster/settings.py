"""The configuration: `paymaster.toml`, overridden by environment variables `PAYMASTER__…`.

It fails at start, with every problem in one message, the key's path and the fix; and it shows no secret, not even in
that message.

An environment variable names a key by its path with `__` between the parts: `PAYMASTER__DATABASE__URL` is
`database.url`. Our own words are lower-cased. Names of services and routes are lower-cased too, and their `_` becomes
`-`, which few shells allow in a variable: `PAYMASTER__SERVICES__MY_PROXY__TIMEOUT` is `services.my-proxy.timeout`.
Names of models and budgets are taken as they are written. What a shell cannot spell goes into JSON, one level up:
`PAYMASTER__BUDGETS='{"acme/content": {"cap_usd": {"day": "5"}}}'`. A value that begins with `{` or `[` is JSON, every
other value is text. Tables are merged with those of the file, lists replace them, and `null` in JSON takes a key away.

`PAYMASTER_CONFIG` and `PAYMASTER_KEY_…` have one underscore after PAYMASTER and are never read as settings.
"""

import difflib
import ipaddress
import json
import os
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard, cast, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from paymaster.alert_forms import AlertForm
from paymaster.budget_path import check_budget_path
from paymaster.limits import NESTING_MAX
from paymaster.messages import Window
from paymaster.money import Price, UsdAsNanos
from paymaster.security.keys import check_key_name
from paymaster.services.json_reading import message_data
from paymaster.services.retries import JITTER

CONFIG_FILE_DEFAULT = "paymaster.toml"

_PREFIX = "PAYMASTER__"
_ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"
_DURATION_MAX = timedelta(days=366)
_PUBLIC_KEY_BYTES = 32  # of Ed25519
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_HOW_TO_BEGIN = """\
Write one, for example

  [services.local]
  api = "openai"
  base_url = "http://127.0.0.1:8080/v1"

  [routes]
  writer = ["local/the-model"]

or name another file with --config FILE or PAYMASTER_CONFIG=FILE."""

_Location = tuple[int | str, ...]


class ConfigurationError(ValueError):
    """The configuration cannot be used. The message lists every problem with its fix, as `problems` does."""

    def __init__(self, problems: Sequence[str], file: Path | None = None) -> None:
        super().__init__(problems, file)
        self.problems = tuple(problems)
        self.file = file

    def __str__(self) -> str:
        place = f"{self.file}: " if self.file else ""
        if len(self.problems) == 1:
            return place + self.problems[0]
        return f"{place}{len(self.problems)} problems\n" + "\n".join(f"  {problem}" for problem in self.problems)


# ---------------------------------------------------------------- kinds of values


def parse_duration(text: str) -> timedelta:
    """The duration written as a whole number and a unit: "500ms", "30s", "15m", "24h", "7d". Raises ValueError."""
    written = re.fullmatch(r"([0-9]{1,12})(ms|s|m|h|d)", text)
    if written is None:
        raise ValueError(f'{text!r} is not a duration; write a whole number and a unit, like "500ms", "30s" or "24h"')
    number, unit = int(written[1]), _UNITS[written[2]]
    if not 0 < number <= _DURATION_MAX // unit:
        raise ValueError(f"{text!r} is out of range; a duration is more than zero and at most {_DURATION_MAX.days}d")
    return number * unit


def format_duration(duration: timedelta) -> str:
    """The same in the largest unit that divides it: what `parse_duration` reads."""
    unit = next((unit for unit, length in _UNITS.items() if duration % length == timedelta(0)), "ms")
    return f"{duration // _UNITS[unit]}{unit}"


def split_candidate(candidate: str) -> tuple[str, str]:
    """The service and the model of "service/model". The model may contain slashes. Raises ValueError."""
    service, slash, model = candidate.partition("/")
    if not (service and slash and model):
        raise ValueError(f'{candidate!r} names no model; write "service/model"')
    return service, model


def _duration_from_input(value: object) -> timedelta:
    if isinstance(value, timedelta):
        if not timedelta(0) < value <= _DURATION_MAX or value % _UNITS["ms"]:
            raise ValueError(f"a duration is whole milliseconds, more than zero and at most {_DURATION_MAX.days}d")
        return value
    if not isinstance(value, str):
        raise ValueError('write a duration as text with its unit, like "30s"')
    return parse_duration(value)


def _not_a_boolean(value: object) -> object:
    # Python takes true for 1.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _sorted_once(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(set(values)))


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is in the list twice; name each key once")
    return names


def _check_ledger_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
        raise ValueError('not a ledger name: write 1 to 64 of a-z, 0-9 and "-"')
    return name


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise ValueError('not a name: write 1 to 64 of a-z, 0-9 and "-", the first one not "-"')
    return name


def _check_admin_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}", name):
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
    if not name or not name.isprintable() or name != name.strip():
        raise ValueError("not the name of a model: write it as the service's API names it")
    return name


def _check_candidates(candidates: tuple[str, ...]) -> tuple[str, ...]:
    if not candidates:
        raise ValueError('the route is empty; name at least one "service/model"')
    for candidate in candidates:
        split_candidate(candidate)
        if candidates.count(candidate) > 1:
            raise ValueError(f"{candidate!r} is in the route twice; a call tries each candidate once")
    return candidates


def _check_http_url(url: str, *, allow_http: bool) -> str:
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
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        raise ValueError(
            "http:// sends prompts and keys unencrypted and is accepted only for this machine (127.0.0.1, localhost); "
            "write https://, or set allow_http = true if the network in between is yours"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
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


def _check_address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (host and colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65_536):
        raise ValueError('not an address; write a host and a port, like "127.0.0.1:8000"')
    return address


def _check_collector_url(url: str) -> str:
    """http:// is what a collector in the same network takes; no key goes there."""
    url = _check_http_url(url, allow_http=True)
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.path.endswith(("/v1/traces", "/v1/metrics")):
        raise ValueError('write what comes before /v1/traces, like "http://127.0.0.1:4318"')
    return url


def _check_database_url(url: SecretText) -> SecretText:
    """The URL with the driver that we use: hosting services hand out `postgres://` and `postgresql://`."""
    scheme, separator, rest = url.get_secret_value().partition("://")
    if scheme not in ("postgresql+asyncpg", "postgresql", "postgres") or not separator or not rest:
        raise ValueError('not a PostgreSQL URL; write it like "postgresql+asyncpg://user:password@host:5432/paymaster"')
    return SecretText(f"postgresql+asyncpg://{rest}")


def _check_azure_url(url: str) -> str:
    url = _check_http_url(url, allow_http=False)
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.path or parts.query or parts.fragment:
        raise ValueError('write https:// and the host alone, like "https://example.vault.azure.net"')
    return url


def _check_scope(scope: str) -> str:
    if not re.fullmatch(r"https://[!-~]{1,200}", scope):
        raise ValueError('not a scope; write it like "https://cognitiveservices.azure.com/.default"')
    return scope


def _check_webhook_url(url: SecretText) -> SecretText:
    return SecretText(_check_http_url(url.get_secret_value(), allow_http=False))


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration_from_input),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
"""Written as text with a unit ("500ms", "30s", "15m", "24h", "7d"): more than zero, at most 366d."""

LedgerName = Annotated[str, AfterValidator(_check_ledger_name)]
ServiceName = Annotated[str, AfterValidator(_check_name)]
RouteName = Annotated[str, AfterValidator(_check_name)]
ModelName = Annotated[str, AfterValidator(_check_model)]
BudgetPath = Annotated[str, AfterValidator(check_budget_path)]
KeyName = Annotated[str, AfterValidator(check_key_name)]
AzureName = Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,100}$")]
AdminName = Annotated[str, AfterValidator(_check_admin_name)]
PublicKey = Annotated[str, AfterValidator(_check_public_key)]
Candidates = Annotated[tuple[str, ...], AfterValidator(_check_candidates)]
AtLeastOne = Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=1)]
Api = Literal["openai", "openai-responses", "anthropic", "gemini", "azure-openai"]
Fraction = Annotated[float, BeforeValidator(_not_a_boolean), Field(gt=0, le=1)]


# ---------------------------------------------------------------- the tables of the file


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class LedgerSettings(_Table):
    """`[ledger]`: the books, and what happens to a call when the money is gone."""

    name: LedgerName = "default"
    """Which books: the budget workflow is `budget/<name>`. A namespace has one ledger: task queues are not named after
    it, so workers of two would take each other's calls. Default "default"."""
    on_exhausted: Literal["wait", "fail"] = "wait"
    """When the money is gone: "wait" parks the call until a cap is raised or a window ends, "fail" denies it at once.
    A request may choose. Default "wait"."""
    wait_at_most: Duration = timedelta(hours=24)
    """The longest time that a call is parked, then it is denied. Default "24h"."""
    hold_expires_after: Duration = timedelta(minutes=15)
    """A hold that nobody settled in this time is posted at its bound as unconfirmed. Must be longer than the worst case
    of every service's retry policy. Default "15m"."""
    max_parked: AtLeastOne = 2000
    """The most calls parked at once; the next one is denied. Default 2000."""


class AccountSettings(_Table):
    """What any account may have: caps, thresholds and rate limits."""

    cap_usd: dict[Window, UsdAsNanos] = Field(default_factory=dict[Window, int])
    """The most money per window (minute, hour, day, month, total; calendar, UTC), US dollars as exact text; held as
    nano-dollars. "0" blocks. Default {}: no cap, but those of the other accounts of the call count."""
    alert_at: Annotated[tuple[Fraction, ...], AfterValidator(_sorted_once)] = (0.5, 0.8, 0.95)
    """Parts of each cap, above 0 and up to 1, that alert when posted money reaches them. [] alerts never.
    Default [0.5, 0.8, 0.95]."""
    requests_per_minute: AtLeastOne | None = None
    """The most requests per minute. None, the default: no limit."""
    tokens_per_minute: AtLeastOne | None = None
    """The most tokens of input and output per minute. None, the default: no limit."""
    max_concurrent: AtLeastOne | None = None
    """The most calls at once. None, the default: no limit."""


class RetryPolicySettings(_Table):
    """`retry`: Temporal's retry policy for attempts that were certainly not billed."""

    initial_interval: Duration = timedelta(seconds=1)
    """The wait before the second attempt. Default "1s"."""
    backoff_coefficient: Annotated[float, BeforeValidator(_not_a_boolean), Field(ge=1, le=100)] = 2.0
    """Each wait is the one before times this; and every wait is up to a fifth longer, by chance. Default 2.0."""
    maximum_interval: Duration = timedelta(seconds=30)
    """The longest wait of our own; a server's Retry-After may ask for `max_retry_after`. Default "30s"."""
    maximum_attempts: Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=1, le=100)] = 5
    """The most attempts under one hold, the first included; then the next candidate. 1: no retry. Default 5."""


class BreakerSettings(_Table):
    """`breaker`: stops calls to a service that keeps failing."""

    failures: AtLeastOne = 5
    """So many failures in a row open it. Default 5."""
    cooldown: Duration = timedelta(seconds=30)
    """How long it stays open before one call probes the service. Default "30s"."""


class PriceSettings(_Table):
    """`price`: US dollars per million tokens as exact text ("0.20"); held as nano-dollars per million tokens."""

    input: UsdAsNanos
    """Input that no other rate covers. No default."""
    output: UsdAsNanos
    """Output, reasoning included. No default."""
    cached_input: UsdAsNanos | None = None
    """Input read from the provider's cache. None, the default: billed like `input`."""
    cache_write: UsdAsNanos | None = None
    """Input written to the provider's cache. None, the default: billed like `input`."""


class ModelSettings(_Table):
    """`[services.NAME.models."MODEL"]`: adds to or overrides what is known of a model."""

    max_output_tokens: AtLeastOne | None = None
    """The most output tokens of a call, reasoning included. None, the default: 4,096, because without a cap on the
    output no call has a bound."""
    context_tokens: AtLeastOne | None = None
    """The most tokens of input and output together. None, the default: not known here."""
    image_tokens_max: AtLeastOne | None = None
    """The most input tokens that one image can be. None, the default: requests with images are refused, because they
    would have no bound."""
    price: PriceSettings | None = None
    """None, the default: what genai-prices knows; where that is nothing, calls to the model are refused."""

    def price_of(self, source: str) -> Price | None:
        """The price set here, with the source to store beside it. None: none is set here."""
        if self.price is None:
            return None
        return Price(
            input_nanos=self.price.input,
            output_nanos=self.price.output,
            cached_input_nanos=self.price.cached_input,
            cache_write_nanos=self.price.cache_write,
            source=source,
        )


class ServiceSettings(AccountSettings):
    """`[services.NAME]`: something that can be called, with its limits."""

    api: Api
    """The wire format: "openai" (chat completions: OpenAI, Mistral, Groq, DeepSeek, OpenRouter, vLLM, Ollama, llama.cpp
    and others), "openai-responses", "anthropic", "gemini" or "azure-openai". No default."""
    allow_http: bool = False  # before base_url, whose check reads it
    """Accept an http:// address that is not on this machine. Default false."""
    base_url: str
    """The address up to and without the format's own path (`/chat/completions`, `/responses`, `/messages`,
    `/models/…`), https:// (http:// to this machine). No default."""
    api_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,40}$")] | None = None
    """Only "azure-openai": the version of the API with deployments in its URLs, such as "2024-10-21"; `base_url` is the
    resource then. None, the default: `base_url` ends in `/openai/v1`."""
    key: KeyName | None = None
    """The NAME of a key (see `[keys]`), never the key. None, the default: a server that needs none."""
    ca_bundle: Path | None = None
    """A PEM file with authorities to trust besides the usual ones, for a server or a gateway whose certificate is of
    your own authority; read when a worker starts. None, the default: the usual ones, or those that SSL_CERT_FILE
    names."""
    auth: Literal["key", "entra"] = "key"
    """"entra", only for "azure-openai": tokens of Entra ID, for who `[azure]` says that we are, instead of a key.
    Default "key"."""
    entra_scope: Annotated[str, AfterValidator(_check_scope)] | None = None
    """Only for "entra": what the tokens are for. Other clouds have others, such as
    "https://cognitiveservices.azure.us/.default"; so may newer endpoints ("https://ai.azure.com/.default"). None, the
    default: "https://cognitiveservices.azure.com/.default"."""
    timeout: Duration = timedelta(seconds=120)
    """The longest time for one attempt. Default "120s"."""
    stream: bool | None = None
    """Have the answer sent in pieces, so that a stalled service is noticed early; the result is the same. None, the
    default: where the service is known to say in a stream what it bills (without that the bound is charged)."""
    idle_timeout: Duration = timedelta(seconds=60)
    """The longest silence in a streamed answer, and before it. Longer for models that think without a sign of life.
    Default "60s"; `timeout` if that is shorter."""
    fall_back_when_filtered: bool = False
    """True: a request that the service's filter or its model refuses goes to the next candidate. Default false: the
    refusal is the answer."""
    retry: RetryPolicySettings = RetryPolicySettings()
    """When and how often an attempt that was not billed is repeated."""
    breaker: BreakerSettings = BreakerSettings()
    """When calls to this service stop for a while."""
    errors_billed: bool = False
    """True: the service may charge for answers 500 and 503 that have its own error body. Default false."""
    max_unconfirmed: Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=0, le=100)] = 1
    """After so many repetitions of an attempt that may have been billed, the call turns to the next candidate.
    Default 1."""
    max_retry_after: Duration = timedelta(seconds=60)
    """The longest Retry-After that is waited for; a longer one means the next candidate. Default "60s"."""
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict[str, ModelSettings])
    """What is added to or overrides what is known of single models. Any model may be called. Default {}."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str, info: ValidationInfo) -> str:
        url = _check_http_url(url, allow_http=info.data.get("allow_http", False))
        if "?" in url or "#" in url:
            raise ValueError('the URL has a "?" or "#" part; write it without, and give the NAME of a key in `key`')
        return url

    def is_on_this_machine(self) -> bool:
        """Whether its address is a loopback one."""
        return _is_loopback(urlsplit(self.base_url).hostname or "")

    @model_validator(mode="after")
    def _key_or_token(self) -> Self:
        if self.auth == "entra" and self.api != "azure-openai":
            _raise_at([(("auth",), 'only api = "azure-openai" takes tokens of Entra ID')])
        if self.auth == "entra" and self.key is not None:
            _raise_at([(("key",), 'not used with auth = "entra"; take one of them out')])
        if self.auth == "key" and self.entra_scope is not None:
            _raise_at([(("entra_scope",), 'only for auth = "entra"; set that, or take this out')])
        return self

    @property
    def key_name(self) -> str | None:
        """What the keys are asked for: the name of a key, or the scope of a token. None: it needs neither."""
        return (self.entra_scope or _ENTRA_SCOPE) if self.auth == "entra" else self.key

    def worst_case(self) -> timedelta:
        """The longest that one hold can be in use: every attempt times out, every wait is the longest with jitter."""
        wait_max = max(self.retry.maximum_interval, self.max_retry_after)
        return self.retry.maximum_attempts * self.timeout + (self.retry.maximum_attempts - 1) * wait_max * (1 + JITTER)


class BudgetSettings(AccountSettings):
    """`[budgets."acme/content"]`: caps and limits for everything at and below this path."""


class KeysSettings(_Table):
    """`[keys]`: where keys come from."""

    source: Literal["env", "file", "azure-key-vault"] = "env"
    """env: environment variables, PAYMASTER_KEY_OPENAI_API_KEY or else OPENAI_API_KEY for `openai-api-key`.
    file: the file `openai-api-key` in `folder`. azure-key-vault: the secret `openai-api-key` in the vault at
    `vault_url`. Default "env"."""
    folder: Path | None = None
    """Only for "file": a folder with one file for each key, readable by nobody but its owner. No default."""
    vault_url: Annotated[str, AfterValidator(_check_azure_url)] | None = None
    """Only for "azure-key-vault": the vault, `https://NAME.vault.azure.net`. No default."""
    verify_challenge_resource: bool = True
    """Whether the vault must ask for tokens for its own domain. false, for vaults behind a name of your own and for
    emulators: a wrong `vault_url` could then lead a token for a vault to somebody else. Default true."""
    refresh_after: Duration = timedelta(minutes=10)
    """A key is kept in memory for so long; a little earlier it is asked for again. Default "10m"."""
    keep_in_outage: Duration = timedelta(hours=24)
    """When the source cannot be asked, the key that is kept stays in use for so much longer. A key that the source
    knows to be deleted or disabled is not used any more. Default "24h"."""

    @model_validator(mode="after")
    def _has_what_its_source_needs(self) -> Self:
        needs = {"file": ("folder", self.folder), "azure-key-vault": ("vault_url", self.vault_url)}
        name, value = needs.get(self.source, ("", ""))
        if value is None:
            _raise_at([((name,), f'missing; source = "{self.source}" needs it')])
        return self


class AzureSettings(_Table):
    """`[azure]`: who Paymaster is at Azure, for Key Vault and for services with `auth = "entra"`."""

    credential: Literal["default", "managed-identity", "workload-identity", "client-secret"] = "default"
    """default: whatever azure-identity's DefaultAzureCredential finds (the variables AZURE_…, a workload's or a managed
    identity, the Azure CLI's user). The others are one of these and no other. Default "default"."""
    tenant_id: AzureName | None = None
    """The directory, for "client-secret" and "workload-identity". None, the default: AZURE_TENANT_ID."""
    client_id: AzureName | None = None
    """The application, or the identity of your own. None, the default: AZURE_CLIENT_ID; for "managed-identity" the one
    of the system."""
    client_secret: SecretText | None = None
    """Only for "client-secret", and kept secret; better in PAYMASTER__AZURE__CLIENT_SECRET than in the file. None, the
    default: AZURE_CLIENT_SECRET."""
    authority: Annotated[str, AfterValidator(_check_azure_url)] | None = None
    """Where to sign in, for sovereign and private clouds, such as `https://login.microsoftonline.us`. None, the
    default: AZURE_AUTHORITY_HOST, else the public cloud."""
    ca_bundle: Path | None = None
    """A PEM file with the certificate authorities to trust for the vault and for signing in, instead of the usual ones.
    None, the default: those that Python and SSL_CERT_FILE name."""

    @model_validator(mode="after")
    def _secret_is_used(self) -> Self:
        if self.client_secret is not None and self.credential != "client-secret":
            _raise_at([(("client_secret",), 'only for credential = "client-secret"; set that, or take this out')])
        return self


class EncryptionSettings(_Table):
    """`[encryption]`: hides what Temporal stores (prompts, answers, errors) from everybody who has no key."""

    keys: Annotated[tuple[KeyName, ...], AfterValidator(_each_once)] = ()
    """NAMES of keys (see `[keys]`), each 32 random bytes in base64 (`openssl rand -base64 32`). The first one encrypts,
    all of them decrypt. Every worker, agent and command needs the same list. Default []: nothing is encrypted."""


class AdminSettings(_Table):
    """`[admin]`: who may change caps. See docs/security.md for what this protects, and what it does not."""

    require_signature: bool = False
    """Whether the ledger follows only signed commands to raise and set caps, to pause and resume services, and to take
    a configuration with other caps, budgets or `[admin]`. Default false."""
    keys: dict[AdminName, PublicKey] = Field(default_factory=dict[str, str], validate_default=True)
    """Public keys by the name of their owner, which is kept with each change. `paymaster admin new-key FILE` makes a
    key and prints the line for here. Default {}."""

    @field_validator("keys")
    @classmethod
    def _somebody_can_sign(cls, keys: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.data.get("require_signature") and not keys:
            raise ValueError(
                "require_signature = true, and nobody could sign; `paymaster admin new-key FILE` makes a key and "
                "prints the line to write here"
            )
        return keys


class CodecSettings(_Table):
    """`[codec]`: the codec server, by which operators with a token read encrypted payloads in the Temporal UI."""

    token: KeyName | None = None
    """The NAME of a key (see `[keys]`): who sends its value may decrypt. `paymaster codec` needs it. No default."""
    origins: Annotated[tuple[str, ...], AfterValidator(_check_origins)] = (
        "http://localhost:8233",
        "http://127.0.0.1:8233",
    )
    """The pages that may ask from a browser: where the Temporal UI is, without a path. Default: that of
    `paymaster dev`, ["http://localhost:8233", "http://127.0.0.1:8233"]."""
    allow_http: bool = False  # before host, whose check reads it
    """Listen on other addresses than this machine's. It speaks HTTP only, so put a proxy with TLS in front.
    Default false."""
    host: str = "127.0.0.1"
    """The address to listen on. Default "127.0.0.1"."""
    port: Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=0, le=65_535)] = 8234
    """The port to listen on; 0 is a free one. Default 8234."""

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str, info: ValidationInfo) -> str:
        if not info.data.get("allow_http", False) and not _is_loopback(host):
            raise ValueError(
                "tokens and prompts would leave this machine unencrypted; keep 127.0.0.1, or set allow_http = true if "
                "a proxy with TLS is in front"
            )
        return host


class AlertsSettings(_Table):
    """`[alerts]`: where alerts go."""

    webhook_url: Annotated[SecretText, AfterValidator(_check_webhook_url)] | None = None
    """A URL that takes JSON by POST; kept secret. None, the default: alerts are only logged and stored."""
    webhook_format: AlertForm = "json"
    """What the webhook takes: "slack" (an incoming webhook), "teams" (the address of a Teams workflow "When a Teams
    webhook request is received", which shows an adaptive card), or "json": every field of the alert, for programs.
    Default "json"."""


class DatabaseSettings(_Table):
    """`[database]`: the PostgreSQL that keeps usage."""

    url: Annotated[SecretText, AfterValidator(_check_database_url)] | None = None
    """`postgresql+asyncpg://user:password@host:5432/name`; kept secret. `postgresql://` is taken for the same.
    None, the default: none configured; commands that need it say so, `paymaster dev` brings its own."""


class WorkerSettings(_Table):
    """`[worker]`: the worker process."""

    health_address: Annotated[str, AfterValidator(_check_address)] | None = None
    """Host and port, such as "127.0.0.1:8000", of an HTTP server with /live, /ready and /metrics (Prometheus). It
    has no password: let only the orchestrator and Prometheus reach it. None, the default: no such server."""
    grace_period: Duration | None = None
    """How long running calls may still take after SIGTERM. After that what was sent is charged at its bound as
    unconfirmed and what was not is left to other workers. The orchestrator must wait 15 s longer before it kills. None,
    the default: the longest `timeout` of a service and 10 s."""
    deployment: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")] | None = None
    """The Temporal worker deployment that this worker belongs to, with `build_id`; the server sends it nothing until
    its version is made current (`temporal worker deployment set-current-version`). None, the default: not versioned."""
    build_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,200}$")] | None = None
    """The version within `deployment`, such as a commit or an image's tag. None, the default: not versioned."""

    @model_validator(mode="after")
    def _versioned_or_not(self) -> Self:
        if (self.deployment is None) != (self.build_id is None):
            raise ValueError("deployment and build_id belong together; set both, or neither")
        return self


class LogSettings(_Table):
    """`[logs]`: what the worker says on standard error."""

    format: Literal["auto", "json", "console"] = "auto"
    """"json": an object a line, "console": for people. Default "auto": "console" on a terminal, else "json"."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is less important is left out; of libraries, whose debug lines hold prompts and answers,
    all below "info". Default "info"."""


class TelemetrySettings(_Table):
    """`[telemetry]`: traces and metrics by OpenTelemetry, over OTLP (HTTP, protobuf). The standard variables work
    too: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_SDK_DISABLED`, …"""

    otlp_endpoint: Annotated[str, AfterValidator(_check_collector_url)] | None = None
    """The collector's address, to which /v1/traces and /v1/metrics are added, such as "http://127.0.0.1:4318". None,
    the default: what the standard variables say, and nothing is sent when they are not set either."""
    metrics_every: Duration = timedelta(seconds=15)
    """How often metrics are sent, and the ledger is asked how it stands. Default "15s"."""
    record_content: bool = False
    """Put prompts and answers into traces, in plain text. Default false: only names, sizes and costs."""


class Settings(BaseSettings):
    """The whole configuration. `load_settings` reads it; the constructor reads no file and no environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    ledger: LedgerSettings = LedgerSettings()
    services: dict[ServiceName, ServiceSettings] = Field(default_factory=dict[str, ServiceSettings])
    """By name."""
    routes: dict[RouteName, Candidates] = Field(default_factory=dict[str, tuple[str, ...]])
    """By name: "service/model", first choice first. A call tries each candidate once. Default {}."""
    budgets: dict[BudgetPath, BudgetSettings] = Field(default_factory=dict[str, BudgetSettings])
    """By path. A call charges the budget that it names and every ancestor."""
    keys: KeysSettings = KeysSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    codec: CodecSettings = CodecSettings()
    azure: AzureSettings = AzureSettings()
    admin: AdminSettings = AdminSettings()
    alerts: AlertsSettings = AlertsSettings()
    database: DatabaseSettings = DatabaseSettings()
    worker: WorkerSettings = WorkerSettings()
    logs: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def _settings_log_debug(cls, states: dict[str, dict[str, Any]]) -> None:
        """Nothing: pydantic-settings would log what was read, secrets included, when PYDANTIC_SETTINGS_DEBUG is set."""

    @field_validator("services")
    @classmethod
    def _holds_outlive_retries(
        cls, services: dict[str, ServiceSettings], info: ValidationInfo
    ) -> dict[str, ServiceSettings]:
        ledger: LedgerSettings | None = info.data.get("ledger")
        if ledger is None:
            return services  # it has its own problem, which is reported
        _raise_at(
            (
                (name,),
                f"its retry policy can take {format_duration(service.worst_case())} (retry.maximum_attempts x timeout, "
                f"and the longest wait, jitter included, in between), and ledger.hold_expires_after is "
                f"{format_duration(ledger.hold_expires_after)}: make that longer, or the retry policy shorter",
            )
            for name, service in services.items()
            if ledger.hold_expires_after <= service.worst_case()
        )
        return services

    @field_validator("routes")
    @classmethod
    def _routes_lead_somewhere(
        cls, routes: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        if "services" in info.data:
            _raise_at(_unknown_services(routes, info.data["services"]))
        return routes


def _raise_at(problems: Iterable[tuple[_Location, str]]) -> None:
    """Raises the problems, if there are any, each with its own place below the field that is being validated."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "{message}", {"message": message}), loc=location, input=None
        )
        for location, message in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("Settings", errors, hide_input=True)


def _unknown_services(routes: Mapping[str, object], services: Iterable[str]) -> Iterator[tuple[_Location, str]]:
    """The candidates whose service is not there. Passes over what is no candidate: that is reported elsewhere."""
    known = set(services)
    for route, candidates in routes.items():
        for number, candidate in enumerate(
            cast(Iterable[object], candidates) if isinstance(candidates, list | tuple) else ()
        ):
            service, slash, _ = candidate.partition("/") if isinstance(candidate, str) else ("", "", "")
            if slash and service not in known:
                fix = _did_you_mean(service, known) or f"add a table [services.{service}]"
                yield (route, number), f"there is no service {service!r}; {fix}"


# ---------------------------------------------------------------- reading


def load_settings(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from a file, overridden by environment variables.

    `path` None: PAYMASTER_CONFIG names the file, else it is `paymaster.toml` in the working directory.
    `environ` None: the process's own. Raises ConfigurationError with every problem.
    """
    file = _find_file(path, environ)
    settings = _read(file, environ)
    # Raised here and not below, because nothing in this frame holds what was read, and no other exception is under way:
    # neither a traceback with its locals nor the exception's context shows a secret.
    if isinstance(settings, Settings):
        return settings
    raise ConfigurationError(settings, file)


def load_settings_if_any() -> Settings:
    """The same for a program that needs no file, like an agent's: without one the environment variables alone count.

    Raises ConfigurationError with every problem.
    """
    if "PAYMASTER_CONFIG" in os.environ or Path(CONFIG_FILE_DEFAULT).is_file():
        return load_settings()
    settings = _read(None, None)
    if isinstance(settings, Settings):
        return settings
    raise ConfigurationError(settings)


def _find_file(path: Path | None, environ: Mapping[str, str] | None) -> Path:
    configured = (os.environ if environ is None else environ).get("PAYMASTER_CONFIG")
    if path is not None:
        problem = f"there is no file {path}; name one that is there"
    elif configured:
        path, problem = Path(configured), f"PAYMASTER_CONFIG names {configured}, and there is no such file"
    else:
        path = Path(CONFIG_FILE_DEFAULT)
        problem = f"there is no {path} in {Path.cwd()}. {_HOW_TO_BEGIN}"
    if not path.is_file():
        raise ConfigurationError([problem])
    return path


def _read(file: Path | None, environ: Mapping[str, str] | None) -> Settings | list[str]:
    """The settings, or what is wrong with them. `file` None: there is none."""
    try:
        from_file = TomlConfigSettingsSource(Settings, toml_file=file)
    except OSError as error:
        return [f"the file cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:  # its message may hold a piece of the file
        return [f"not UTF-8 at byte {error.start}; save the file as UTF-8"]
    except ValueError as error:  # tomllib's own, with line and column, and int()'s for a number with too many digits
        return [f"not valid TOML: {error}"]
    except RecursionError:
        return [f"nested too deeply: at most {NESTING_MAX} levels"]
    from_environment = _EnvironmentSource(os.environ if environ is None else environ)
    problems = list(from_environment.problems)
    try:
        # The constructor's documented way to be given sources; pyright sees only the fields.
        settings = Settings(_build_sources=((from_environment, from_file), {}))  # pyright: ignore[reportCallIssue]
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        for error in errors:
            at = error["loc"]
            # Nobody set a key that is missing: tell who set the others of its table.
            origin = from_environment.naming(at[:-1] if error["type"] == "missing" else at)
            problems.append(f"{_written(at)}: {_explain(error)}{origin}")
        if any(error["loc"][0] == "services" for error in errors):
            # The routes' own check needs valid services; their names are enough to say this now and not next time.
            routes, services = (
                {**_table(from_file.toml_data, name), **_table(from_environment(), name)}
                for name in ("routes", "services")
            )
            for at, problem in _unknown_services(routes, services):
                problems.append(f"{_written(('routes', *at))}: {problem}{from_environment.naming(('routes', *at))}")
        return problems
    return problems or settings


def _table(tables: Mapping[str, object], name: str) -> dict[str, object]:
    table = tables.get(name)
    return cast(dict[str, object], table) if isinstance(table, dict) else {}


class _EnvironmentSource(PydanticBaseSettingsSource):
    """The variables `PAYMASTER__…` as nested tables.

    pydantic-settings has such a source, but that one knows only `os.environ`, passes over names that it does not know,
    and reads a text such as "0.20" below a table as JSON, which makes it a float.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.problems: list[str] = []
        self._tables: dict[str, Any] = {}
        self._variables: dict[_Location, str] = {}
        # In the order of paths: whoever sets a whole table comes before those who set keys in it.
        for path, variable in sorted((_path_of(name), name) for name in environ if name.startswith(_PREFIX)):
            if "" in path:
                self.problems.append(f"{variable}: a part of the name is empty; write {_PREFIX}TABLE__KEY")
                continue
            try:
                value = _value_of(environ[variable])
            except ValueError:
                # Without the decoder's own error: it holds the text.
                self.problems.append(f"{variable}: not valid JSON, and a value that begins with {{ or [ must be")
                continue
            self._add(path, value, variable)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._tables.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._tables

    def naming(self, location: _Location) -> str:
        """The variables that set this place, a part of it or all around it, to be put behind a problem."""
        names = {
            variable
            for path, variable in self._variables.items()
            if path[: len(location)] == location or location[: len(path)] == path
        }
        return f" (see {', '.join(sorted(names))})" if names else ""

    def _add(self, path: tuple[str, ...], value: Any, variable: str) -> None:
        if isinstance(value, dict) and value:
            for key, below in cast(dict[str, Any], value).items():
                self._add((*path, key), below, variable)
            return
        table: dict[str, Any] | None = self._tables
        for part in path[:-1]:
            below = table.setdefault(part, {}) if table is not None else None
            table = cast(dict[str, Any], below) if isinstance(below, dict) else None
        if table is None or path[-1] in table:
            self.problems.append(f"{variable}: another variable sets {_written(path)} too; keep one of them")
        else:
            table[path[-1]] = value
            self._variables[path] = variable


def _path_of(variable: str) -> tuple[str, ...]:
    parts = variable.removeprefix(_PREFIX).split("__")
    path = [part.lower() for part in parts]
    if path[0] in ("services", "routes") and len(path) > 1:
        path[1] = path[1].replace("_", "-")
    if path[0] == "services" and path[2:3] == ["models"] and len(path) > 3:
        path[3] = parts[3]
    if path[0] == "budgets" and len(path) > 1:
        path[1] = parts[1]
    return tuple(path)


def _value_of(text: str) -> Any:
    return message_data(text) if text.startswith(("{", "[")) else text


# ---------------------------------------------------------------- saying what is wrong


def _written(location: _Location) -> str:
    """The path as it is written in TOML: `services.openai.models."gpt-5.6-luna".price`, `routes.writer[0]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":  # pydantic's mark for "the name itself"
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part))
    return text


def _explain(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(error["loc"])
            fix = _did_you_mean(str(error["loc"][-1]), known) or f"known here: {', '.join(sorted(known))}"
            return f"unknown key; {fix}"
        case "missing":
            return "missing; set it"
        case "literal_error":
            return f"not supported; write {context['expected']}"
        case "value_error":
            return str(context.get("error") or context["message"])
        case "model_type" | "dict_type":
            return "must be a table"
        case "tuple_type":
            return "must be a list"
        case _:
            return error["msg"].replace("Input should be", "must be", 1)


def _did_you_mean(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else None


def _known_keys(location: _Location) -> list[str]:
    """The keys that are allowed beside this one."""
    table: type[BaseModel] = Settings
    is_name = False  # of a service, a model or a budget: its table is the one already found
    for part in location[:-1]:
        if is_name:
            is_name = False
            continue
        annotation = table.model_fields[str(part)].annotation
        is_name = get_origin(annotation) is dict
        table = next(kind for kind in (annotation, *get_args(annotation)) if _is_table(kind))
    return list(table.model_fields)


def _is_table(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
