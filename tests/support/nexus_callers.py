"""Callers of another namespace: endpoints that lead to a Paymaster, and workflows that ask through them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from nexus_agents import Asks, AsksAnything, AsksMuch, AsksWithoutConverter, ReadsWhatIsTooLarge
from paymaster_process import Site, new_namespace
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, Plugin
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.worker import Worker

from paymaster.messages.temporal_names import nexus_task_queue

CALLERS_TASK_QUEUE = "callers"
WORKFLOWS = [Asks, AsksAnything, AsksMuch, AsksWithoutConverter, ReadsWhatIsTooLarge]


async def make_endpoint(site: Site, name: str) -> None:
    """An endpoint of this name, the same for all namespaces of the server, that leads to that site."""
    queue = nexus_task_queue(site.settings.ledger.name)
    target = EndpointTarget.Worker(namespace=site.namespace, task_queue=queue)
    spec = EndpointSpec(name=name, target=EndpointTarget(worker=target))
    await site.client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))


@asynccontextmanager
async def callers_of(
    site: Site, converter: DataConverter = pydantic_data_converter, plugins: Sequence[Plugin] = ()
) -> AsyncGenerator[Client]:
    """A client of a namespace of the callers' own, with their workflows running."""
    namespace = await new_namespace(site.temporal_address)
    client = await Client.connect(site.temporal_address, namespace=namespace, data_converter=converter, plugins=plugins)
    async with Worker(client, task_queue=CALLERS_TASK_QUEUE, workflows=WORKFLOWS):
        yield client
