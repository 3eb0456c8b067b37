"""The tables of `paymaster.toml`."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from paymaster.messages import Window
from paymaster.settings.approvals import ApproverSettings, missing_for_buttons, wrong_with_approvers
from paymaster.settings.console import ConsoleSettings
from paymaster.settings.gateway import GatewaySettings
from paymaster.settings.kinds import (
    AWS_CREDENTIALS,
    ENTRA_SCOPE,
    GOOGLE_TOKENS,
    AdminName,
    AlertParts,
    Api,
    AtLeastOne,
    AzureName,
    BudgetPath,
    BudgetTable,
    Duration,
    EndpointName,
    Factor,
    Instant,
    KeyName,
    LedgerName,
    ModelName,
    PublicKey,
    RouteName,
    SecretText,
    ServiceName,
    TimeZone,
    WireKey,
    check_address,
    check_azure_url,
    check_collector_url,
    check_database_url,
    check_gateway_url,
    check_http_url,
    check_list_url,
    check_object_name,
    check_origins,
    check_scope,
    check_webhook_url,
    each_once,
    is_loopback,
    not_a_boolean,
    region_of,
)
from paymaster.settings.problems import did_you_mean, raise_at
from paymaster.settings.routes import RouteSettings, unknown_services
from paymaster.settings.runs import PerRunSettings, RunawaySettings
from paymaster.settings.table import Table
from paymaster.values.choices import AlertForm
from paymaster.values.durations import format_duration
from paymaster.values.money import NANOS_PER_USD, Price, UsdAsNanos
from paymaster.values.retries import JITTER


class LedgerSettings(Table):
    """The books, and what happens to a call when the money is gone."""

    name: LedgerName = "default"
    """Which books. A namespace may have many ledgers beside each other, each with caps, workers, gateways and a
    configuration of its own ([page](deployment.md#several-ledgers)); their task queues, calls and rows have its name.
    Default "default", whose task queues and calls have the names without one."""
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


class AccountSettings(Table):
    """What any account may have: caps, thresholds and rate limits."""

    cap_usd: dict[Window, UsdAsNanos] = Field(default_factory=dict[Window, int])
    """The most money per window (minute, hour, day, week, month, total; of the calendar; a week begins on Monday), or
    in any time so long (24h, 7d, 30d), US dollars as exact text; held as nano-dollars. "0" blocks. Default {}: no cap,
    but those of the other accounts of the call count."""
    alert_at: AlertParts = (0.5, 0.8, 0.95)
    """Parts of each cap, above 0 and up to 1, that alert when posted money reaches them, 20 at most. [] alerts never.
    A cap that is lowered past one of them alerts with the next money that is posted. Default [0.5, 0.8, 0.95]."""
    requests_per_minute: AtLeastOne | None = None
    """The most requests per minute. None, the default: no limit."""
    tokens_per_minute: AtLeastOne | None = None
    """The most tokens of input and output per minute. None, the default: no limit."""
    max_concurrent: AtLeastOne | None = None
    """The most calls at once. None, the default: no limit."""


class RetryPolicySettings(Table):
    """Temporal's retry policy for attempts that were certainly not billed."""

    initial_interval: Duration = timedelta(seconds=1)
    """The wait before the second attempt. Default "1s"."""
    backoff_coefficient: Annotated[float, BeforeValidator(not_a_boolean), Field(ge=1, le=100)] = 2.0
    """Each wait is the one before times this; and every wait is up to a fifth longer, by chance. Default 2.0."""
    maximum_interval: Duration = timedelta(seconds=30)
    """The longest wait of our own; a server's Retry-After may ask for `max_retry_after`. Default "30s"."""
    maximum_attempts: Annotated[int, BeforeValidator(not_a_boolean), Field(ge=1, le=100)] = 5
    """The most attempts under one hold, the first included; then the next candidate. 1: no retry. Default 5."""


class BreakerSettings(Table):
    """Stops calls to a service that keeps failing."""

    failures: AtLeastOne = 5
    """Consecutive failures that open the breaker. Default 5."""
    cooldown: Duration = timedelta(seconds=30)
    """How long it stays open before one call probes the service. Default "30s"."""


class PriceSettings(Table):
    """US dollars per million tokens as exact text ("0.20"); held as nano-dollars per million tokens."""

    input: UsdAsNanos
    """Input that no other rate covers. No default."""
    output: UsdAsNanos
    """Output, reasoning included. No default."""
    cached_input: UsdAsNanos | None = None
    """Input read from the provider's cache. None, the default: billed like `input`."""
    cache_write: UsdAsNanos | None = None
    """Input written to the provider's cache. None, the default: billed like `input`."""

    def price(self, source: str) -> Price:
        """These rates, with the source to store beside them."""
        return Price(
            input_nanos=self.input,
            output_nanos=self.output,
            cached_input_nanos=self.cached_input,
            cache_write_nanos=self.cache_write,
            source=source,
        )


class DatedPriceSettings(PriceSettings):
    """A price that begins or ends at a time. A time is a date, which is its midnight in UTC, or has its zone:
    2027-01-01T00:00:00+01:00."""

    model_config = ConfigDict(serialize_by_alias=True)

    begins: Instant | None = Field(default=None, alias="from")
    """When it begins. None, the default: it was always so."""
    ends: Instant | None = Field(default=None, alias="until")
    """When it ends; at that moment it does not hold any more. None, the default: never."""

    @model_validator(mode="after")
    def _has_a_time(self) -> Self:
        if self.begins is None and self.ends is None:
            raise ValueError("neither `from` nor `until` is set; set one, or write the price as `price`")
        if self.begins is not None and self.ends is not None and self.begins >= self.ends:
            raise ValueError("`from` is not before `until`, so that it would never hold")
        return self

    def is_in_force(self, at: datetime) -> bool:
        return (self.begins is None or self.begins <= at) and (self.ends is None or at < self.ends)


def _one_at_a_time(prices: tuple[DatedPriceSettings, ...]) -> tuple[DatedPriceSettings, ...]:
    in_order = sorted(prices, key=lambda price: (price.begins is not None, price.begins))
    for earlier, later in pairwise(in_order):
        if earlier.ends is None or later.begins is None or later.begins < earlier.ends:
            first, second = prices.index(earlier) + 1, prices.index(later) + 1
            raise ValueError(f"prices {first} and {second} hold at the same time; end one where the other one begins")
    return prices


class ModelSettings(Table):
    """Adds to or overrides what is known of a model."""

    max_output_tokens: AtLeastOne | None = None
    """The most output tokens of a call, reasoning included. None, the default: 4,096, because without a cap on the
    output no call has a bound."""
    context_tokens: AtLeastOne | None = None
    """The most tokens of input and output together. None, the default: not known here."""
    image_tokens_max: AtLeastOne | None = None
    """The most input tokens that one image can be. None, the default: requests with images are refused, because they
    would have no bound."""
    document_tokens_max: AtLeastOne | None = None
    """The most input tokens that one document, such as a PDF, can be. None, the default: requests with documents are
    refused, because they would have no bound."""
    price: PriceSettings | None = None
    """None, the default: what genai-prices knows; where that is nothing, calls to the model are refused."""
    prices: Annotated[tuple[DatedPriceSettings, ...], AfterValidator(_one_at_a_time)] = ()
    """Prices that begin or end at a time, a table like `price` each, with `from`, `until` or both; the one in force
    when a call asks for its hold decides, and where none is in force, `price`. Default []."""

    def price_at(self, at: datetime, source: str) -> Price | None:
        """The price set here for that time, with the source to store beside it. None: none is."""
        dated = next((price for price in self.prices if price.is_in_force(at)), None)
        found = self.price if dated is None else dated
        return None if found is None else found.price(source)


class ServiceSettings(AccountSettings):
    """Something that can be called, with its limits."""

    api: Api
    """The wire format: "openai" (chat completions: OpenAI, Mistral, Groq, DeepSeek, OpenRouter, vLLM, Ollama, llama.cpp
    and others), "openai-responses", "anthropic", "gemini", "azure-openai", "bedrock" (Converse), "vertex-gemini" or
    "vertex-claude" (Gemini and Claude on Vertex AI). No default."""
    allow_http: bool = False  # before base_url, whose check reads it
    """Accept an http:// address that is not on this machine. Default false."""
    base_url: str
    """The address up to and without the format's own path (`/chat/completions`, `/responses`, `/messages`,
    `/models/…`, `/model/…`, `/publishers/…`), https:// (http:// to this machine). No default."""
    api_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,40}$")] | None = None
    """Only "azure-openai": the version of the API with deployments in its URLs, such as "2024-10-21"; `base_url` is the
    resource then. None, the default: `base_url` ends in `/openai/v1`."""
    key: KeyName | None = None
    """The NAME of a key (see `[keys]`), never the key. None, the default: a server that needs none."""
    ca_bundle: Path | None = None
    """A PEM file with authorities to trust besides the usual ones, for a server or a gateway whose certificate is of
    your own authority; read when a worker starts. None, the default: the usual ones, or those that SSL_CERT_FILE
    names."""
    auth: Literal["key", "entra", "aws", "google"] = "key"
    """"entra", only for "azure-openai" and for Azure's "openai-responses": tokens of Entra ID, for who `[azure]` says
    that we are, instead of a key. "aws", only for "bedrock": requests are signed, by the access key that `key` names
    (ACCESS-KEY-ID:SECRET-ACCESS-KEY, with :SESSION-TOKEN behind it for one that expires), or without `key` by what
    botocore finds where the worker runs. "google", only for "vertex-…": tokens of Google Cloud, for the service account
    whose JSON file in base64 is the key that `key` names, or without `key` for who the worker is where it runs
    (application default credentials). Default "key"."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    """Only for "aws": the region that signatures are for. None, the default: the one in `base_url`."""
    entra_scope: Annotated[str, AfterValidator(check_scope)] | None = None
    """Only for "entra": what the tokens are for. Other clouds have others, such as
    "https://cognitiveservices.azure.us/.default"; so may newer endpoints ("https://ai.azure.com/.default"). None, the
    default: "https://cognitiveservices.azure.com/.default"."""
    timeout: Duration = timedelta(seconds=120)
    """The longest time for one attempt. Default "120s"."""
    stream: bool | None = None
    """Have the answer sent in pieces, so that a stalled service is noticed early; the result is the same. None, the
    default: where the service is known to say in a stream what it bills (without that the bound is charged)."""
    output_cap: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The name by which a service of `api = "openai"` knows the cap on the output: OpenAI's newer models refuse
    `max_tokens`, and many compatible servers know no other. None, the default: by the service's address."""
    encrypted_reasoning: bool | None = None
    """Only "openai-responses": ask for what a model thought, encrypted, so that it goes back to the model with its tool
    calls. Models that do not think refuse that. None, the default: where the model's name says that it thinks, where
    `reasoning_effort` is asked for, and for Azure's deployments until one refuses it."""
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
    max_unconfirmed: Annotated[int, BeforeValidator(not_a_boolean), Field(ge=0, le=100)] = 1
    """After so many repetitions of an attempt that may have been billed, the call turns to the next candidate.
    Default 1."""
    max_retry_after: Duration = timedelta(seconds=60)
    """The longest Retry-After that is waited for; a longer one means the next candidate. Default "60s"."""
    allow: Annotated[tuple[WireKey, ...], AfterValidator(each_once)] = ()
    """Keys of wire calls that are sent although they make the cost unknown beforehand (`previous_response_id`,
    `web_search_options`, `tools.web_search`), at the owner's risk: what is billed above the bound is an overage.
    Default []: a call with another key than those that are known to be free is refused by its name."""
    bound: Literal["bytes", "counted"] | None = None
    """What the most that a call can cost is made of. "bytes": each byte of its text may be a token, which is about four
    times too many. "counted": where money is in the way of that, and only then, the tokens are counted, by OpenAI's
    tokenizer where it knows the model (with the extra `tiktoken`), else by the provider's own free counter (not of
    "bedrock"). None, the default: "counted" at OpenAI's own address where the tokenizer knows the model, which is
    exact; elsewhere "bytes"."""
    price_factor: Factor = Decimal(1)
    """By which listed prices are multiplied, such as "0.85" where your contract takes 15% off: what genai-prices says
    of a model. A price that you write yourself is what you pay, and stays as it is, and so does a cost that the service
    itself names. More than 0, at most 100, as exact text. Default "1"."""
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict[str, ModelSettings])
    """What is added to or overrides what is known of single models. Any model may be called. Default {}."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str, info: ValidationInfo) -> str:
        url = check_http_url(url, allow_http=info.data.get("allow_http", False))
        if "?" in url or "#" in url:
            raise ValueError('the URL has a "?" or "#" part; write it without, and give the NAME of a key in `key`')
        return url

    def is_on_this_machine(self) -> bool:
        """Whether its address is a loopback one."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    @model_validator(mode="after")
    def _key_or_token(self) -> Self:
        if self.auth == "entra" and self.api not in ("azure-openai", "openai-responses"):
            raise_at([(("auth",), 'only api = "azure-openai" and "openai-responses" take tokens of Entra ID')])
        if self.auth == "entra" and self.key is not None:
            raise_at([(("key",), 'not used with auth = "entra"; take one of them out')])
        if self.auth != "entra" and self.entra_scope is not None:
            raise_at([(("entra_scope",), 'only for auth = "entra"; set that, or take this out')])
        return self

    @model_validator(mode="after")
    def _signed_or_not(self) -> Self:
        if self.auth == "aws" and self.api != "bedrock":
            raise_at([(("auth",), 'only api = "bedrock" takes signed requests')])
        if self.auth == "google" and not self.api.startswith("vertex-"):
            raise_at([(("auth",), 'only api = "vertex-gemini" and "vertex-claude" take tokens of Google Cloud')])
        if self.auth == "aws" and not self.aws_region():
            raise_at([(("region",), 'missing; auth = "aws" needs it, because base_url names none')])
        if self.auth != "aws" and self.region is not None:
            raise_at([(("region",), 'only for auth = "aws"; set that, or take this out')])
        return self

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if self.bound == "counted" and self.api == "bedrock":
            raise_at([(("bound",), 'api = "bedrock" has no counter here; take it out, and bounds are made of bytes')])
        return self

    def aws_region(self) -> str:
        """The region that signatures are for; empty where nothing says it."""
        return self.region or region_of(urlsplit(self.base_url).hostname or "") or ""

    @property
    def key_name(self) -> str | None:
        """What the keys are asked for: the name of a key, the scope of a token, or the credentials of where it runs.
        None: it needs none of them."""
        match self.auth:
            case "entra":
                return self.entra_scope or ENTRA_SCOPE
            case "aws":
                return self.key or AWS_CREDENTIALS
            case "google":
                return f"{GOOGLE_TOKENS}{self.key or ''}"
            case "key":
                return self.key

    def worst_case(self) -> timedelta:
        """The longest that one hold can be in use: every attempt times out, every wait is the longest with jitter."""
        wait_max = max(self.retry.maximum_interval, self.max_retry_after)
        return self.retry.maximum_attempts * self.timeout + (self.retry.maximum_attempts - 1) * wait_max * (1 + JITTER)


class PriceListSettings(Table):
    """The list of prices that `paymaster prices` brings. Workers look prices up in what was brought last, else in the
    list of their package genai-prices."""

    list_url: Annotated[str, AfterValidator(check_list_url)] | None = None
    """Where the list is, as JSON in the form of genai-prices' data: https:// (http:// to this machine), such as a copy
    in your own network. None, the default: where genai-prices publishes it, on raw.githubusercontent.com."""
    ask_at_fall: Annotated[float, BeforeValidator(not_a_boolean), Field(ge=0, le=1)] = 0.5
    """A price that falls by more than this part is not taken before somebody agrees, and neither is one that falls to
    zero. Default 0.5."""


class BudgetSettings(AccountSettings):
    """Caps and limits for everything at and below this path."""

    time_zone: TimeZone = "UTC"
    """Where the days, weeks and months of its caps begin at midnight: "Europe/Oslo". Minutes and hours are those of UTC
    everywhere. It holds for this budget alone, not for those below it. Default "UTC"."""
    enforce: bool = True
    """false: its caps and limits are watched only. Calls for which they have no room go on, and alerts say how many it
    were. Default true."""
    per_run: PerRunSettings | None = None
    """The most that each run of an agent may take of this budget and of those below it. None, the default: no limit."""
    runaway: RunawaySettings | None = None
    """When a run that it pays for is held. None, the default: never."""


class KeysSettings(Table):
    """Where keys come from."""

    source: Literal["env", "file", "azure-key-vault"] = "env"
    """env: environment variables, PAYMASTER_KEY_OPENAI_API_KEY or else OPENAI_API_KEY for `openai-api-key`.
    file: the file `openai-api-key` in `folder`. azure-key-vault: the secret `openai-api-key` in the vault at
    `vault_url`. Default "env"."""
    folder: Path | None = None
    """Only for "file": a folder with one file for each key, readable by nobody but its owner. No default."""
    vault_url: Annotated[str, AfterValidator(check_azure_url)] | None = None
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
            raise_at([((name,), f'missing; source = "{self.source}" needs it')])
        return self


class AzureSettings(Table):
    """Who Paymaster is at Azure, for Key Vault and for services with `auth = "entra"`."""

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
    authority: Annotated[str, AfterValidator(check_azure_url)] | None = None
    """Where to sign in, for sovereign and private clouds, such as `https://login.microsoftonline.us`. None, the
    default: AZURE_AUTHORITY_HOST, else the public cloud."""
    ca_bundle: Path | None = None
    """A PEM file with the certificate authorities to trust for the vault and for signing in, instead of the usual ones.
    None, the default: those that Python and SSL_CERT_FILE name."""

    @model_validator(mode="after")
    def _secret_is_used(self) -> Self:
        if self.client_secret is not None and self.credential != "client-secret":
            raise_at([(("client_secret",), 'only for credential = "client-secret"; set that, or take this out')])
        return self


class EncryptionSettings(Table):
    """Hides what Temporal stores (prompts, answers, errors) from everybody who has no key."""

    keys: Annotated[tuple[KeyName, ...], AfterValidator(each_once)] = ()
    """NAMES of keys (see `[keys]`), each 32 random bytes in base64 (`openssl rand -base64 32`). The first one encrypts,
    all of them decrypt. Every worker, agent and command needs the same list. Default []: nothing is encrypted."""
    codec: Annotated[str, AfterValidator(check_object_name)] | None = None
    """Where a team's agents have a payload codec of their own: the same one for workers and commands, as
    "module:object". The object is a `temporalio.converter.PayloadCodec`, or makes one when it is called. A client that
    has a codec keeps that. None, the default: there is no such codec."""
    allow_plaintext: bool = False
    """Take requests that came in plain text although `keys` or `codec` is set: from agents that lack it, whose prompts
    anybody can read in Temporal, or with a codec that leaves short payloads as they are. Default false: such a request
    is denied, in words."""


class PayloadsSettings(Table):
    """Where agents put payloads that are too large for Temporal (its external storage), so that workers find them."""

    storage: Annotated[str, AfterValidator(check_object_name)] | None = None
    """The storage of the agents' clients, for workers and commands, as "module:object". The object is a
    `temporalio.converter.ExternalStorage` or a `StorageDriver`, or makes one when it is called; its drivers have the
    names that the agents' have. A client that has a storage keeps that. None, the default: there is none, and what an
    agent has put into one is refused in words."""


class AdminSettings(Table):
    """Who may change caps. See docs/security.md for what this protects, and what it does not."""

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


class CodecSettings(Table):
    """The codec server, by which operators with a token read encrypted payloads in the Temporal UI."""

    token: KeyName | None = None
    """The NAME of a key (see `[keys]`): who sends its value may decrypt. `paymaster codec` needs it. No default."""
    origins: Annotated[tuple[str, ...], AfterValidator(check_origins)] = (
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
    port: Annotated[int, BeforeValidator(not_a_boolean), Field(ge=0, le=65_535)] = 8234
    """The port to listen on; 0 is a free one. Default 8234."""

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str, info: ValidationInfo) -> str:
        if not info.data.get("allow_http", False) and not is_loopback(host):
            raise ValueError(
                "tokens and prompts would leave this machine unencrypted; keep 127.0.0.1, or set allow_http = true if "
                "a proxy with TLS is in front"
            )
        return host


class AlertsSettings(Table):
    """Where alerts go."""

    webhook_url: Annotated[SecretText, AfterValidator(check_webhook_url)] | None = None
    """A URL that takes JSON by POST; kept secret. None, the default: alerts are only logged and stored."""
    webhook_format: AlertForm = "json"
    """What the webhook takes: "slack" (an incoming webhook), "teams" (the address of a Teams workflow "When a Teams
    webhook request is received", which shows an adaptive card), or "json": every field of the alert, for programs.
    Default "json"."""
    buttons_key: KeyName | None = None
    """The NAME of a key (see `[keys]`) with a secret that workers and gateways share (`openssl rand -base64 32`): what
    the buttons and links of alerts may do is signed with it ([page](approvals.md)). None, the default: alerts have
    none."""
    gateway_url: Annotated[str, AfterValidator(check_gateway_url)] | None = None
    """How browsers reach a gateway, such as "https://paymaster.example.com": where links of alerts (Teams, plain
    webhooks) lead. None, the default: alerts have no links."""
    forecasts: bool = True
    """An alert says when a cap will be used up within a day, at the rate of the last hour ([page](operating.md)).
    Default true."""
    anomalies: bool = True
    """An alert says when a budget, a run or a service spends far more in an hour than it usually does at this time of
    the week ([page](operating.md)). Default true."""
    anomaly_above_usd: UsdAsNanos = NANOS_PER_USD
    """How much more than usual must have been spent in an hour for such an alert, US dollars as exact text. Default
    "1.00"."""


class DatabaseSettings(Table):
    """The PostgreSQL that keeps usage."""

    url: Annotated[SecretText, AfterValidator(check_database_url)] | None = None
    """`postgresql+asyncpg://user:password@host:5432/name`; kept secret. `postgresql://` is taken for the same.
    None, the default: none configured; commands that need it say so, `paymaster dev` brings its own."""


class EndpointSettings(Table):
    """A Nexus endpoint of Temporal's, by which callers of another namespace ask ([page](nexus.md)). A name that has no
    table here is refused."""

    budget: BudgetPath
    """What its callers are charged to, or a budget below it that they name; never another one. No default."""
    routes: tuple[RouteName, ...] | None = None
    """The routes that they may name. None, the default: every route, and for wire calls each
    "service/model"."""


class NexusSettings(Table):
    """Callers of other namespaces. A worker with workflows serves the Nexus service `paymaster` on the task queue
    `paymaster-nexus` where there is an endpoint. Needs Temporal Server 1.30 or newer."""

    endpoints: dict[EndpointName, EndpointSettings] = Field(default_factory=dict[str, EndpointSettings])
    """By the endpoint's name. Default {}: none."""


class WorkerSettings(Table):
    """The worker process."""

    health_address: Annotated[str, AfterValidator(check_address)] | None = None
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


class LogSettings(Table):
    """What the worker says on standard error."""

    format: Literal["auto", "json", "console"] = "auto"
    """"json": an object a line, "console": for people. Default "auto": "console" on a terminal, else "json"."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level that is logged; for libraries never below "info", because their debug lines hold prompts and
    answers. Default "info"."""


class TelemetrySettings(Table):
    """Traces and metrics by OpenTelemetry, over OTLP (HTTP, protobuf). The standard variables work
    too: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_SDK_DISABLED`, …"""

    otlp_endpoint: Annotated[str, AfterValidator(check_collector_url)] | None = None
    """The collector's address, to which /v1/traces and /v1/metrics are added, such as "http://127.0.0.1:4318". None,
    the default: what the standard variables say, and nothing is sent when they are not set either."""
    metrics_every: Duration = timedelta(seconds=15)
    """How often metrics are sent, and it is looked how the ledger stands. Default "15s"."""
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
    routes: dict[RouteName, RouteSettings] = Field(default_factory=dict[str, RouteSettings])
    """By name. Default {}."""
    budgets: dict[BudgetTable, BudgetSettings] = Field(default_factory=dict[str, BudgetSettings])
    """By path. A call charges the budget that it names and every ancestor."""
    prices: PriceListSettings = PriceListSettings()
    nexus: NexusSettings = NexusSettings()
    keys: KeysSettings = KeysSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    payloads: PayloadsSettings = PayloadsSettings()
    codec: CodecSettings = CodecSettings()
    azure: AzureSettings = AzureSettings()
    admin: AdminSettings = AdminSettings()
    approvals: dict[AdminName, ApproverSettings] = Field(default_factory=dict[str, ApproverSettings])
    """By the approver's name. Default {}: alerts have no buttons."""
    alerts: AlertsSettings = AlertsSettings()
    database: DatabaseSettings = DatabaseSettings()
    worker: WorkerSettings = WorkerSettings()
    gateway: GatewaySettings = GatewaySettings()
    console: ConsoleSettings = ConsoleSettings()
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
        raise_at(
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

    @field_validator("routes", mode="wrap")
    @classmethod
    def _routes_lead_somewhere(
        cls,
        written: Mapping[str, object],
        read: Callable[[Mapping[str, object]], dict[str, RouteSettings]],
        info: ValidationInfo,
    ) -> dict[str, RouteSettings]:
        routes = read(written)
        if "services" in info.data:  # in the routes as they are written: their places are those of the file
            raise_at(unknown_services(written, info.data["services"]))
        return routes

    @field_validator("nexus")
    @classmethod
    def _endpoints_lead_to_routes(cls, nexus: NexusSettings, info: ValidationInfo) -> NexusSettings:
        known: Mapping[str, object] | None = info.data.get("routes")
        if known is None:
            return nexus  # the routes have their own problem, which is reported
        raise_at(
            (
                ("endpoints", name, "routes", number),
                f"there is no route {route!r}; {did_you_mean(route, known) or 'add it to [routes]'}",
            )
            for name, endpoint in nexus.endpoints.items()
            for number, route in enumerate(endpoint.routes or ())
            if route not in known
        )
        return nexus

    @field_validator("approvals")
    @classmethod
    def _approvers_are_known(
        cls, approvals: dict[str, ApproverSettings], info: ValidationInfo
    ) -> dict[str, ApproverSettings]:
        admin: AdminSettings | None = info.data.get("admin")
        if admin is not None:  # else it has its own problem, which is reported
            raise_at(wrong_with_approvers(approvals, require_signature=admin.require_signature))
        return approvals

    @field_validator("alerts")
    @classmethod
    def _alerts_have_what_approvers_press(cls, alerts: AlertsSettings, info: ValidationInfo) -> AlertsSettings:
        approvals: dict[str, ApproverSettings] | None = info.data.get("approvals")
        if approvals is not None:  # else it has its own problem, which is reported
            raise_at(missing_for_buttons(approvals, alerts.webhook_format, alerts.buttons_key, alerts.gateway_url))
        return alerts

    @field_validator("gateway")
    @classmethod
    def _clients_lead_to_routes(cls, gateway: GatewaySettings, info: ValidationInfo) -> GatewaySettings:
        if "routes" not in info.data or "services" not in info.data:
            return gateway  # they have their own problem, which is reported
        routes, services = info.data["routes"], info.data["services"]
        named: dict[tuple[str, ...], tuple[str, ...] | None] = {
            ("clients", name): client.routes for name, client in gateway.clients.items()
        }
        if gateway.jwt is not None:
            named[("jwt",)] = gateway.jwt.routes
        raise_at(
            (
                (*place, "routes", number),
                f"there is no route {route!r}; {did_you_mean(route, routes) or 'add it, or name a service/model'}",
            )
            for place, allowed in named.items()
            for number, route in enumerate(allowed or ())
            if route not in routes and route.partition("/")[0] not in services
        )
        return gateway
