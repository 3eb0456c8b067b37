"""`paymaster doctor` on machines as they are: poolers, roles without grants, unreadable proxies, models that refuse."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from paymaster_process import Databases, Site, running_site
from pgbouncer import needs_pgbouncer, pooled
from sqlalchemy import text
from sqlalchemy.engine import make_url

from paymaster.devstack import EmbeddedStack
from paymaster.storage.engine import create_engine

pytestmark = pytest.mark.timeout(90)
PRICE = {"input": "1.00", "output": "4.00"}
TABLES: dict[str, Any] = {
    "services": {
        "claude": {
            "api": "anthropic",
            "base_url": "https://api.anthropic.com/v1",
            "models": {"claude-opus-5": {"price": PRICE, "max_output_tokens": 500_000}},
        },
        "gemini": {
            "api": "gemini",
            "base_url": "https://generativelanguage.googleapis.com/v1beta",
            "models": {"gemini-2.5-flash-image": {"price": PRICE}},
        },
        "openai": {
            "api": "openai",
            "base_url": "https://api.openai.com/v1",
            "models": {"o3": {"price": PRICE}, "gpt-4o": {"price": PRICE}},
        },
    },
    "routes": {
        "writer": ["openai/gpt-4o", "openai/o3"],
        "painter": ["gemini/gemini-2.5-flash-image", "openai/gpt-4o"],
        "thinker": ["claude/claude-opus-5"],
    },
}


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(stack.temporal_address, database_url, tmp_path / "site", TABLES, workers=0) as site:
        yield site


async def checked(site: Site, **environment: str) -> dict[str, tuple[bool, str]]:
    """What the doctor says, by the names of its checks."""
    site.environment.update(environment)
    ended = await site.command("doctor", "--json")
    return {check["name"]: (check["ok"], check["detail"]) for check in json.loads(ended.output)["checks"]}


async def test_a_direct_database_and_an_owner_are_in_order(site: Site) -> None:
    found = await checked(site)
    assert found["database pooler"] == (True, "none that shares connections between transactions")
    assert found["database grants"] == (True, "the role may do what a worker does")
    assert not any(name.startswith("proxy") for name in found)


@needs_pgbouncer
async def test_a_pooler_that_the_url_does_not_name_is_found(site: Site, tmp_path: Path) -> None:
    """One that refuses the setting jit, and one that ignores it."""
    (tmp_path / "pooler").mkdir()
    async with pooled(site.database_url, tmp_path / "pooler") as url:
        ok, detail = (await checked(site, PAYMASTER__DATABASE__URL=url))["database"]
        assert not ok
        assert "unsupported startup parameter" in detail
        assert "add pgbouncer=true" in detail
    async with pooled(site.database_url, tmp_path / "pooler", more="ignore_startup_parameters = jit") as url:
        found = await checked(site, PAYMASTER__DATABASE__URL=url)
        wrong = [detail for name, (ok, detail) in found.items() if name.startswith("database") and not ok]
        assert wrong
        assert "add pgbouncer=true" in wrong[0]
        found = await checked(site, PAYMASTER__DATABASE__URL=f"{url}?pgbouncer=true")
        ok, detail = found["database pooler"]
        assert ok
        assert "transaction mode" in detail


async def role(url: str, *statements: str) -> str:
    """The URL for a role of its own, which gets no more than these statements give."""
    engine = create_engine(url)
    name = "narrow"
    async with engine.begin() as connection:
        if await connection.scalar(text(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'")) is None:
            await connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'narrow'"))
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()
    return make_url(url).set(username=name, password="narrow").render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("given", "check", "grant"),
    [
        (("GRANT SELECT ON ALL TABLES IN SCHEMA public TO narrow",), "database grants", "GRANT INSERT ON"),
        (("GRANT SELECT ON api_usage TO narrow",), "database", "GRANT SELECT ON paymaster_schema TO"),
        (("REVOKE USAGE ON SCHEMA public FROM PUBLIC",), "database", "GRANT USAGE ON SCHEMA public TO narrow;"),
    ],
    ids=["reads only", "one table only", "not even the schema"],
)
async def test_a_missing_grant_is_named(site: Site, given: tuple[str, ...], check: str, grant: str) -> None:
    url = await role(site.database_url, *given)
    ok, detail = (await checked(site, PAYMASTER__DATABASE__URL=url))[check]
    assert not ok
    assert grant in detail
    if check == "database grants":
        assert "usage_entries" in detail
        assert "cap_changes" in detail


async def test_a_database_that_only_reads_is_a_problem(site: Site) -> None:
    """Nothing can be stored in a replica."""
    name = make_url(site.database_url).database
    await role(site.database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    ok, detail = (await checked(site))["database"]
    assert not ok
    assert "it only reads, as a replica does" in detail


async def test_a_dump_that_was_put_back_without_tables_is_a_problem(site: Site) -> None:
    await role(site.database_url, "INSERT INTO usage_entries_begin VALUES (now())")
    ok, detail = (await checked(site))["database"]
    assert not ok
    assert "put it back whole" in detail.lower()


async def test_migrate_names_the_grant_that_it_lacks(site: Site, databases: Databases) -> None:
    """Since PostgreSQL 15 nobody may create in public but its owner."""
    empty = await databases.create_empty()
    site.environment["PAYMASTER__DATABASE__URL"] = await role(empty)
    ended = await site.command("migrate")
    assert ended.code == 2
    assert 'GRANT USAGE, CREATE ON SCHEMA public TO "narrow";' in ended.errors
    assert "Traceback" not in ended.errors


async def test_a_proxy_that_cannot_be_read_is_a_problem(site: Site) -> None:
    found = await checked(site, HTTPS_PROXY="http://user:hunter2@:nowhere", NO_PROXY="api.openai.com")
    ok, detail = found["proxy HTTPS_PROXY"]
    assert not ok
    assert "write http://HOST:PORT" in detail
    assert "hunter2" not in json.dumps(found)
    found = await checked(site, HTTPS_PROXY="http://user:hunter2@proxy.example:3128")
    assert found["proxy of claude"] == (True, "HTTPS_PROXY, http://proxy.example:3128")
    assert found.keys().isdisjoint({"proxy of openai", "proxy HTTPS_PROXY"})
    assert "hunter2" not in json.dumps(found)


async def test_what_a_routes_model_refuses_is_said(site: Site) -> None:
    """By the profiles that pydantic-ai keeps."""
    found = await checked(site)
    ok, detail = found["model claude/claude-opus-5"]
    assert not ok
    assert "max_output_tokens = 500000 is more than its 128000" in detail
    ok, detail = found["model openai/o3"]
    assert ok
    assert "refuses temperature, top_p" in detail
    assert "in its route there is none" in detail
    ok, detail = found["model gemini/gemini-2.5-flash-image"]
    assert ok
    assert "refuses tools, json_schema" in detail
    assert "there is none" not in detail


async def test_the_file_is_named_and_each_problem_has_a_line(site: Site) -> None:
    file = site.folder / "wrong.toml"
    file.write_text('[budgets.acme]\nlimit = 5\n[gateway]\naddress = "nowhere"\n')
    ended = await site.command("doctor", "--json", "--config", str(file))
    checks = json.loads(ended.output)["checks"]
    assert (ended.code, len(checks) >= 2) == (1, True)
    assert all(each["detail"].startswith(f"{file}: ") for each in checks)
    assert any("gateway.address" in each["detail"] for each in checks)
    found = await checked(site)
    assert found["configuration"] == (True, f"{site.folder / 'paymaster.toml'}: services: 3, routes: 3, budgets: 0")


async def test_used_up_caps_and_what_is_unconfirmed_are_said(
    stack: EmbeddedStack, database_url: str, tmp_path: Path
) -> None:
    tables = {**TABLES, "budgets": {"acme": {"cap_usd": {"day": "0"}}}}
    async with running_site(stack.temporal_address, database_url, tmp_path / "used", tables, workers=1) as site:
        found = await checked(site)
    assert found["ledger"] == (True, f"{site.ledger.name} answers: 0 in flight, 0 parked, 0 unconfirmed")
    ok, detail = found["caps"]
    assert ok
    assert detail.startswith("used up: budget:acme day ($0.00 of $0.00) until ")
    assert "budgets" not in found
