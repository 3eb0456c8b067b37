"""Who administrates, what each may do, and what a request to the administration may say."""

from hashlib import sha256
from typing import Any

import pytest

from paymaster.gateway.admin.asked import Asked
from paymaster.gateway.admin.endpoints import problem_of
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.wanted import CapWanted
from paymaster.gateway.admin.who import Admin, Admins
from paymaster.gateway.asked import Refused
from paymaster.gateway.clients import Clients
from paymaster.settings import GatewaySettings

KEY, OF_CLIENT = "admin-0123456789abcdef0123456789abcdef", "client-0123456789abcdef0123456789abcdef"


def admins(**more: Any) -> Admins:
    hashes = {key: sha256(key.encode()).hexdigest() for key in (KEY, OF_CLIENT)}
    settings = GatewaySettings.model_validate(
        {
            "admins": {"ada": {"key_sha256": hashes[KEY], "may": ["budgets"]}},
            "clients": {"tester": {"key_sha256": hashes[OF_CLIENT], "budget": "acme"}},
            **more,
        }
    )
    return Admins(settings.admins, Clients(settings))


async def test_an_admin_is_known_by_its_key() -> None:
    assert (await admins().of({"authorization": f"Bearer {KEY}"})).name == "ada"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"x-api-key": KEY}, 401),
        ({"authorization": f"Bearer {OF_CLIENT}"}, 403),
        ({"x-api-key": OF_CLIENT}, 403),
    ],
)
async def test_nobody_else_is(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Problem) as refused:
        await admins().of(headers)
    assert refused.value.status == status


async def test_whoever_asks_without_a_key_on_this_machine_is_no_admin() -> None:
    with pytest.raises(Problem) as refused:
        await admins(clients={}, budget="dev").of({"host": "127.0.0.1"})
    assert refused.value.status == 401


@pytest.mark.parametrize(
    ("budget", "allowed"), [("acme", True), ("acme/a", True), ("acme2", False), ("", False), (None, False)]
)
def test_an_admin_of_one_budget(budget: str | None, allowed: bool) -> None:
    admin = Admin("ada", frozenset({"budgets"}), "acme")
    if allowed:
        admin.check("budgets", budget)
    else:
        with pytest.raises(Problem, match="acme and below"):
            admin.check("budgets", budget)


def test_everybody_may_read_and_nobody_changes_more_than_it_may() -> None:
    admin = Admin("ada", frozenset({"budgets"}), None)
    admin.check("read")
    with pytest.raises(Problem, match="may not change services"):
        admin.check("services")


def asked(body: bytes = b"", if_match: str | None = None, **query: str) -> Asked:
    return Asked(Admin("ada", frozenset(), None), {}, query, body, if_match)


@pytest.mark.parametrize("text", ["0123", '"0123', "*", 'W/"0123"', '"a", "b"', ""])
def test_if_match_takes_one_tag(text: str) -> None:
    with pytest.raises(Problem, match="takes one ETag"):
        _ = asked(if_match=text).tag


def test_what_if_match_names_is_the_tag() -> None:
    assert (asked(if_match='"0123abcd"').tag, asked().tag) == ("0123abcd", None)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "99999", "1.5", ""])
def test_a_page_has_a_size(limit: str) -> None:
    with pytest.raises(Problem, match="limit is a number"):
        _ = asked(limit=limit).limit


def test_money_as_a_number_is_told_how_it_is_written() -> None:
    with pytest.raises(Problem) as refused:
        asked(b'{"usd": 5}').read(CapWanted)
    assert refused.value.detail == 'usd: write it as text, in quotes, like "5"'


@pytest.mark.parametrize("usd", ['"1e999999999"', '"a"', '"0.0000000001"', "1.5", '"NaN"', '""'])
def test_amounts_are_exact_text(usd: str) -> None:
    with pytest.raises(Problem, match="usd: "):
        asked(b'{"usd": %b}' % usd.encode()).read(CapWanted)


@pytest.mark.parametrize(
    ("reason", "status"), [("bodies_full", 503), ("request_too_long", 413), ("headers_too_large", 413), ("x", 400)]
)
def test_a_body_without_room_may_be_sent_again(reason: str, status: int) -> None:
    assert problem_of(Refused(reason, "why")).status == status
