"""Histories of Temporal: what they were started with, what they mention, where else they have it, and deleting them."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic_core import from_json
from temporalio.api.common.v1 import Payload
from temporalio.api.common.v1 import WorkflowExecution as WorkflowRun
from temporalio.api.enums.v1 import ArchivalState
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.sdk.v1.external_storage_pb2 import ExternalStorageReference
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import RawValue
from temporalio.converter import StorageDriverClaim
from temporalio.service import RPCError, RPCStatusCode

from paymaster.ledger.backlog_pile import unpacked
from paymaster.messages import CallRef

AT_ONCE = 10
"""Questions to Temporal at a time: calls need it more."""
GONE_WITHIN_S = 180.0
"""The server deletes a while after it has said that it will: of what has just ended, after a minute."""
ENDS_WITHIN_S = 30.0
"""So long a call that is cancelled is waited for."""
_LOOKS_AGAIN_AFTER_S = 0.1
_LOOKS_AGAIN_AFTER_MAX_S = 2.0
_REFERENCE = ExternalStorageReference.DESCRIPTOR.full_name.encode()
_OLDER_REFERENCE = b"json/external-storage-reference"
_MARKED = "__temporal_external_storage_reference"
"""What Temporal's SDKs write as the metadata of such references: the message's name, or of older ones the encoding; a
mark where a codec has encoded one."""
_RUN_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

ItemT = TypeVar("ItemT")
FoundT = TypeVar("FoundT")


class NotDeletable(Exception):
    """A history has payloads in a storage from which nothing here can delete; the text says what is missing."""


class Deletes(Protocol):
    """What a driver of an external storage needs so that its payloads can be erased."""

    async def delete(self, claims: list[StorageDriverClaim]) -> None:
        """Deletes these payloads; those that are gone already are no error."""
        ...


async def for_each(items: Iterable[ItemT], ask: Callable[[ItemT], Awaitable[FoundT]]) -> list[FoundT]:
    """What is answered about each, in their order; a few are asked for at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(item: ItemT) -> FoundT:
        async with places:
            return await ask(item)

    return await asyncio.gather(*map(one, items))


async def status_of(client: Client, run: CallRef) -> WorkflowExecutionStatus | None:
    """None: Temporal does not have it, or not any more."""
    execution = await described(client, run.workflow_id, run.run_id)
    return None if execution is None else execution.status


async def described(client: Client, workflow_id: str, run_id: str | None = None) -> WorkflowExecution | None:
    """A run of a workflow; by default the one that was begun last. None: Temporal has none, or can have none, since
    the id is not one of its own."""
    try:
        return await client.get_workflow_handle(workflow_id, run_id=run_id).describe()
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            return None
        raise


def events_of(client: Client, run: CallRef, page_size: int | None = None) -> AsyncIterator[HistoryEvent]:
    handle = client.get_workflow_handle(run.workflow_id, run_id=run.run_id)
    return handle.fetch_history_events(page_size=page_size)


async def first_event(client: Client, run: CallRef) -> HistoryEvent | None:
    """How it was started. None: Temporal does not have it any more."""
    try:
        return await anext(events_of(client, run, page_size=1), None)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def started_with(client: Client, event: HistoryEvent) -> RawValue:
    """The one argument of a workflow of Paymaster's. Raises whatever codecs and storages do, and ValueError."""
    payloads = event.workflow_execution_started_event_attributes.input.payloads
    [message] = await client.data_converter.decode(payloads, [RawValue])
    return cast(RawValue, message)


def payloads_in(message: Message) -> Iterator[Payload]:
    """Every payload anywhere below."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if isinstance(value, Message):
            below: Iterable[object] = [value]
        else:
            below = value.values() if field.message_type.GetOptions().map_entry else value
        yield from chain.from_iterable(payloads_in(each) for each in below if isinstance(each, Message))


class StoredElsewhere(NamedTuple):
    """Where in external storage a payload is."""

    driver_name: str
    claim: StorageDriverClaim


def stored_elsewhere(payload: Payload) -> StoredElsewhere | None:
    """None: the payload is here. Raises NotDeletable for a reference that is written in a way that is not known."""
    if payload.metadata.get("messageType") == _REFERENCE:
        reference = json_format.Parse(payload.data, ExternalStorageReference())
        return StoredElsewhere(reference.driver_name, StorageDriverClaim(dict(reference.claim_data)))
    if payload.metadata.get("encoding") == _OLDER_REFERENCE:
        older = from_json(payload.data)
        return StoredElsewhere(older["driver_name"], StorageDriverClaim(older["driver_claim"]["claim_data"]))
    if _MARKED in payload.metadata:
        raise NotDeletable("it has a reference to external storage that this version cannot read")
    return None


async def mentioned_in(client: Client, run: CallRef) -> set[str]:
    """The run ids that its history names anywhere, also in what is packed of a usage backlog.

    Raises whatever codecs and storages do.
    """
    found: set[str] = set()
    async for event in events_of(client, run):
        for payload in payloads_in(event):
            [read] = await client.data_converter.decode([payload], [RawValue])
            found.update(_RUN_ID.findall(_text(cast(RawValue, read).payload.data)))
    return found


def _text(data: bytes) -> str:
    """With what waits in a backlog that was handed on."""
    if b'"waiting"' in data:
        waiting = cast(dict[str, object], from_json(data)).get("waiting")
        data += unpacked(waiting) if isinstance(waiting, str) else b""
    return data.decode(errors="replace")  # what is no text has no id either


class Deletion(NamedTuple):
    """What became of a history whose deletion was asked for."""

    was_there: bool = True
    payloads: int = 0
    """That were in external storage."""
    why_not: str = ""
    """Empty: nothing is in the way."""


async def delete(client: Client, run: CallRef) -> Deletion:
    """Has the server delete a run that has ended, and deletes what that has in external storage.

    The server does it later: see `still_there`. Raises RPCError.
    """
    status = await status_of(client, run)
    if status is None:
        return Deletion(was_there=False)
    if status is WorkflowExecutionStatus.RUNNING:  # Temporal would terminate it first
        return Deletion(why_not="it is running")
    try:
        return Deletion(payloads=await _delete_ended(client, run))
    except NotDeletable as error:
        return Deletion(why_not=str(error))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:  # somebody else was quicker
            return Deletion(was_there=False)
        raise


async def still_there(client: Client, runs: Sequence[CallRef]) -> set[str]:
    """The run ids of those that the server has not deleted in time. Raises RPCError."""
    left: list[CallRef] = list(runs)
    wait_s = _LOOKS_AGAIN_AFTER_S
    with suppress(TimeoutError):
        async with asyncio.timeout(GONE_WITHIN_S):
            while left:
                found = await for_each(left, partial(status_of, client))
                left = [run for run, status in zip(left, found, strict=True) if status is not None]
                await asyncio.sleep(wait_s if left else 0)
                wait_s = min(2 * wait_s, _LOOKS_AGAIN_AFTER_MAX_S)
    return {run.run_id for run in left}


async def _delete_ended(client: Client, run: CallRef) -> int:
    """How many payloads it had in external storage, from which they are deleted first: only it knows where they are.

    Raises NotDeletable, before anything is deleted, and RPCError.
    """
    stored = [
        found
        async for event in events_of(client, run)
        for payload in payloads_in(event)
        if (found := stored_elsewhere(payload)) is not None
    ]
    await _delete_stored(client, stored)
    execution = WorkflowRun(workflow_id=run.workflow_id, run_id=run.run_id)
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
    )
    return len(stored)


async def _delete_stored(client: Client, stored: Iterable[StoredElsewhere]) -> None:
    """Raises NotDeletable; where a driver is missing, or cannot delete, before anything is deleted."""
    claims: dict[str, list[StorageDriverClaim]] = {}
    for each in stored:
        claims.setdefault(each.driver_name, []).append(each.claim)
    storage = client.data_converter.external_storage
    drivers = {} if storage is None else {driver.name(): driver for driver in storage.drivers}
    for name in claims:
        if name not in drivers:
            raise NotDeletable(f"the external storage {name!r} is not known here: set [payloads] storage")
        if not hasattr(drivers[name], "delete"):
            raise NotDeletable(f"the driver of the external storage {name!r} has no method `delete(claims)`")
    for name, own in claims.items():
        try:
            await cast(Deletes, drivers[name]).delete(own)
        except Exception as error:  # drivers raise whatever they like
            raise NotDeletable(f"the external storage {name!r}: {type(error).__name__}: {error}") from error


async def end(client: Client, run: CallRef, reason: str) -> bool:
    """Cancels a call; whether it has ended soon. What it has sent is waited for, since it is paid for.

    Raises RPCError.
    """
    await client.get_workflow_handle(run.workflow_id, run_id=run.run_id).cancel(reason=reason)
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            while await status_of(client, run) is WorkflowExecutionStatus.RUNNING:  # noqa: ASYNC110 - it may not answer
                await asyncio.sleep(_LOOKS_AGAIN_AFTER_S)
    except TimeoutError:
        return False
    return True


async def archive_of(client: Client) -> str | None:
    """Where the namespace keeps histories beyond their time. None: nowhere. Raises RPCError."""
    asked = DescribeNamespaceRequest(namespace=client.namespace)
    config = (await client.workflow_service.describe_namespace(asked)).config
    is_on = config.history_archival_state == ArchivalState.ARCHIVAL_STATE_ENABLED
    return config.history_archival_uri if is_on else None
