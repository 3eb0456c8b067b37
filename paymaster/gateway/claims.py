"""What a token's claims allow, as the configuration maps them. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from paymaster.gateway.terms import ClientTerms, NotAClient
from paymaster.settings.gateway_clients import JwtSettings
from paymaster.values.budget_path import check_budget_path
from paymaster.values.claim_template import filled
from paymaster.values.run_path import RUN_LENGTH_MAX, check_run_segment

PREFIX = "jwt:"
"""Before `sub` in the client's name: no client of the configuration or the database is called so."""
_SUBJECT_CHARACTERS_MAX = 200
_TAG_CHARACTERS_MAX = 200
_ROUTES_MAX = 1_000

Claims = Mapping[str, Any]


def terms_of(claims: Claims, settings: JwtSettings) -> ClientTerms:
    """Raises NotAClient."""
    return ClientTerms(
        name=PREFIX + _subject(claims),
        budget=_budget(claims, settings.budget),
        routes=_routes(claims, settings),
        expires_at=_end(claims),
        requests_at_once=settings.requests_at_once,
        run=None if settings.run is None else _run(claims, settings.run),
        metadata={
            name: filled(template, lambda claim: _tag(claims, claim)) for name, template in settings.tags.items()
        },
    )


def _text(claims: Claims, name: str) -> str:
    """A claim that is a text or a whole number."""
    match claims.get(name):
        case bool():
            pass
        case str() | int() as value:
            return str(value)
        case _:
            pass
    raise _unfit(name, "is missing, or is neither a text nor a number")


def _subject(claims: Claims) -> str:
    subject = _text(claims, "sub")
    if not 0 < len(subject) <= _SUBJECT_CHARACTERS_MAX or not all("!" <= character <= "~" for character in subject):
        raise _unfit("sub", f"is not 1 to {_SUBJECT_CHARACTERS_MAX} visible ASCII characters")
    return subject


def _budget(claims: Claims, template: str) -> str:
    """Each claim is one name of the path: with a slash in it, it could lead to somebody else's budget."""

    def name_in_path(claim: str) -> str:
        value = _text(claims, claim)
        try:
            check_budget_path(value)
        except ValueError:
            value = ""
        if value in ("", ".", "..") or "/" in value:
            raise _unfit(claim, "is not one name of a budget's path: letters, digits, '.', '_' and '-'")
        return value

    try:
        return check_budget_path(filled(template, name_in_path))
    except ValueError as error:
        raise NotAClient(403, "not_allowed", f"the token's budget: {error}") from None


def _run(claims: Claims, template: str) -> str:
    run = filled(template, lambda claim: _text(claims, claim))
    try:
        if len(run) > RUN_LENGTH_MAX:
            raise ValueError(f"a run's id has at most {RUN_LENGTH_MAX} characters, this one has {len(run)}")
        return check_run_segment(run)
    except ValueError as error:
        raise NotAClient(403, "not_allowed", f"the token's run: {error}") from None


def _tag(claims: Claims, name: str) -> str:
    value = _text(claims, name)
    if len(value) > _TAG_CHARACTERS_MAX or not value.isprintable():
        raise _unfit(name, f"is not a line of at most {_TAG_CHARACTERS_MAX} characters")
    return value


def _routes(claims: Claims, settings: JwtSettings) -> frozenset[str] | None:
    allowed = None if settings.routes is None else frozenset(settings.routes)
    if settings.routes_claim is None:
        return allowed
    value: Any = claims.get(settings.routes_claim)
    listed: Any = value.split() if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in cast(list[Any], listed)):
        raise _unfit(settings.routes_claim, "is missing, or is neither a list of routes nor words")
    named = frozenset(cast(list[str], listed)[:_ROUTES_MAX])
    return named if allowed is None else named & allowed


def _end(claims: Claims) -> datetime | None:
    """None: later than there are days."""
    try:
        return datetime.fromtimestamp(int(claims["exp"]), UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _unfit(claim: str, why: str) -> NotAClient:
    return NotAClient(403, "not_allowed", f"the token's claim {claim} {why}")
