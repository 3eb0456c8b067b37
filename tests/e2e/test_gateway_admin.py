"""Administration over HTTP: a process of `paymaster serve`, a worker and a real ledger."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from counting_server import CountingServer, FakeService, Reply
from gateway_process import KEY, client_table, running_gateway
from jsonschema import Draft202012Validator
from paymaster_process import Databases, Site, configuration, running_site, until, write_configuration

from paymaster import LLMRequest, RunLimits
from paymaster.client import generate
from paymaster.devstack import EmbeddedStack
from paymaster.gateway.openapi import openapi_document
from paymaster.messages import SetCap
from paymaster.messages.temporal_names import SET_CAP
from paymaster.security.signing_key import SigningKey
from paymaster.values.money import usd_to_nanos

pytestmark = pytest.mark.timeout(120)
BASE = "/v1/paymaster/admin"
ADA, BOB, TEAM, READER = (f"{name}-0123456789abcdef0123456789abcdef" for name in ("ada", "bob", "team", "reader"))
EVERYTHING = ["budgets", "services", "runs", "clients"]


def admin_table(key: str, *may: str, **more: object) -> dict[str, object]:
    return {"key_sha256": sha256(key.encode()).hexdigest(), "may": list(may), **more}


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("administrated")


@pytest.fixture(scope="module")
def tables(service: FakeService) -> dict[str, Any]:
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"day": "5"}}, "acme/team": {"cap_usd": {"day": "2"}}, "other": {}},
    )
    tables["gateway"] = {
        "clients": {"tester": client_table(KEY, "acme/team")},
        "admins": {
            "ada": admin_table(ADA, *EVERYTHING),
            "bob": admin_table(BOB, *EVERYTHING),
            "team": admin_table(TEAM, "budgets", "clients", budget="acme/team"),
            "reader": admin_table(READER, "read"),
        },
    }
    return tables


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, module_folder: Path, tables: dict[str, Any]
) -> AsyncIterator[Site]:
    url = await databases.create()
    async with running_site(stack.temporal_address, url, module_folder, tables, workers=1) as site:
        yield site


@pytest.fixture(scope="module")
async def url(site: Site) -> AsyncIterator[str]:
    async with running_gateway(site) as gateway:
        yield gateway.url


class Caller:
    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    async def get(self, path: str, **query: str | int) -> httpx.Response:
        return await self._ask("GET", path, params=query)

    async def put(self, path: str, document: object, if_match: str | None = None) -> httpx.Response:
        return await self._ask("PUT", path, if_match, json=document)

    async def delete(self, path: str, if_match: str | None = None, **query: str) -> httpx.Response:
        return await self._ask("DELETE", path, if_match, params=query)

    async def _ask(self, method: str, path: str, if_match: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._key}"} | ({} if if_match is None else {"if-match": if_match})
        async with httpx.AsyncClient(base_url=f"{self._url}{BASE}", headers=headers, timeout=30) as client:
            return await client.request(method, path, **more)

    async def day_cap(self, budget: str) -> str | None:
        windows = (await self.get(f"/budgets/{budget}")).json()["windows"]
        return next((each["cap_usd"] for each in windows if each["window"] == "day"), None)


@pytest.fixture
async def ada(url: str) -> Caller:
    caller = Caller(url, ADA)

    async def is_copied() -> bool:
        return (await caller.get("/budgets/acme")).status_code == 200

    await until(is_copied, "the ledger has copied how it stands")
    return caller


async def test_a_cap_is_set_and_read_again_at_once(ada: Caller, site: Site) -> None:
    answer = await ada.put("/caps/day/set/by/put", {"usd": "7.25", "reason": "launch"})
    assert answer.status_code == 200, answer.text
    assert await ada.day_cap("set/by/put") == "7.250000000"
    assert (await site.balance("budget:set/by/put", "day")).cap_nanos == 7_250_000_000
    shown = await site.document("budget", "show", "set/by/put")
    assert "7.250000000" in str(shown)  # the CLI and the API agree
    logged = await ada.get("/changes", budget="set/by/put")
    assert [(each["who"], each["reason"]) for each in logged.json()["items"]] == [("ada", "launch")]


async def test_a_raise_sent_twice_is_one_raise(ada: Caller) -> None:
    await ada.put("/caps/day/raised", {"usd": "1"})
    wanted = {"budget": "raised", "window": "day", "by_usd": "0.5", "reason": "more"}
    answers = [await ada.put("/raises/of-today", wanted) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert await ada.day_cap("raised") == "1.500000000"
    another = await ada.put("/raises/of-today", {**wanted, "by_usd": "5"})
    assert another.status_code == 409
    assert "was used before, for another command" in another.json()["detail"]


async def test_a_cap_is_taken_back(ada: Caller, site: Site) -> None:
    """Of a budget of the file its value is in force again; one that only the cap had named is gone."""
    read = await ada.get("/caps/day/other")
    assert (read.json()["cap_usd"], read.json()["cap_from"]) == (None, "file")
    assert (await ada.delete("/caps/day/other", read.headers["etag"])).status_code == 200  # nothing to take back
    await ada.put("/caps/day/other", {"usd": "3"})
    assert (await ada.delete("/caps/day/other", read.headers["etag"])).status_code == 412
    taken = [await ada.delete("/caps/day/other", reason="as it was") for _ in range(2)]
    assert [(each.status_code, each.json()["cap_usd"]) for each in taken] == [(200, None)] * 2
    logged = (await ada.get("/changes", budget="other")).json()["items"][-1]
    assert (logged["who"], logged["what"], logged["reason"]) == (
        "ada",
        "other day $3.00 → no cap, as configured",
        "as it was",
    )
    await ada.put("/caps/day/only/for/now", {"usd": "3"})
    assert (await ada.put("/caps/day/only/for/now", {"usd": None})).json()["cap_from"] == "file"
    assert (await ada.get("/caps/day/only/for/now")).status_code == 404
    await ada.put("/caps/month/acme", {"usd": "9"})
    unset = await site.document("budget", "unset", "acme", "--window", "month", "--reason", "as it was")
    assert unset == {"account": "budget:acme", "window": "month", "cap_usd": None}


async def test_a_service_has_caps_of_its_own(ada: Caller, url: str, site: Site) -> None:
    path = "/services/administrated/caps/day"
    answer = await ada.put(path, {"usd": "50", "reason": "contract"})
    assert (answer.status_code, answer.json()["service"], answer.json()["cap_usd"]) == (
        200,
        "administrated",
        "50.000000000",
    )
    raised = await ada.put("/raises/of-it", {"service": "administrated", "window": "day", "by_usd": "1"})
    assert raised.json()["cap_usd"] == "51.000000000"
    assert (await site.balance("service:administrated", "day")).cap_nanos == 51_000_000_000
    assert (await Caller(url, TEAM).put(path, {"usd": "1"})).status_code == 403
    assert (await ada.get(path)).headers["etag"] == raised.headers["etag"]
    assert (await ada.delete(path)).json()["cap_usd"] is None


async def test_of_two_admins_at_once_one_comes_too_late(ada: Caller, url: str) -> None:
    await ada.put("/caps/day/contested", {"usd": "1"})
    tag = (await ada.get("/budgets/contested")).headers["etag"]
    bob = Caller(url, BOB)
    answers = await asyncio.gather(
        ada.put("/caps/day/contested", {"usd": "2"}, tag), bob.put("/caps/day/contested", {"usd": "3"}, tag)
    )
    assert sorted(each.status_code for each in answers) == [200, 412]
    stale = next(each for each in answers if each.status_code == 412)
    assert stale.headers["content-type"] == "application/problem+json"
    assert "was changed since it was read" in stale.json()["detail"]
    now = await ada.get("/budgets/contested")
    assert (await ada.put("/caps/day/contested", {"usd": "4"}, now.headers["etag"])).status_code == 200


@pytest.mark.parametrize(
    ("key", "status", "why"),
    [
        (KEY, 403, "the key of the client tester"),
        ("nobody-0123456789abcdef0123456789", 401, "send an admin's key"),
        (READER, 403, "may not change budgets"),
        (TEAM, 403, "acme/team and below"),
    ],
)
async def test_only_admins_who_may_change_a_cap(ada: Caller, url: str, key: str, status: int, why: str) -> None:
    answer = await Caller(url, key).put("/caps/day/acme", {"usd": "1000"})
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert why in answer.json()["detail"]
    assert await ada.day_cap("acme") == "5.000000000"


async def test_an_admins_key_is_no_clients(ada: Caller, url: str) -> None:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {ADA}"}) as client:
        assert (await client.get(f"{url}/v1/models")).status_code == 401
        assert (await client.get(f"{url}/v1/paymaster/budget")).status_code == 401


async def test_an_admin_of_one_budget_sees_and_changes_it_alone(ada: Caller, url: str) -> None:
    team = Caller(url, TEAM)
    assert (await team.put("/caps/day/acme/team/a", {"usd": "1"})).status_code == 200
    assert [each["budget"] for each in (await team.get("/budgets")).json()["items"]] == ["acme/team", "acme/team/a"]
    refused = [await team.get(path) for path in ("/budgets/acme", "/services", "/runs", "/changes")]
    assert {each.status_code for each in refused} == {403}


async def test_a_service_is_paused_and_goes_on(ada: Caller) -> None:
    paused = await ada.put("/services/administrated", {"paused": True, "reason": "maintenance"})
    assert (paused.status_code, paused.json()["paused_by"]) == (200, "ada (maintenance)")
    stale = await ada.put("/services/administrated", {"paused": False}, '"0123"')
    assert stale.status_code == 412
    resumed = await ada.put("/services/administrated", {"paused": False}, paused.headers["etag"])
    assert (resumed.status_code, resumed.json()["paused"]) == (200, False)
    unknown = await ada.put("/services/nowhere", {"paused": True})
    assert (unknown.status_code, "there is no service" in unknown.json()["detail"]) == (409, True)


async def test_a_run_is_raised_and_ended(ada: Caller, site: Site) -> None:
    limits = RunLimits.model_validate({"usd": "1", "calls": 5})
    request = LLMRequest(route="writer", budget="acme/team", prompt="hello", run="pr-17", run_limits=limits)
    await generate(site.client, request)

    async def is_there() -> bool:
        return (await ada.get("/runs/pr-17")).status_code == 200

    await until(is_there, "the run is copied")
    raised = await ada.put("/raises/of-a-run", {"run": "pr-17", "by_usd": "0.5", "calls": 2})
    assert (raised.json()["cap_usd"], raised.json()["calls_max"]) == ("1.500000000", 7)
    ended = await ada.put("/runs/pr-17", {"ended": True}, raised.headers["etag"])
    assert (ended.status_code, ended.json()["ended_by"]) == (200, "ada")


async def test_an_unconfirmed_attempt_is_resolved(ada: Caller, url: str, site: Site, service: FakeService) -> None:
    """By what the provider's bill says: the row, and the books. Corrected later, and given again it is the same."""
    service.script.append(Reply(cut=True))
    await generate(site.client, LLMRequest(route="writer", budget="acme/team", prompt="hello", call_id="lost"))
    [found] = (await ada.get("/unconfirmed")).json()["items"]
    assert (found["call_id"], found["budget"], found["why"]) == ("lost", "acme/team", "connection_lost")
    before = (await site.balance("budget:acme/team", "total")).posted_nanos
    path = f"/unconfirmed/{found['attempt']}"
    too_much = await ada.put(path, {"cost_usd": "1000"})
    assert (too_much.status_code, "`force: true`" in too_much.json()["detail"]) == (409, True)
    assert (await Caller(url, READER).put(path, {"cost_usd": "0"})).status_code == 403
    for _ in range(2):
        resolved = await ada.put(path, {"cost_usd": "0"})
        assert (resolved.status_code, resolved.json()["posted"]) == (200, True), resolved.text
    assert (await ada.get("/unconfirmed")).json()["items"] == []
    charged = before - usd_to_nanos(found["charged_usd"])

    async def is_posted() -> bool:
        return (await site.balance("budget:acme/team", "total")).posted_nanos == charged

    await until(is_posted, "the books have it")
    assert (await ada.put("/unconfirmed/no/such", {"cost_usd": "0"})).status_code == 404


async def test_the_configuration_in_force_beside_the_file(ada: Caller, url: str) -> None:
    document = (await ada.get("/configuration")).json()
    assert (document["differences"], len(document["digest"])) == ([], 64)
    assert document["brought_by"].startswith("worker on ")
    assert (await Caller(url, TEAM).get("/configuration")).status_code == 403


async def test_clients_are_made_once_and_revoked(ada: Caller) -> None:
    terms = {"budget": "acme/team", "routes": ["writer"], "expires_at": "2030-01-01T00:00:00Z"}
    made = await ada.put("/clients/notebooks", terms)
    assert (made.status_code, made.json()["key"].startswith("pmk_")) == (201, True)
    again = await ada.put("/clients/notebooks", terms)
    assert (again.status_code, again.json()["key"]) == (200, None)
    other = await ada.put("/clients/notebooks", {"budget": "acme"})
    assert other.status_code == 409
    revoked = await ada.delete("/clients/notebooks")
    assert (revoked.status_code, revoked.json()["revoked_by"]) == (200, "ada")
    assert [each["name"] for each in (await ada.get("/clients")).json()["items"]] == ["notebooks"]


async def test_a_client_has_no_name_of_somebody_elses(ada: Caller, url: str) -> None:
    """Neither that of a client of the configuration, nor one that was revoked under another budget: under its name are
    the calls and the runs that it had."""
    team, under = Caller(url, TEAM), {"budget": "acme/team"}
    for taken in ("tester", "anybody-here"):
        assert (await team.put(f"/clients/{taken}", under)).status_code == 409
    await ada.put("/clients/revoked", {"budget": "other"})
    await ada.delete("/clients/revoked")
    assert (await team.put("/clients/revoked", under)).status_code == 403
    assert (await ada.put("/clients/revoked", under)).status_code == 201


async def test_pages_follow_each_other(ada: Caller) -> None:
    found: list[str] = []
    after = ""
    while True:
        page = (await ada.get("/budgets", limit=2, after=after)).json()
        found += [each["budget"] for each in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert found == sorted(found)
    assert {"acme", "acme/team", "other"} <= set(found)
    assert (await ada.get("/budgets", limit=0)).status_code == 400


@pytest.mark.parametrize(
    ("path", "document", "status", "why"),
    [
        ("/caps/day/acme", {"usd": "a lot"}, 400, "usd: "),
        ("/caps/day/acme", {"usd": 5}, 400, "usd: "),
        ("/caps/day/acme", {"usd": "5", "bye": 1}, 400, "bye: "),
        ("/caps/fortnight/acme", {"usd": "5"}, 404, "there is no window"),
        ("/caps/day/acme", {}, 400, "usd: "),
        ("/services/nowhere/caps/day", {"usd": "5"}, 409, "there is no account 'service:nowhere'"),
        (f"/services/{'x' * 400}", {"paused": True}, 400, "service: "),
        ("/caps/day/a//b", {"usd": "5"}, 400, "budget"),
        ("/raises/x", {"by_usd": "5"}, 400, "either a budget, a service or a run"),
        ("/raises/y", {"budget": "other", "window": "day", "by_usd": "5"}, 409, "has no cap for 'day'"),
        (f"/raises/{'x' * 400}", {"budget": "acme", "window": "day", "by_usd": "5"}, 400, "200 characters"),
        ("/runs/none", {}, 400, "say either"),
        ("/runs/no%00ne", {"ended": True}, 400, "NUL"),
        ("/clients/late", {"budget": "acme", "expires_at": "9999-12-31T23:59:59-14:00"}, 400, "expires_at: "),
        ("/clients/odd", {"budget": "acme", "routes": ["a\0"]}, 400, "routes.0: "),
        ("/clients/all", {"budget": "acme", "routes": ["x"] * 1_001}, 400, "routes: "),
    ],
)
async def test_nonsense_is_refused_in_words(ada: Caller, path: str, document: object, status: int, why: str) -> None:
    answer = await ada.put(path, document)
    assert answer.status_code == status, answer.text
    assert why in answer.json()["detail"]


def drawn(chance: random.Random, operation: dict[str, Any], path: str) -> tuple[str, object]:
    """A path, and a body, some of it as the document says and some not."""
    texts = ["acme", "acme/team", "day", "administrated", "pr-17", "x" * 400, "\u0000", "a b", "é/ö", "..", "%"]
    for name in re.findall(r"{(\w+)}", path):
        path = path.replace(f"{{{name}}}", quote(chance.choice(texts), safe=""))
    fields = ["usd", "by_usd", "cost_usd", "reason", "budget", "service", "run", "window", "paused", "ended", "held"]
    values = ["1", "day", "acme", "", None, True, 0, -1, [], {}, "x" * 2_000, "\u0000", "NaN", "1e99"]
    body = {chance.choice([*fields, "sha256", "signature", "who", "calls"]): chance.choice(values) for _ in range(3)}
    return path, body if "requestBody" in operation else None


@pytest.mark.parametrize("method", ["get", "put", "delete"])
async def test_every_answer_is_as_the_document_says(ada: Caller, url: str, method: str) -> None:
    """Also to nonsense: a problem in words, and never an internal error."""
    document = openapi_document()
    chance, found = random.Random(method), Counter[int]()
    paths = {p: each[method] for p, each in document["paths"].items() if p.startswith(f"{BASE}/") and method in each}
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {ADA}"}, timeout=30) as client:
        for path, operation in paths.items():
            for _ in range(1 if path.endswith("/prices/newer") else 8):
                where, body = drawn(chance, operation, path)
                answer = await client.request(method, where, json=body)
                said = operation["responses"].get(str(answer.status_code), operation["responses"]["default"])
                kind = answer.headers["content-type"].partition(";")[0]
                assert kind in said["content"], (answer.status_code, where, body, answer.text)
                schema = {**said["content"][kind]["schema"], "components": document["components"]}
                Draft202012Validator(schema).validate(answer.json())
                assert answer.status_code != 500, (where, body)
                found[answer.status_code] += 1
    assert found.keys() & {200, 400, 404}, found


async def test_a_client_sees_how_its_own_budget_stands(ada: Caller, url: str) -> None:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client:
        standing = (await client.get(f"{url}/v1/paymaster/budget")).json()
    assert [each["budget"] for each in standing["budgets"]] == ["acme", "acme/team"]
    assert (standing["client"], standing["age_s"] >= 0) == ("tester", True)


async def test_where_signatures_are_required_the_ledger_wants_one(
    ada: Caller, site: Site, tables: dict[str, Any], tmp_path: Path
) -> None:
    key = SigningKey.create(tmp_path / "alice.pem")
    tables["admin"] = {"require_signature": True, "keys": {"alice": key.public}}
    write_configuration(site.folder / "paymaster.toml", tables)
    assert (await site.document("config", "apply", "--yes"))["applied"]
    refused = await ada.put("/caps/day/acme", {"usd": "9"})
    assert (refused.status_code, "set_cap must be signed here" in refused.json()["detail"]) == (409, True)
    ledger = (await ada.get("/ledger")).json()
    change = SetCap(account="budget:acme", window="day", to="9", reason="signed")
    signed = key.sign(SET_CAP.name, change, by="alice", ledger=ledger["ledger"], epoch=ledger["epoch"])
    assert signed.signature is not None
    wanted = {"usd": "9", "reason": "signed", "signature": signed.signature.model_dump()}
    assert (await ada.put("/caps/day/acme", wanted)).status_code == 200
    logged = (await ada.get("/changes", budget="acme")).json()["items"]
    assert logged[-1]["who"] == "alice"
