"""Unmodified SDKs, in JavaScript and in Python, judge the gateway: each in a process of its own, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from counting_server import CountingServer, Received, Reply
from gateway_process import client_table, running_gateway
from judged_answers import STRUCTURED, TEXT, TOOL, VECTORS, judged_reply, judged_usage
from judges import run_script, verdict
from page_snippets import scripts, snippets
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(120)
APIS = {"chat": "openai", "responses": "openai-responses", "messages": "anthropic", "gemini": "gemini"}
ENDS = ("refused", "failed", "cut", "held")
"""How a service ends that gives no answer: by a refusal of its own, a failure, without a word, or not yet."""
SPENDER = "judged-spender"
BUDGETS = {"acme": "1", "poor": "0.000001", "spent": "0.0018", "held": "0.0018"}


REFUSALS = {
    "unknown key": (401, "unknown_key", False),
    "money gone": (402, "cap_reached", False),
    "money held": (429, "waited_too_long", True),
    "above the cap": (400, "bound_above_cap", False),
    "unknown budget": (403, "unknown_budget", False),
    "not its route": (403, "not_allowed", False),
    "unknown route": (404, "unknown_route", False),
    "reused": (409, "call_id_reused", False),
    "refused": (400, None, False),
    "failed": (500, None, True),
    "unknown": (504, "connection_lost", False),
}
"""Each row of the gateway's table of errors: its status, its reason, and whether an SDK may send it again."""
TYPED = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    429: "RateLimitError",
    500: "InternalServerError",
}
OF_ANTHROPIC = {402: "PaymentRequiredError", 504: "GatewayTimeoutError"}


@dataclass(frozen=True)
class Judge:
    """An SDK, and what it has to see."""

    api: str
    answers: Mapping[str, object]
    errors: Mapping[int, str]
    """What it raises for a status."""
    other: str
    """What it raises for every other one."""
    retries: int = 2

    def raised(self, status: int, reason: str | None, again: bool) -> dict[str, object]:
        if self.api == "gemini" and status == 504:
            status = 424  # which alone its SDKs do not send again
        sent = 1 + self.retries if again else 1
        return {"error": self.errors.get(status, self.other), "status": status, "reason": reason, "sent": sent}


ANSWERS = {"chat": TEXT, "tool": list(TOOL), "parsed": STRUCTURED}
OPENAI = {
    **ANSWERS,
    "paymaster": True,
    "answered": TEXT,
    "streamed": "aé",
    "metered": 17,
    "response": TEXT,
    "response_streamed": TEXT,
    "vectors": VECTORS,
    "of_base64": VECTORS,
    "models": True,
}
ANTHROPIC = {
    **ANSWERS,
    "paymaster": True,
    "answered": TEXT,
    "streamed": TEXT,
    "metered": 17,
    "beta": TEXT,
    "counted": 12,
}
GOOGLE = {**ANSWERS, "streamed": "aé", "vectors": VECTORS}
VERCEL = {**ANSWERS, "streamed": "aé", "response": TEXT, "response_streamed": TEXT, "vectors": VECTORS}
PROGRAMS = {
    "openai.mjs": Judge("chat", OPENAI, TYPED | {504: "InternalServerError"}, "APIError"),
    "of_openai.py": Judge("chat", OPENAI, TYPED | {504: "InternalServerError"}, "APIStatusError"),
    "anthropic.mjs": Judge("messages", ANTHROPIC, TYPED | OF_ANTHROPIC, "APIError"),
    "of_anthropic.py": Judge("messages", ANTHROPIC, TYPED | OF_ANTHROPIC, "APIStatusError"),
    "google.mjs": Judge("gemini", GOOGLE, {}, "ApiError"),
    "of_google.py": Judge("gemini", GOOGLE, {500: "ServerError"}, "ClientError"),
    "vercel.mjs": Judge("chat", VERCEL, {}, "APICallError", retries=0),
}

CODE = snippets("gateway.md") | scripts("gateway.md")
PAGE = {
    "with_openai.py": "chat",
    "with_anthropic.py": "messages",
    "with_google.py": "gemini",
    "openai.mjs": "chat",
    "anthropic.mjs": "messages",
    "vercel.mjs": "chat",
}
"""The programs of docs/gateway.md, and the API that each speaks."""


def key_of(client: str) -> str:
    return f"the-key-of-{client}".ljust(32, "-")


def service_for(what: str, end: str = "judged") -> str:
    """The name of a service and of its route."""
    return f"{end}-{what}"


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    apis = {service_for(what): api for what, api in APIS.items()} | {
        service_for(api, name): APIS[api] for name in ENDS for api in ("chat", "messages", "gemini")
    }
    apis[SPENDER] = "openai"
    services = {name: server.service(name) for name in apis}
    for name, service in services.items():
        if name != SPENDER:
            service.reply, service.usage = reply_of(name.split("-")[0]), judged_usage
    services[SPENDER].usage = lambda request: TokenUsage(input_tokens=12, output_tokens=100)
    tables = configuration(
        list(services.values()),
        budgets={name: {"cap_usd": {"total": cap}} for name, cap in BUDGETS.items()},
        only={name: {"api": api} for name, api in apis.items()},
        service={"retry": {"maximum_attempts": 1}, "breaker": {"failures": 1_000}},
    )
    clients = {name: client_table(key_of(name), name) for name in BUDGETS}
    clients["stranger"] = client_table(key_of("stranger"), "nobody")
    clients["narrow"] = client_table(key_of("narrow"), "acme", routes=[service_for("responses")])
    tables["gateway"] = {"clients": clients, "wait_at_most": "500ms"}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def reply_of(name: str) -> Callable[[Received], Reply]:
    match name:
        case "refused":
            return lambda request: Reply(400, body=b'{"error": {"message": "no such voice", "type": "voice"}}')
        case "failed":
            return lambda request: Reply(500, headers={"retry-after-ms": "1"})
        case "cut":
            return lambda request: Reply(cut=True)
        case _:
            return judged_reply


@pytest.fixture(scope="module")
async def address(site: Site) -> AsyncIterator[str]:
    async with running_gateway(site) as gateway:
        yield gateway.url


@pytest.fixture(scope="module")
async def spent(site: Site) -> None:
    """A budget that has less than the smallest call may cost."""
    request = LLMRequest(route=SPENDER, budget="spent", prompt="Hello", max_output_tokens=1, on_exhausted="fail")
    while (result := await try_generate(site.client, request)).outcome is Outcome.COMPLETED:
        pass
    assert result.reason == "cap_reached"


def refusals(api: str, reused: str) -> dict[str, dict[str, object]]:
    """By what is refused. `reused`: a key that the client has used for another request."""

    def by(client: str, model: str = service_for(api), **headers: str) -> dict[str, object]:
        return {"key": key_of(client), "model": model, "headers": headers}

    return {
        "unknown key": by("nobody"),
        "money gone": by("spent"),
        "money held": by("held"),
        "above the cap": by("poor"),
        "unknown budget": by("stranger"),
        "not its route": by("narrow"),
        "unknown route": by("acme", "nowhere"),
        "reused": by("acme", **{"Idempotency-Key": reused}),
        "refused": by("acme", service_for(api, "refused")),
        "failed": by("acme", service_for(api, "failed")),
        "unknown": by("acme", service_for(api, "cut")),
    }


@pytest.fixture
async def reused(address: str) -> str:
    """A key with which the client has asked for something else."""
    key = str(uuid4())
    headers = {"authorization": f"Bearer {key_of('acme')}", "idempotency-key": key}
    body = {"model": service_for("chat"), "messages": [{"role": "user", "content": "something else"}]}
    async with httpx.AsyncClient() as client:
        response = await client.post(f"{address}/v1/chat/completions", headers=headers, json=body)
    assert response.status_code == 200, response.text
    return key


@pytest.fixture
async def holding(site: Site, server: CountingServer) -> AsyncIterator[None]:
    """A call in flight holds what its budget has."""
    service = server.service(service_for("chat", "held"))
    service.hold()
    request = LLMRequest(route=service.name, budget="held", prompt="Hello")
    call = asyncio.create_task(try_generate(site.client, request))
    await until(lambda: service.held == 1, "a call is in flight")
    yield
    service.release()
    assert (await call).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("program", PROGRAMS)
async def test_an_sdk_takes_the_gateway_for_its_provider(
    address: str, spent: None, holding: None, reused: str, tmp_path: Path, program: str
) -> None:
    judge = PROGRAMS[program]
    models = {what: service_for(what) for what in APIS} | {"refusals": refusals(judge.api, reused)}
    said = await verdict(program, address, key_of("acme"), models, tmp_path)
    refused = {name: said["refusals"][name] for name in REFUSALS}
    assert refused == {name: judge.raised(*refusal) for name, refusal in REFUSALS.items()}
    assert {name: said[name] for name in judge.answers} == judge.answers


@pytest.mark.parametrize("file", PAGE)
async def test_a_program_of_the_page(address: str, tmp_path: Path, file: str) -> None:
    """docs/gateway.md: it prints the answer."""
    script, code = tmp_path / file, CODE[file]
    for written, here in {
        "http://127.0.0.1:4000": address,
        '"KEY"': f'"{key_of("acme")}"',
        '"writer"': f'"{service_for(PAGE[file])}"',
    }.items():
        assert written in code
        code = code.replace(written, here)
    script.write_text(code)
    ended = await run_script(script)
    assert (ended.code, TEXT in ended.output) == (0, True), ended


def test_each_program_of_the_page_is_run() -> None:
    assert CODE.keys() == PAGE.keys()


async def test_the_books_agree_after_all_judges(site: Site, server: CountingServer) -> None:
    await settled_books(site, *(server.service(name) for name in site.settings.services))
