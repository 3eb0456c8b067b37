"""Agents with sub-agents, activities and a continue-as-new: each place from which a call can be asked for."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta

import httpx2
from temporalio import activity, workflow

from paymaster import LLMRequest, generate, run_budget
from paymaster import client as outside
from paymaster.errors import CallDenied
from paymaster.transport import PaymasterTransport, SyncPaymasterTransport

QUICKLY = timedelta(seconds=30)
URL = "https://anywhere.invalid/v1/chat/completions"
PLACES = ("own", "task", "transport", "child", "activity", "thread", "child-activity")


def asked(place: str, route: str = "writer", budget: str = "acme/agents") -> LLMRequest:
    return LLMRequest(route=route, budget=budget, prompt=place, max_output_tokens=100, call_id=place)


def body(place: str, route: str) -> dict[str, object]:
    return {"model": route, "messages": [{"role": "user", "content": place}], "max_completion_tokens": 100}


@activity.defn
async def asks_in_activity(place: str, route: str) -> None:
    await outside.generate(activity.client(), asked(place, route))


@activity.defn
def asks_in_thread(place: str, route: str) -> None:
    """Over the client that the environment says."""
    with httpx2.Client(transport=SyncPaymasterTransport("acme/agents")) as http:
        http.post(URL, json=body(place, route), headers={"idempotency-key": place}).raise_for_status()


async def in_transport(place: str, route: str, budget: str = "acme/agents") -> None:
    async with httpx2.AsyncClient(transport=PaymasterTransport(budget)) as http:
        (await http.post(URL, json=body(place, route), headers={"idempotency-key": place})).raise_for_status()


async def ask_at(place: str, name: str, route: str) -> None:
    """`name` tells the calls of agents apart."""
    here = f"{name}/{place}"
    match place:
        case "own":
            await generate(asked(here, route))
        case "task":
            await asyncio.create_task(generate(asked(here, route)))
        case "transport":
            await in_transport(here, route)
        case "activity":
            await workflow.execute_activity(asks_in_activity, args=[here, route], start_to_close_timeout=QUICKLY)
        case "thread":
            await workflow.execute_activity(asks_in_thread, args=[here, route], start_to_close_timeout=QUICKLY)
        case "child":
            await workflow.execute_child_workflow(SubAgent.run, args=[["own"], here, route])
        case "child-activity":
            await workflow.execute_child_workflow(SubAgent.run, args=[["activity"], here, route])
        case _:
            raise ValueError(place)


@workflow.defn
class SubAgent:
    @workflow.run
    async def run(self, places: Sequence[str], name: str, route: str) -> None:
        for place in places:
            await ask_at(place, name, route)


@workflow.defn
class RunAgent:
    """Asks at each place, and once more in its next run."""

    @workflow.run
    async def run(self, places: Sequence[str], name: str, route: str, times: int = 1) -> None:
        await asyncio.gather(*(ask_at(place, f"{name}/{times}", route) for place in places))
        if times > 1:
            workflow.continue_as_new(args=[places, name, route, times - 1])


@workflow.defn
class BudgetedAgent:
    """Asks at each place within a budget of its run, within a part of that, and outside of both.

    It waits in each, once, for a signal; its next run says its budget again.
    """

    def __init__(self) -> None:
        self._steps = 0

    @workflow.run
    async def run(self, places: Sequence[str], name: str, usd: str, route: str, again: bool) -> None:
        with run_budget(usd):
            await self._step(1, again)
            for place in places:
                await ask_at(place, f"{name}/{again}/run", route)
            with run_budget(usd, name=name):
                await self._step(2, again)
                for place in places:
                    await ask_at(place, f"{name}/{again}/part", route)
            if again:
                workflow.continue_as_new(args=[places, name, usd, route, False])
        await ask_at("own", f"{name}/{again}/outside", route)

    async def _step(self, number: int, waits: bool) -> None:
        await workflow.wait_condition(lambda: self._steps >= number or not waits)

    @workflow.signal
    def go_on(self) -> None:
        self._steps += 1


@workflow.defn
class Looper:
    """Asks for the same thing again and again, each time as a call of its own."""

    @workflow.run
    async def run(self, times: int, route: str, budget: str) -> int:
        for number in range(times):
            try:
                await generate(asked("the same thing", route, budget).model_copy(update={"call_id": None}))
            except CallDenied:
                return number
        return times


def many(name: str, count: int) -> list[str]:
    return [f"{name} {number:02}" for number in range(count)]


@workflow.defn
class Crew:
    """A sub-agent that makes all its calls at once, every other one over the transport where it may."""

    @workflow.run
    async def run(self, name: str, route: str, count: int, budget: str, transport: bool) -> None:
        await asyncio.gather(
            *(
                in_transport(prompt, route, budget)
                if transport and number % 2
                else generate(asked(prompt, route, budget).model_copy(update={"call_id": None}))
                for number, prompt in enumerate(many(name, count))
            )
        )


@workflow.defn
class Fleet:
    """Ten calls, and after a continue-as-new ninety at once: thirty of its own and twenty of each of three crews."""

    @workflow.run
    async def run(self, route: str, budget: str, usd: str | None, transport: bool, begun: bool) -> None:
        with nullcontext() if usd is None else run_budget(usd):
            if not begun:
                await Crew().run("first", route, 10, budget, transport)
                workflow.continue_as_new(args=[route, budget, usd, transport, True])
            await asyncio.gather(
                Crew().run("fleet", route, 30, budget, transport),
                *(
                    workflow.execute_child_workflow(Crew.run, args=[f"crew{n}", route, 20, budget, transport])
                    for n in range(3)
                ),
            )


ACTIVITIES = [asks_in_activity, asks_in_thread]
WORKFLOWS = [Looper, RunAgent, SubAgent, BudgetedAgent, Fleet, Crew]
