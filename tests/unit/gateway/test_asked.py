"""An HTTP request as a call: whose budget, which run, which route."""

import json
from datetime import timedelta
from typing import Any

import pytest

from paymaster.gateway.asked import AskedCall, Refused, asked_call, is_own_call, new_call_id
from paymaster.gateway.clients import ClientTerms, NotAClient

CLIENT = ClientTerms("notebooks", "acme/notebooks", metadata={"team": "tides"})
BODY = json.dumps({"model": "writer", "messages": []}).encode()


def asked(path: str = "/v1/chat/completions", client: ClientTerms = CLIENT, **headers: str) -> AskedCall:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asked_call(path, named, BODY, client, timedelta(seconds=50))


def test_it_waits_for_held_money_and_not_for_money_that_is_gone() -> None:
    """A killed gateway leaves nothing parked: the call says itself how long it waits."""
    request = asked().request
    assert (request.route, request.budget, request.on_exhausted) == ("writer", "acme/notebooks", "fail")
    assert request.wait_at_most == timedelta(seconds=50)


@pytest.mark.parametrize("budget", ["acme/notebooks", "acme/notebooks/alice", "acme/notebooks/a/b"])
def test_a_budget_of_the_clients_own(budget: str) -> None:
    assert asked(x_paymaster_budget=budget).request.budget == budget


@pytest.mark.parametrize("budget", ["acme", "acme/notebooks2", "acme/other", "other"])
def test_no_other_budget(budget: str) -> None:
    with pytest.raises(NotAClient, match="acme/notebooks or one below it") as refused:
        asked(x_paymaster_budget=budget)
    assert refused.value.status == 403


@pytest.mark.parametrize("budget", ["", "a,b"])
def test_what_is_no_budget(budget: str) -> None:
    with pytest.raises(Refused, match="x-paymaster-budget"):
        asked(x_paymaster_budget=budget)


def test_only_the_clients_routes() -> None:
    for routes, allowed in ((frozenset({"writer"}), True), (frozenset({"other"}), False), (frozenset[str](), False)):
        client = ClientTerms("notebooks", "acme", routes=routes)
        if allowed:
            assert asked(client=client).request.route == "writer"
        else:
            with pytest.raises(Refused, match="not_allowed: the client notebooks may not ask for 'writer'"):
                asked(client=client)


@pytest.mark.parametrize(
    ("headers", "run"),
    [
        ({}, None),
        ({"x_paymaster_run": "pr-17"}, "notebooks:pr-17"),
        ({"x_claude_code_session_id": "5f0c"}, "notebooks:5f0c"),
        ({"session_id": "0199"}, "notebooks:0199"),
        ({"x_paymaster_run": "pr-17", "session_id": "0199"}, "notebooks:pr-17"),
        ({"session_id": "what is no run's id"}, None),
    ],
)
def test_the_run_is_one_of_the_client(headers: dict[str, Any], run: str | None) -> None:
    assert asked(**headers).request.run == run


def test_the_run_that_a_client_has_is_not_another_one() -> None:
    client = ClientTerms("notebooks", "acme", run="nightly")
    assert asked(client=client, x_paymaster_run="pr-17").request.run == "nightly"


@pytest.mark.parametrize("run", ["a/b", "a b", "", "x" * 300])
def test_what_is_no_runs_id_is_refused(run: str) -> None:
    with pytest.raises(Refused, match="bad_request"):
        asked(x_paymaster_run=run)


def test_metadata_of_the_request_does_not_hide_who_asks() -> None:
    said = asked(x_paymaster_metadata="feature=a%20haiku, team=other,client=other").request.metadata
    assert said == {"feature": "a haiku", "team": "tides", "client": "notebooks"}
    with pytest.raises(Refused, match="'haiku' is not name=value"):
        asked(x_paymaster_metadata="haiku")


def test_a_key_names_another_call_for_each_client() -> None:
    ids = {asked(client=ClientTerms(name, "acme"), idempotency_key="1").request.call_id for name in ("a", "b")}
    assert len(ids) == 2
    assert asked(idempotency_key="1").keeps
    assert not asked().keeps


@pytest.mark.parametrize(
    ("path", "dialect", "named"),
    [
        ("/v1/chat/completions", "openai", "writer"),
        ("/v1/messages?beta=true", "anthropic", "writer"),
        ("/v1beta/models/flash:streamGenerateContent?alt=sse", "gemini", "flash"),
        ("/v1beta/models/google/flash:generateContent", "gemini", "google/flash"),
    ],
)
def test_each_dialect_by_its_path(path: str, dialect: str, named: str) -> None:
    found = asked(path)
    assert (found.dialect, found.request.route) == (dialect, named)


def test_what_is_no_call_is_refused() -> None:
    with pytest.raises(Refused, match="no_such_path"):
        asked("/v1/files")


def test_a_detached_call_waits_as_its_budget_says() -> None:
    request = asked(x_paymaster_detach="true").request
    assert (request.on_exhausted, request.wait_at_most) == (None, None)
    assert not asked(x_paymaster_detach="false").detached
    with pytest.raises(Refused, match="neither true nor false"):
        asked(x_paymaster_detach="1")


def test_the_id_of_a_call_says_whose_it_is() -> None:
    other = ClientTerms("notebook", "acme/notebooks")
    for call_id in (asked(idempotency_key="k").request.call_id, new_call_id(CLIENT)):
        assert call_id is not None
        assert (is_own_call(CLIENT, call_id), is_own_call(other, call_id)) == (True, False)


@pytest.mark.parametrize(("said", "repeats"), [("0", 0), ("2", 2), ("-1", 0), ("x", 0), ("9" * 50, 0)])
def test_how_often_it_was_sent_before_is_what_its_sdk_says(said: str, repeats: int) -> None:
    assert asked(x_stainless_retry_count=said).repeats == repeats
