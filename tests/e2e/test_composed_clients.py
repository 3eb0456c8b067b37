"""What an agent's client has of its own works with PaymasterPlugin, in each order, and its codec is used.

Real workers, with the team's codec in their settings; agents on a worker of their own, as a team has it.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from agents_sdk import ANSWER, AgentOfTheSDK, ModelOfTheSDK
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, settled_books
from team_codec import ENCODING, TakesOthers, TeamsOwnCodec
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Plugin, WorkflowFailureError
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    DefaultPayloadConverter,
    ExternalStorage,
    JSONPlainPayloadConverter,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)
from temporalio.exceptions import ActivityError
from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
from temporalio.plugin import SimplePlugin
from temporalio.worker import Replayer, Worker

from paymaster import LLMRequest, LLMResult, Outcome, try_generate
from paymaster.client import Ledger
from paymaster.client import try_generate as ask_from_outside
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings

pytestmark = pytest.mark.timeout(120)
PROMPT = "A-prompt-that-only-the-team-reads"
PLAIN = Settings()
"""Of agents: they know nothing of the worker's settings."""


class Shouting(JSONPlainPayloadConverter):
    """JSON under another name, and keys in capitals: unreadable for whoever expects the usual one."""

    def to_payload(self, value: Any) -> Payload | None:
        text = json.dumps({"SHOUTED": value})
        return Payload(metadata={"encoding": b"json/plain"}, data=text.encode())

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        return json.loads(payload.data)["SHOUTED"]


class ShoutingConverter(DefaultPayloadConverter):
    def __init__(self) -> None:
        others = [each for each in self.default_encoding_payload_converters if each.encoding != "json/plain"]
        self._set_converters(*others, Shouting())


@workflow.defn(sandboxed=False)
class Asks:
    """Its own argument and result are of plain types, which every converter takes."""

    @workflow.run
    async def run(self, name: str, call_id: str, padding: int = 0, times: int = 2) -> list[str]:
        prompt = PROMPT + "x" * padding
        results: list[LLMResult] = []
        for _ in range(times):  # the second time it waits for the first one's result
            request = LLMRequest(route=name, budget=f"acme/{name}", prompt=prompt, call_id=call_id)
            results.append(await try_generate(request))
        return [f"{result.outcome}: {result.text or result.detail}" for result in results]


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    service = server.service("composed")
    service.text = lambda request: f"answer to {request.prompt[: len(PROMPT)]}"
    return service


def tables(service: FakeService, **encryption: object) -> dict[str, Any]:
    budgets = {f"acme/{service.name}": {"cap_usd": {"total": "10"}}}
    return configuration([service], budgets=budgets) | {"encryption": encryption}


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, module_folder: Path, service: FakeService
) -> AsyncIterator[Site]:
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    settings = tables(service, codec="team_codec:codec")
    url = await databases.create()
    async with running_site(stack.temporal_address, url, module_folder, settings, environment=environment) as site:
        yield site


async def connected(site: Site, converter: DataConverter, plugins: Sequence[Plugin]) -> Client:
    return await Client.connect(
        site.temporal_address, namespace=site.namespace, data_converter=converter, plugins=plugins
    )


async def asked(client: Client, name: str, call_id: str, *more: int) -> list[str]:
    queue = f"queue-{call_id}"
    async with Worker(client, task_queue=queue, workflows=[Asks]):
        return await client.execute_workflow(
            "Asks", args=[name, call_id, *more], id=f"agent-{call_id}", task_queue=queue, result_type=list[str]
        )


async def stored(site: Site, *ids: str) -> bytes:
    """Everything that Temporal keeps of these workflows, as it is."""
    held = b""
    for each in ids:
        history = await site.client.get_workflow_handle(each).fetch_history()
        held += b"".join(event.SerializeToString() for event in history.events)
    return held


COMPLETED = f"{Outcome.COMPLETED}: answer to {PROMPT}"


@pytest.mark.parametrize("payload_converter", [DefaultPayloadConverter, PydanticPayloadConverter, ShoutingConverter])
async def test_a_client_keeps_its_converter_and_codec(
    site: Site, service: FakeService, payload_converter: type[DefaultPayloadConverter]
) -> None:
    converter = DataConverter(payload_converter_class=payload_converter, payload_codec=TakesOthers())
    client = await connected(site, converter, [PaymasterPlugin(PLAIN)])
    call_id = f"own-{payload_converter.__name__}"
    assert await asked(client, service.name, call_id) == [COMPLETED] * 2
    held = await stored(site, f"agent-{call_id}", f"call/{call_id}")
    assert ENCODING in held
    assert PROMPT.encode() not in held
    outside = LLMRequest(route=service.name, budget=f"acme/{service.name}", prompt=PROMPT, call_id=f"{call_id}-outside")
    assert (await ask_from_outside(client, outside)).text == f"answer to {PROMPT}"
    change = RaiseCap(account=f"budget:acme/{service.name}", window="total", by="1", reason="more", who="ada")
    assert (await Ledger(client).raise_cap(change)).cap_nanos
    await settled_books(site, service)


@pytest.mark.parametrize("order", [*permutations(range(3))], ids=str)
async def test_plugins_compose_in_each_order(site: Site, service: FakeService, order: tuple[int, ...]) -> None:
    """Paymaster's, that of OpenAI's Agents SDK, and one that brings the codec: agent, model and call work."""

    def with_codec(converter: DataConverter | None) -> DataConverter:
        return replace(converter or DataConverter.default, payload_codec=TakesOthers())

    plugins: list[Plugin] = [
        PaymasterPlugin(PLAIN),
        OpenAIAgentsPlugin(
            model_params=ModelActivityParameters(start_to_close_timeout=timedelta(seconds=10)),
            model_provider=ModelOfTheSDK(),
        ),
        SimplePlugin("codec", data_converter=with_codec),
    ]
    client = await connected(site, DataConverter.default, [plugins[place] for place in order])
    call_id = "order-" + "".join(map(str, order))
    request = LLMRequest(route=service.name, budget=f"acme/{service.name}", prompt=PROMPT, call_id=call_id)
    async with Worker(client, task_queue=call_id, workflows=[AgentOfTheSDK]):
        agent = f"agent-{call_id}"
        said = await client.execute_workflow(AgentOfTheSDK.run, request, id=agent, task_queue=call_id)
    assert said == [ANSWER, f"answer to {PROMPT}"]
    held = await stored(site, agent, f"call/{call_id}")
    assert ENCODING in held
    assert PROMPT.encode() not in held
    assert ANSWER.encode() not in held


async def test_what_a_composed_agent_did_replays(site: Site, service: FakeService) -> None:
    converter = replace(pydantic_data_converter, payload_codec=TakesOthers())
    client = await connected(site, converter, [PaymasterPlugin(PLAIN)])
    await asked(client, service.name, "replayed")
    history = await client.get_workflow_handle("agent-replayed").fetch_history()
    replayer = Replayer(workflows=[Asks], data_converter=converter, plugins=[PaymasterPlugin(PLAIN)])
    await replayer.replay_workflow(history)


class InMemory(StorageDriver):
    def __init__(self) -> None:
        self.kept: dict[str, Payload] = {}

    def name(self) -> str:
        return "in-memory"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        claims: list[StorageDriverClaim] = []
        for payload in payloads:
            claims.append(StorageDriverClaim(claim_data={"number": str(len(self.kept))}))
            self.kept[str(len(self.kept))] = payload
        return claims

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        return [self.kept[claim.claim_data["number"]] for claim in claims]


async def test_external_storage_of_the_client_is_used(site: Site, service: FakeService) -> None:
    """For what is the agent's own; a request stays inline, since the workers could not fetch it."""
    driver = InMemory()
    storage = ExternalStorage(drivers=[driver], payload_size_threshold=1_000)
    converter = DataConverter(payload_codec=TakesOthers(), external_storage=storage)
    client = await connected(site, converter, [PaymasterPlugin(PLAIN)])
    assert await asked(client, "x" * 2_000, "large-argument") != []
    assert driver.kept, "the agent's own argument"
    before = len(driver.kept)
    assert await asked(client, service.name, "large-request", 300_000) == [COMPLETED] * 2
    assert len(driver.kept) == before


async def test_a_codec_that_the_worker_lacks_is_told_in_words(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path
) -> None:
    async with running_site(stack.temporal_address, database_url, tmp_path, tables(service)) as site:
        client = await connected(site, DataConverter(payload_codec=TakesOthers()), [PaymasterPlugin(PLAIN)])
        count = service.count
        (denied,) = await asked(client, service.name, "lacking", 0, 1)
        assert denied.startswith(Outcome.DENIED)
        assert "binary/of-the-team" in denied
        assert '[encryption] codec = "module:object"' in denied
        with pytest.raises(WorkflowFailureError) as failure:
            await asked(client, service.name, "lacking-again", 0, 2)
        activity_failure = failure.value.cause
        assert isinstance(activity_failure, ActivityError)
        assert "binary/of-the-team" in str(activity_failure.cause)
        assert service.count == count, "nothing was sent"


async def test_a_strict_codec_does_not_stop_the_ledger(site: Site) -> None:
    """Signals by hand are in plain text, and somebody's may be encoded by another codec."""
    plain = await Client.connect(site.temporal_address, namespace=site.namespace)
    budget = plain.get_workflow_handle("budget/default")
    account = "budget:acme/composed"
    cap_before = (await site.balance(account)).cap_nanos or 0
    change = {"account": account, "window": "total", "by": "1", "reason": "by hand", "who": "ada"}
    elsewhere = DataConverter(payload_codec=_Broken())
    other = await Client.connect(site.temporal_address, namespace=site.namespace, data_converter=elsewhere)
    await other.get_workflow_handle("budget/default").signal("raise_cap", change)
    await budget.signal("raise_cap", change)
    await site.ledger.raise_cap(RaiseCap(account=account, window="total", by="1", reason="after", who="ada"))
    assert (await site.balance(account)).cap_nanos == cap_before + 2 * 10**9


class _Broken(TeamsOwnCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(metadata={"encoding": ENCODING}, data=b"nonsense") for _ in payloads]


async def test_plain_requests_are_refused_in_words(site: Site, service: FakeService) -> None:
    """An agent without the plugin or codec would leave its prompts readable without a word."""
    count = service.count
    for plugins in ([], [PaymasterPlugin(PLAIN)]):
        client = await connected(site, pydantic_data_converter, plugins)
        call_id = f"plain-{len(plugins)}"
        first, second = await asked(client, service.name, call_id)
        assert first.startswith(f"{Outcome.DENIED}: the request came in plain text")
        assert "allow_plaintext = true" in first
        assert second == first
    assert service.count == count, "nothing was sent"


async def test_plain_requests_are_taken_where_settings_say_so(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path
) -> None:
    settings = tables(service, codec="team_codec:codec", allow_plaintext=True)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    async with running_site(stack.temporal_address, database_url, tmp_path, settings, environment=environment) as site:
        client = await connected(site, DataConverter(payload_codec=TakesOthers()), [])
        assert await asked(client, service.name, "encoded") == [COMPLETED] * 2
        plain = await connected(site, DataConverter.default, [])
        (first, _) = await asked(plain, service.name, "plain")
        assert first == COMPLETED
