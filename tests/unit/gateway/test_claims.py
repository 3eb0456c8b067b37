"""What a token's claims allow: whatever a user has written into them stays below the budget of the configuration."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_provider import IdentityProvider
from pydantic import ValidationError

from paymaster.gateway.claims import terms_of
from paymaster.gateway.terms import ClientTerms, NotAClient, budget_below
from paymaster.settings.gateway_clients import JwtSettings
from paymaster.values.budget_path import LEVELS_MAX, PATH_LENGTH_MAX

ANYTHING: st.SearchStrategy[Any] = (
    st.text(max_size=30)
    | st.sampled_from(["", ".", "..", "a/b", "/", "a/", "../bosses", "a\n", "ä", "A" * 300, "{sub}", "*"])
    | st.integers()
    | st.booleans()
    | st.none()
    | st.lists(st.text())
)


def settings(tables: Mapping[str, object]) -> JwtSettings:
    return JwtSettings.model_validate(
        IdentityProvider().settings() | {"jwks_url": "https://acme.example/keys"} | dict(tables)
    )


def terms(tables: Mapping[str, object], **claims: object) -> ClientTerms:
    return terms_of({"sub": "u-17", "team": "tides", "exp": 1_800_000_000} | claims, settings(tables))


def test_claims_become_what_the_configuration_says() -> None:
    tables: dict[str, object] = {
        "budget": "acme/{team}/people/{sub}",
        "run": "night-{session}",
        "tags": {"team": "{team}", "who": "{https://acme.example/name} ({sub})"},
        "requests_at_once": 5,
    }
    found = terms(tables, **{"session": 12, "https://acme.example/name": "Ada L."})
    assert found == ClientTerms(
        "jwt:u-17",
        "acme/tides/people/u-17",
        expires_at=datetime.fromtimestamp(1_800_000_000, UTC),
        requests_at_once=5,
        run="night-12",
        metadata={"team": "tides", "who": "Ada L. (u-17)"},
    )


@given(team=ANYTHING, sub=ANYTHING)
def test_no_claim_leads_out_of_the_tree(team: object, sub: object) -> None:
    """Either the budget is just as deep as its template, and each claim is one name in it, or the token is refused."""
    try:
        budget = terms({"budget": "acme/people/{team}/{sub}"}, team=team, sub=sub).budget
    except NotAClient:
        return
    assert budget == f"acme/people/{team}/{sub}"
    assert budget.count("/") == 3
    assert not {".", ".."} & set(budget.split("/"))
    assert len(budget) <= PATH_LENGTH_MAX


@pytest.mark.parametrize("value", ["a/b", "..", ".", "", "a b", "ä", "a\nb", "*", True, None, ["a"], {"a": 1}, 1.5])
def test_a_claim_is_one_name_of_a_path(value: object) -> None:
    with pytest.raises(NotAClient, match="claim team") as refused:
        terms({}, team=value)
    assert refused.value.status == 403


def test_a_claim_that_is_not_there_is_named() -> None:
    for tables in ({"run": "{session}"}, {"tags": {"x": "{session}"}}, {"routes_claim": "session"}):
        with pytest.raises(NotAClient, match="the token's claim session is missing"):
            terms(tables)


@pytest.mark.parametrize(
    ("routes", "claim", "allowed"),
    [
        (None, ["a", "b"], {"a", "b"}),
        (None, "a b", {"a", "b"}),
        (None, [], set[str]()),
        (["a"], ["a", "b"], {"a"}),
        (["a"], ["b"], set[str]()),
    ],
)
def test_a_claim_may_list_routes(routes: list[str] | None, claim: object, allowed: set[str]) -> None:
    """Those of the configuration at most; and none is none, and not all of them."""
    assert terms({"routes": routes, "routes_claim": "may"}, may=claim).routes == allowed


@pytest.mark.parametrize("claim", [7, True, {"a": 1}, [1], ["a", None]])
def test_what_lists_no_routes(claim: object) -> None:
    with pytest.raises(NotAClient, match="claim may"):
        terms({"routes_claim": "may"}, may=claim)


@pytest.mark.parametrize("sub", ["a b", "a\r\nx-evil: 1", "", "ä", "x" * 201])
def test_a_subject_can_be_a_name(sub: str) -> None:
    """It is in logs, and tells clients apart."""
    with pytest.raises(NotAClient, match="claim sub"):
        terms({"budget": "acme"}, sub=sub)


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"budget": "{team}/{sub}"}, "the first name of the budget is a claim"),
        ({"budget": "x-{team}/{sub}"}, "the first name of the budget is a claim"),
        ({"budget": "acme/{team"}, "write names of claims in braces"),
        ({"budget": "acme/{}"}, "write names of claims in braces"),
        ({"budget": "acme//{sub}"}, "is not a segment"),
        ({"run": "{a}/{b}"}, "neither a run's id"),
        ({"tags": {"x": "}"}}, "write names of claims in braces"),
        ({"tags": {str(n): "x" for n in range(21)}}, "there are 21 and may be 20"),
        ({"algorithms": ["HS256"]}, "Input should be"),
        ({"algorithms": ["none"]}, "Input should be"),
        ({"algorithms": []}, "at least 1 item"),
        ({"audience": []}, "at least 1 item"),
        ({"issuer": ""}, "at least 1 character"),
    ],
)
def test_a_configuration_that_would_let_others_in(tables: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        settings(tables)


@pytest.mark.parametrize("url", ["http://login.acme.example/keys", "ftp://login.acme.example/keys", "keys"])
def test_keys_come_over_tls(url: str) -> None:
    with pytest.raises(ValidationError, match="jwks_url"):
        JwtSettings.model_validate(IdentityProvider().settings() | {"jwks_url": url})


# ---------------------------------------------------------------- a budget that a request names

NAMES = st.lists(st.sampled_from(["a", "b", "ab", "A", "a.b", "a-b"]), min_size=1, max_size=LEVELS_MAX + 1)


@given(own=NAMES.filter(lambda names: len(names) <= 3).map("/".join), named=NAMES.map("/".join))
def test_a_request_may_name_a_budget_below_its_own(own: str, named: str) -> None:
    """That and nothing else, however much its name is like its own."""
    is_below = named.split("/")[: own.count("/") + 1] == own.split("/")
    if named.count("/") >= LEVELS_MAX:
        with pytest.raises(ValueError, match="levels"):
            budget_below(own, named)
    elif is_below:
        assert budget_below(own, named) == named
    else:
        with pytest.raises(NotAClient) as refused:
            budget_below(own, named)
        assert refused.value.status == 403


@pytest.mark.parametrize("named", ["", "/", "acme/", "/acme", "acme//x", "acme/x\n", "acme/x y", "acme/*"])
def test_what_is_no_budget_is_not_below_one(named: str) -> None:
    with pytest.raises(ValueError, match="budget path"):
        budget_below("acme", named)
