"""Agents that ask what is left of their budgets, without a plugin, in a sandboxed worker."""

from datetime import timedelta

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    import paymaster.client
    from paymaster import LLMRequest, Standing, StandingUnknown, generate, standing


@workflow.defn
class Calls:
    @workflow.run
    async def run(self, request: str) -> str:
        """Takes and gives JSON."""
        return (await generate(LLMRequest.model_validate_json(request))).model_dump_json()


@workflow.defn
class Asks:
    @workflow.run
    async def run(self, budgets: list[str]) -> str:
        """The last answer, or why there is none."""
        last = Standing()
        for budget in budgets:
            try:
                last = await standing(budget)
            except StandingUnknown as error:
                return error.message
        return last.model_dump_json()


@activity.defn
async def left_in_activity(budget: str) -> str:
    return str((await paymaster.client.standing(activity.client(), budget)).left_usd)


@workflow.defn
class AsksByActivity:
    @workflow.run
    async def run(self, budget: str) -> str:
        return await workflow.execute_activity(left_in_activity, budget, start_to_close_timeout=timedelta(minutes=1))
