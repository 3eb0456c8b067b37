"""The run of a workflow: its root's, by the first run of that one's chain, wherever it is asked for."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.client import (
    Client,
    DescribeWorkflowInput,
    Interceptor,
    OutboundInterceptor,
    WorkflowExecutionDescription,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.run_roots import RunRoots
from paymaster.messages import CallRef
from paymaster.testing import local_temporal

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with local_temporal() as temporal:
        yield temporal


def this_workflow() -> CallRef:
    info = workflow.info()
    return CallRef(workflow_id=info.workflow_id, run_id=info.run_id)


@workflow.defn(sandboxed=False)
class Grandchild:
    @workflow.run
    async def run(self) -> list[CallRef]:
        return [this_workflow()]


@workflow.defn(sandboxed=False)
class Child:
    @workflow.run
    async def run(self, found: list[CallRef]) -> list[CallRef]:
        found = [*found, this_workflow(), *await workflow.execute_child_workflow(Grandchild.run)]
        if len(found) < 3:
            workflow.continue_as_new(found)
        return found


@workflow.defn(sandboxed=False)
class Root:
    """Continues as new after each of its children has."""

    @workflow.run
    async def run(self, found: list[CallRef]) -> list[CallRef]:
        found = [*found, this_workflow(), *await workflow.execute_child_workflow(Child.run, [])]
        if len(found) < 8:
            workflow.continue_as_new(found)
        return found


async def test_all_below_a_root_and_all_its_runs_are_one_run(temporal: WorkflowEnvironment) -> None:
    client, queue = temporal.client, str(uuid4())
    async with Worker(client, task_queue=queue, workflows=[Root, Child, Grandchild]):
        agents = [await client.start_workflow(Root.run, [], id=f"a gent {n}", task_queue=queue) for n in range(2)]
        found = [await agent.result() for agent in agents]
    roots = RunRoots(client)
    for agent, workflows in zip(agents, found, strict=True):
        assert len(set(workflows)) == len(workflows) > 6
        runs = {await roots.run_of(each) for each in workflows}
        assert runs == {f"{agent.id.replace(' ', '_')}@{agent.first_execution_run_id}"}


async def test_what_is_not_found_is_a_run_of_its_own(temporal: WorkflowEnvironment) -> None:
    gone = CallRef(workflow_id="gone", run_id=str(uuid4()))
    assert await RunRoots(temporal.client).run_of(gone) == f"gone@{gone.run_id}"


class FailsOnce(Interceptor):
    """The server answers so to the first question, and counts them."""

    def __init__(self, status: RPCStatusCode) -> None:
        self.status = status
        self.asked = 0

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        outer = self

        class Outbound(OutboundInterceptor):
            async def describe_workflow(self, input: DescribeWorkflowInput) -> WorkflowExecutionDescription:
                outer.asked += 1
                if outer.asked == 1:
                    raise RPCError("no", outer.status, b"")
                return await super().describe_workflow(input)

        return Outbound(super().intercept_client(next))


def asking(client: Client, fails: FailsOnce) -> RunRoots:
    return RunRoots(Client(client.service_client, namespace=client.namespace, interceptors=[fails]))


async def test_a_failure_that_passes_is_raised_and_forgotten(temporal: WorkflowEnvironment) -> None:
    """The local activity asks again; what is found is asked for once."""
    handle = await temporal.client.start_workflow("Any", id=str(uuid4()), task_queue="none")
    asker = CallRef(workflow_id=handle.id, run_id=handle.first_execution_run_id or "")
    fails = FailsOnce(RPCStatusCode.UNAVAILABLE)
    roots = asking(temporal.client, fails)
    with pytest.raises(RPCError):
        await roots.run_of(asker)
    assert [await roots.run_of(asker) for _ in range(3)] == [f"{handle.id}@{handle.first_execution_run_id}"] * 3
    assert fails.asked == 2
    await handle.terminate()


async def test_a_workflow_that_nobody_may_describe_is_its_own(temporal: WorkflowEnvironment) -> None:
    fails = FailsOnce(RPCStatusCode.PERMISSION_DENIED)
    roots = asking(temporal.client, fails)
    assert {await roots.run_of(CallRef(workflow_id="w", run_id="r")) for _ in range(3)} == {"w@r"}
    assert fails.asked == 1
