"""The tables of `paymaster.toml` that say who may ask the gateway."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from paymaster.settings.kinds import (
    AtLeastOne,
    BudgetPath,
    Instant,
    KeyName,
    ModelName,
    RouteName,
    check_http_url,
    each_once,
)
from paymaster.settings.problems import raise_at
from paymaster.settings.table import Table
from paymaster.values.budget_path import check_budget_path
from paymaster.values.claim_template import check_claim_template, filled
from paymaster.values.run_path import check_run_segment

Routes = tuple[RouteName | ModelName, ...] | None

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""How tokens are signed: by a private key that only the identity provider has. A shared secret is none of them."""


def _check_budget(template: str) -> str:
    """The first name of a budget is written down, so that no claim leads out of the tree."""
    check_budget_path(filled(check_claim_template(template), lambda claim: "any"))
    if "{" in template.partition("/")[0]:
        raise ValueError("the first name of the budget is a claim, which could be anybody's budget; write its name")
    return template


def _check_run(template: str) -> str:
    check_run_segment(filled(check_claim_template(template), lambda claim: "any"))
    return template


def _check_jwks_url(url: str) -> str:
    return check_http_url(url, allow_http=False)


ClaimTemplate = Annotated[str, AfterValidator(check_claim_template)]

BudgetTemplate = Annotated[str, AfterValidator(_check_budget)]

RunTemplate = Annotated[str, AfterValidator(_check_run)]

_TAGS_MAX = 20


class GatewayClientSettings(Table):
    """Who may ask the gateway, by a key that is made elsewhere; `paymaster clients create` makes others at run time."""

    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the client's key in hexadecimal: `printf %s "$KEY" | sha256sum`. The key is at least 32 random
    characters, such as `openssl rand -hex 32`. No default: this or `key` is set."""
    key: KeyName | None = None
    """The NAME of a key (see `[keys]`), never the key: who sends its value is this client. No default: this or
    `key_sha256` is set."""
    budget: BudgetPath
    """What its requests are charged to, or a budget below it that a request names; never another one. No default."""
    routes: Routes = None
    """The routes, and "service/model", that it may ask for. None, the default: all."""
    expires_at: Instant | None = None
    """From then on its key is refused. None, the default: never."""
    requests_at_once: AtLeastOne | None = None
    """Requests that it may have in flight in one gateway. None, the default: `gateway.requests_at_once`."""

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if (self.key_sha256 is None) == (self.key is None):
            raise ValueError("set one of `key_sha256` and `key`")
        return self


class JwtSettings(Table):
    """Who may ask the gateway by a token (JWT) of your identity provider. `{claim}` in a value stands for the token's
    claim of that name, which the token then must have."""

    issuer: Annotated[str, Field(min_length=1, max_length=1_000)]
    """The claim `iss` of the tokens, exactly as the provider writes it. No default."""
    audience: Annotated[tuple[str, ...], Field(min_length=1)]
    """One of these must be in the claim `aud`: what the tokens are for, such as ["api://paymaster"]. No default."""
    jwks_url: Annotated[str, AfterValidator(_check_jwks_url)]
    """Where the provider publishes its keys (`jwks_uri` of its OpenID configuration): https:// (http:// to this
    machine). No default."""
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(each_once), Field(min_length=1)] = ("RS256", "ES256")
    """How tokens may be signed. Default ["RS256", "ES256"]."""
    budget: BudgetTemplate
    """What the requests are charged to, or a budget below it: "acme/{team}/{sub}". A claim is one name of the path, and
    the first name is no claim. No default."""
    routes: Routes = None
    """The routes, and "service/model", that may be asked for. None, the default: all."""
    routes_claim: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The claim that lists the routes which may be asked for, of those in `routes`, as an array or as words with spaces
    between them. None, the default: no claim does."""
    run: RunTemplate | None = None
    """The run that all the requests count for: "{session}". None, the default: requests may name one."""
    tags: dict[str, ClaimTemplate] = Field(default_factory=dict[str, str])
    """What is stored with every attempt, for reports: { team = "{team}", user = "{email}" }. Default {}."""
    requests_at_once: AtLeastOne | None = None
    """Requests that one `sub` may have in flight in one gateway. None, the default: `gateway.requests_at_once`."""

    @model_validator(mode="after")
    def _has_few_tags(self) -> Self:
        if len(self.tags) > _TAGS_MAX:
            raise_at([(("tags",), f"there are {len(self.tags)} and may be {_TAGS_MAX}")])
        return self
