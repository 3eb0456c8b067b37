"""An agent under a budget: `python my_agent.py "How do tides work?"`, while `paymaster dev` runs elsewhere."""

import asyncio
import sys
from uuid import uuid4

from temporalio import workflow
from temporalio.worker import Worker

from paymaster import CallDenied, LLMRequest, generate
from paymaster.client import connect

TASK_QUEUE = "my-agent"
BUDGET = "dev/my-agent"  # counts for `dev` too, whose cap is in paymaster.toml


@workflow.defn
class MyAgent:
    @workflow.run
    async def run(self, question: str) -> str:
        # Each call is paid once, whatever crashes. It waits here, at no cost, when the budget is used up.
        try:
            draft = await generate(LLMRequest(route="writer", budget=BUDGET, prompt=question))
            prompt = f"Make this shorter, in two sentences:\n\n{draft.text}"
            short = await generate(LLMRequest(route="writer", budget=BUDGET, prompt=prompt))
        except CallDenied as denied:  # it waited as long as it may (`wait_at_most`), or can never fit
            return f"denied: {denied}"
        return f"{short.text}\n\n(${draft.cost_usd + short.cost_usd} by {short.model})"


async def main() -> None:
    question = " ".join(sys.argv[1:]) or "How do tides work?"
    client = await connect()  # localhost:7233, else where TEMPORAL_ADDRESS says
    async with Worker(client, task_queue=TASK_QUEUE, workflows=[MyAgent]):
        answer = await client.execute_workflow(MyAgent.run, question, id=f"my-agent/{uuid4()}", task_queue=TASK_QUEUE)
    print(answer)


if __name__ == "__main__":
    asyncio.run(main())
