"""Buyers of the tests: a workflow, and an activity, that pay a shop's fee. Their worker may be a process of its own.

As a program: `purchasing_agents.py ADDRESS NAMESPACE` runs the worker until it is killed.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

import paymaster
from paymaster import PaymasterError, PurchaseDenied

QUEUE = "buyers"
READY = "the buyers' worker is ready"
FEE = "0.012"
UP_TO = "0.05"
ATTEMPT_TAKES_S = 4
"""After which an activity is tried again whose worker was killed."""


@dataclass
class Errand:
    """What is bought, and where each step is told."""

    budget: str = "acme/agent"
    also: str | None = None
    """A second budget."""
    up_to: str = UP_TO
    fee: str | None = FEE
    """What the buyer says at the end. None: that nothing was bought."""
    fails: bool = False
    """Whether it fails after it has paid, without a word."""
    on_exhausted: str | None = None
    before: str = ""
    """A URL that is told just before the fee is paid; as the others, empty: none."""
    shop: str = ""
    """Where the fee is paid."""
    after: str = ""
    settled: str = ""
    note: str = ""
    """Metadata, and a part of the error where it fails. Empty: none."""
    attempt_takes_s: float = ATTEMPT_TAKES_S
    """Of its activity, in seconds."""

    @property
    def metadata(self) -> dict[str, str]:
        return {"note": self.note} if self.note else {}


async def tell(url: str, text: str) -> None:
    """Returns when it is answered."""
    if url:
        import httpx  # here: a workflow's sandbox refuses it

        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        async with httpx.AsyncClient(timeout=120) as client:
            (await client.post(f"{url}/chat/completions", json=body)).raise_for_status()


async def run_errand(errand: Errand, client: Client | None = None) -> str:
    """The purchase's id."""
    mode = "fail" if errand.on_exhausted == "fail" else None
    budgets = errand.budget if errand.also is None else (errand.budget, errand.also)
    block = paymaster.purchase(
        budgets, up_to=errand.up_to, what="search", on_exhausted=mode, metadata=errand.metadata, client=client
    )
    async with block as bought:
        await tell(errand.before, bought.id)
        await tell(errand.shop, bought.id)
        if errand.fails:
            raise RuntimeError("the shop's answer makes no sense")
        if errand.fee is None:
            bought.nothing()
        else:
            bought.cost(errand.fee)
        await tell(errand.after, bought.id)
    assert bought.result is not None
    await tell(errand.settled, bought.id)
    return bought.id


@activity.defn
async def buy(errand: Errand) -> str:
    return await run_errand(errand)


@activity.defn
async def pay(shop: str, purchase_id: str) -> str:
    """The fee."""
    await tell(shop, purchase_id)
    return FEE


@workflow.defn
class BuysByActivity:
    """Its activity buys, and is tried again."""

    @workflow.run
    async def run(self, errand: Errand) -> str:
        return await workflow.execute_activity(
            buy,
            errand,
            start_to_close_timeout=timedelta(seconds=errand.attempt_takes_s),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
        )


@workflow.defn
class Buys:
    """Buys itself, and has an activity pay. Gives back how the purchase ended, in words."""

    @workflow.run
    async def run(self, errand: Errand) -> list[str]:
        mode = "fail" if errand.on_exhausted == "fail" else None
        try:
            async with paymaster.purchase(
                errand.budget, up_to=errand.up_to, what="search", on_exhausted=mode, metadata=errand.metadata
            ) as bought:
                fee = await workflow.execute_activity(
                    pay,
                    args=[errand.shop, bought.id],
                    start_to_close_timeout=timedelta(seconds=errand.attempt_takes_s),
                )
                if errand.fails:
                    raise PaymasterError(f"the shop's answer makes no sense {errand.note}")
                if errand.fee is None:
                    bought.nothing()
                else:
                    bought.cost(fee)
        except PurchaseDenied as error:
            return ["denied", error.result.reason or ""]
        assert bought.result is not None
        return [bought.result.outcome, str(bought.result.cost_usd)]


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Buys, BuysByActivity],
        activities=[buy, pay],
        workflow_runner=paymaster.sandbox(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),  # of a worker that is killed
    )


async def connected(address: str, namespace: str) -> Client:
    """Without Paymaster's plugin."""
    return await Client.connect(address, namespace=namespace)


@asynccontextmanager
async def buyers_running(address: str, namespace: str) -> AsyncGenerator[Client]:
    client = await connected(address, namespace)
    async with worker(client):
        yield client


async def main(address: str, namespace: str) -> None:
    async with buyers_running(address, namespace):
        print(READY, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
