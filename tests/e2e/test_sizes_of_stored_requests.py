"""Requests that are too large for Temporal: stored before their calls start, and read by the worker that sends them."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from counting_server import CountingServer, Reply
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books, until
from sqlalchemy.exc import SQLAlchemyError
from stored_bodies import look_now, stored_bodies
from temporalio.client import WorkflowFailureError
from temporalio.testing import ActivityEnvironment

from activities.request_bodies import BodyOutOfReach, RequestBodies
from activities.sweep_bodies import SweepBodiesActivities
from paymaster import CallDenied, CallIdReused, LLMRequest, Outcome
from paymaster.client import generate, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Wire
from paymaster.messages.call_steps import BodySweep
from paymaster.stored_bodies import stored_request
from paymaster.values.limits import STORED_WIRE_BYTES_MAX

pytestmark = pytest.mark.timeout(120)
IMAGE_TOKENS = 1_500


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    models = {MODEL: {"max_output_tokens": 100, "image_tokens_max": IMAGE_TOKENS, "price": PRICE}}
    names = ("large", "poor", "forged", "again", "parked", "waits")
    tables = configuration(
        [server.service(name) for name in names],
        budgets={
            "acme": {"cap_usd": {"total": "1"}},
            "poor": {"cap_usd": {"total": "0.000001"}},
            "one": {"cap_usd": {"total": "0.004"}},
        },
        service={"models": models},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def request(route: str, call_id: str, size: int = 1_000_000, budget: str = "acme/x") -> LLMRequest:
    """With an image of random bytes, which no compression makes smaller. A service gets it as it is."""
    image = base64.b64encode(os.urandom(size * 3 // 4)).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    content = [{"type": "text", "text": "What is it?"}, url]
    asked = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": content}]}
    wire = Wire(dialect="openai", body=json.dumps(asked).encode())
    return LLMRequest(route=route, budget=budget, call_id=call_id, wire=wire)


async def stored(site: Site, asked: LLMRequest) -> LLMRequest:
    made = await stored_request(site.client, site.engine, "default", asked)
    assert made.wire is not None
    assert (len(made.wire.body), made.digest()) == (0, asked.digest())
    return made


def digest_of(asked: LLMRequest) -> str:
    return sha256(b"" if asked.wire is None else asked.wire.body).hexdigest()


def forged(asked: LLMRequest, **fields: object) -> LLMRequest:
    """The request with a reference that somebody made up who wants the body of another call."""
    assert asked.wire is not None
    assert asked.wire.stored is not None
    body = asked.wire.stored.model_copy(update=fields)
    return asked.model_copy(update={"wire": asked.wire.model_copy(update={"stored": body})})


async def test_a_request_of_32_mb_is_sent_byte_for_byte(site: Site, server: CountingServer) -> None:
    """Under a bound of what is not an image, and nothing of it is in the call's history."""
    service = server.service("large")
    service.text = lambda _: "a dog"
    asked = request("large", "large-1", STORED_WIRE_BYTES_MAX - 1_000)
    result = await generate(site.client, await stored(site, asked))
    assert (result.text, result.request_digest) == ("a dog", asked.digest())
    assert sha256(service.requests[-1].content).hexdigest() == digest_of(asked)
    history = await site.client.get_workflow_handle("call/large-1").fetch_history()
    assert len(history.to_json()) < 100_000
    await settled_books(site, service)


async def test_what_it_may_cost_is_measured_from_what_is_stored(site: Site, server: CountingServer) -> None:
    """And not by what its caller says of it: without money nothing is sent."""
    asked = request("poor", "poor-1", budget="poor").model_copy(update={"on_exhausted": "fail"})
    with pytest.raises(CallDenied) as denied:
        await generate(site.client, await stored(site, asked))
    assert denied.value.result.reason == "bound_above_cap"
    assert server.service("poor").count == 0


async def test_a_body_of_another_content_is_denied(site: Site, server: CountingServer) -> None:
    """Only who knows what is stored has it sent."""
    made = await stored(site, request("forged", "forged-1"))
    result = await try_generate(site.client, forged(made, sha256="0" * 64))
    assert (result.outcome, result.reason) == (Outcome.DENIED, "request_gone")
    for number, fields in enumerate(({"size": 10}, {"pieces": 2}, {"reference": "request/none"}), 2):
        changed = forged(made, **fields).model_copy(update={"call_id": f"forged-{number}"})
        result = await try_generate(site.client, changed)
        assert (result.outcome, result.reason) == (Outcome.DENIED, "request_gone")
    assert server.service("forged").count == 0


async def test_stored_or_not_it_is_one_call(site: Site, server: CountingServer) -> None:
    service = server.service("again")
    asked = request("again", "again-1")
    first, second = await stored(site, asked), await stored(site, asked)
    assert (
        await generate(site.client, first) == await generate(site.client, second) == await generate(site.client, asked)
    )
    assert service.count == 1
    with pytest.raises(CallIdReused):
        await generate(site.client, await stored(site, request("again", "again-1")))


async def swept(site: Site) -> set[str]:
    """The stored requests that a sweep leaves, by the ids of their calls."""
    await look_now(site.engine)
    await ActivityEnvironment().run(
        SweepBodiesActivities(site.client, site.engine).sweep_bodies, BodySweep(ledger="default")
    )
    return {name.split("/")[1] for name in await stored_bodies(site.engine) if name.startswith("request/")}


async def test_what_no_call_needs_any_more_is_swept(site: Site, server: CountingServer) -> None:
    """Also what no call was started for. A parked call's stays, that of a later generation too."""
    service = server.service("parked")
    service.reply = lambda _: Reply(400)
    await stored(site, request("parked", "never"))
    asked = await stored(site, request("parked", "later"))
    assert (await try_generate(site.client, asked)).outcome is Outcome.UNAVAILABLE
    service.reply = lambda _: Reply()
    service.hold()
    calls = [await start(site.client, each) for each in (await stored(site, request("parked", "first")), asked)]
    await until(lambda: service.held == 2, "both are sent")
    assert calls[1].id != "call/later"
    assert await swept(site) == {"first", "later"}
    service.release()
    assert [(await call.result()).outcome for call in calls] == [Outcome.COMPLETED] * 2
    assert await swept(site) == set()


async def test_a_call_cancelled_before_it_is_sent_is_free(site: Site, server: CountingServer) -> None:
    """Measuring it was no attempt: it is asked anew under its id."""
    service = server.service("waits")
    service.hold()
    first = await start(site.client, await stored(site, request("waits", "waits-1", budget="one")))
    await until(lambda: service.held == 1, "the first one has all the money on hold")
    asked = request("waits", "waits-2", budget="one")
    parked = await start(site.client, await stored(site, asked))
    await until(lambda: is_parked(site), "the second one is parked")
    await parked.cancel()
    with pytest.raises(WorkflowFailureError):
        await parked.result()
    again = await start(site.client, await stored(site, asked))
    assert again.id != parked.id
    service.release()
    assert [(await call.result()).outcome for call in (first, again)] == [Outcome.COMPLETED] * 2
    assert service.count == 2


async def test_a_worker_holds_few_large_bodies_at_once(site: Site) -> None:
    """Who comes later waits, a small one behind a large one too, and not for ever."""
    asked = [
        await stored(site, request("large", f"held-{size}", size)) for size in (400_000, 400_000, 600_000, 390_000)
    ]
    bodies, inside = RequestBodies(site.engine, bytes_max=1_000_000), list[int]()
    leave = [asyncio.Event() for _ in asked]

    async def holds(number: int) -> None:
        async with bodies.whole(asked[number], 60) as whole:
            assert whole.wire is not None
            inside.append(len(whole.wire.body))
            await leave[number].wait()

    tasks = [asyncio.create_task(holds(number)) for number in range(4)]
    await until(lambda: len(inside) == 2, "two are read")
    with pytest.raises(BodyOutOfReach, match="too many large requests"):
        async with bodies.whole(asked[0], 0.01):
            pass
    leave[0].set()
    await tasks[0]
    assert len(inside) == 2
    leave[1].set()
    await until(lambda: len(inside) == 4, "the others are read")
    for event in leave:
        event.set()
    await asyncio.gather(*tasks)
    assert sorted(size // 100_000 for size in inside) == [3, 4, 4, 6]


async def is_parked(site: Site) -> bool:
    return (await site.ledger.status()).parked == 1


async def test_a_database_that_is_away_is_waited_for(
    stack: EmbeddedStack, server: CountingServer, tmp_path: Path
) -> None:
    """Nothing is stored by halves; a call that has started goes on when it is back."""
    service = server.service("away")
    service.text = lambda _: "a dog"
    own = {"models": {MODEL: {"max_output_tokens": 100, "image_tokens_max": IMAGE_TOKENS, "price": PRICE}}}
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}}, service=own)
    async with EmbeddedStack(temporal=False, model=False) as database:
        url = await Databases(database.database_url).create()
        async with running_site(stack.temporal_address, url, tmp_path, tables) as site:
            asked = await stored(site, request("away", "away-1"))
            await database.postgres.stop()
            with pytest.raises((OSError, TimeoutError, SQLAlchemyError)):
                await stored(site, request("away", "away-2"))
            call = await start(site.client, asked)
            await until(lambda: "the stored request cannot be read now" in site.logs(), "it waits")
            await database.postgres.start()
            assert (await asyncio.wait_for(call.result(), 60)).outcome is Outcome.COMPLETED
            assert [name.split("/")[1] for name in await stored_bodies(site.engine)] == ["away-1"]
