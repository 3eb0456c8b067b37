"""Search attributes of calls, by which the Temporal UI and its CLI find them: `PaymasterCostUsd > 0.1`.

They must be registered in the namespace before a workflow sets them, or its task fails. `paymaster migrate` registers
them; a worker looks once at its start, and without them its calls are only not found.
"""

from collections.abc import Mapping
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages import Grant
from paymaster.values.money import nanos_to_usd

BUDGET = SearchAttributeKey.for_keyword("PaymasterBudget")
SERVICE = SearchAttributeKey.for_keyword("PaymasterService")
"""Of the last attempt, as the model. Not set when nothing was sent."""
MODEL = SearchAttributeKey.for_keyword("PaymasterModel")
OUTCOME = SearchAttributeKey.for_keyword("PaymasterOutcome")
"""`completed`, `denied`, `unavailable` or `cancelled`; while it runs `parked`, once it had to wait."""
COST_USD = SearchAttributeKey.for_float("PaymasterCostUsd")
"""To find calls by, not to sum up: a server with an SQL database keeps five decimals."""
RUN = SearchAttributeKey.for_keyword("PaymasterRun")
"""The path of the run that the call counts for. Not set where there is none."""
ALL: tuple[SearchAttributeKey[Any], ...] = (BUDGET, SERVICE, MODEL, OUTCOME, COST_USD, RUN)

_KEYWORD_CHARACTERS_MAX = 255
"""What the columns of a server with an SQL database take; a longer value would be tried there for ever."""


class SearchAttributesMissing(RuntimeError):
    """They are not registered, and could not be. The message says how to register them."""


def call_attributes(
    budget: str, outcome: str, grant: Grant | None, cost_nanos: int, run: str | None
) -> list[SearchAttributeUpdate[Any]]:
    """What a call sets. `grant`: of its last attempt; None: nothing was sent yet."""
    attributes: list[SearchAttributeUpdate[Any]] = [
        BUDGET.value_set(_keyword(budget)),
        OUTCOME.value_set(outcome),
        COST_USD.value_set(float(nanos_to_usd(cost_nanos))),
    ]
    if run is not None:
        attributes.append(RUN.value_set(_keyword(run)))
    if grant is not None:
        attributes += [SERVICE.value_set(_keyword(grant.service)), MODEL.value_set(_keyword(grant.model))]
    return attributes


def _keyword(text: str) -> str:
    """The text as every server can keep it: PostgreSQL, for one, takes no NUL."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:_KEYWORD_CHARACTERS_MAX])


async def register(client: Client) -> None:
    """Registers what is missing in the client's namespace. Raises SearchAttributesMissing where it can't."""
    found = await _registered(client)
    if wrong := [key.name for key in ALL if found.get(key.name, key.indexed_value_type) != key.indexed_value_type]:
        raise SearchAttributesMissing(
            f"{', '.join(wrong)} in namespace {client.namespace} has another type; remove it "
            "(`temporal operator search-attribute remove --name NAME`), and run `paymaster migrate` again"
        )
    missing = [key for key in ALL if key.name not in found]
    if not missing:
        return
    types = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in missing}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=types)
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:  # somebody else did it meanwhile
            raise SearchAttributesMissing(_advice(client, missing, error.message)) from error


async def are_registered(client: Client) -> bool:
    """Whether calls may set them. False too when the server does not say."""
    found = await _registered(client)
    return all(found.get(key.name) == key.indexed_value_type for key in ALL)


async def _registered(client: Client) -> Mapping[str, int]:
    """The types of the namespace's own attributes, as far as the server says."""
    try:
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        return {name: int(kind) for name, kind in listed.custom_attributes.items()}
    except RPCError:  # Temporal Cloud has no operator service; a namespace's description has the names there
        pass
    try:
        described = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace)
        )
    except RPCError:
        return {}
    types = {key.name: key.indexed_value_type for key in ALL}
    return {name: types[name] for name in described.config.custom_search_attribute_aliases.values() if name in types}


def _advice(client: Client, missing: list[SearchAttributeKey[Any]], reason: str) -> str:
    kinds = {key.name: "Double" if key is COST_USD else "Keyword" for key in missing}
    options = " ".join(f"--name {name} --type {kind}" for name, kind in kinds.items())
    cloud = " ".join(f"--search-attribute {name}={kind}" for name, kind in kinds.items())
    return (
        f"search attributes could not be registered in namespace {client.namespace} ({reason}); calls run without "
        "them, and are not found by cost or budget. With the rights of an administrator:\n"
        f"  temporal operator search-attribute create --namespace {client.namespace} {options}\n"
        f"on Temporal Cloud:\n"
        f"  tcld namespace search-attributes add --namespace {client.namespace} {cloud}"
    )
