"""The external storage of a team: loaded by its name, used where it may be, and never in a workflow's way."""

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.bridge.worker import encode_completion
from temporalio.converter import (
    DataConverter,
    ExternalStorage,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverSelectContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)
from temporalio.worker import Worker

from paymaster.security.composition import ComposedConverter, data_converter
from paymaster.security.encryption import PayloadEncryption
from paymaster.security.payloads import STORAGE, PayloadUnreadable, for_reader
from paymaster.security.team_storage import agents_storage, stored_at_once, team_storage, workers_storage
from paymaster.settings import ConfigurationError

CALL = StorageDriverSelectContext(StorageDriverWorkflowInfo(namespace="n", type="LLMCallWorkflow"))
AGENT = StorageDriverSelectContext(StorageDriverWorkflowInfo(namespace="n", type="Agent"))
LEDGER = StorageDriverSelectContext(StorageDriverWorkflowInfo(namespace="n", id="budget/default"))
SMALL, LARGE = Payload(data=b"x" * 300_000), Payload(data=b"x" * 2_500_000)
READ_THERE = Payload(data=b"x" * 300_000, metadata={STORAGE: b"other,one"})


class One(StorageDriver):
    """Keeps one payload, and fails as often as it is told."""

    def __init__(self, *fails: Exception) -> None:
        self.fails = list(fails)
        self.kept = Payload()

    def name(self) -> str:
        return "one"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        (self.kept,) = payloads
        return [StorageDriverClaim(claim_data={})]

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        if self.fails:
            raise self.fails.pop(0)
        return [self.kept]


ONE = One()
MADE = ExternalStorage(drivers=[ONE])


def chosen(storage: ExternalStorage, context: StorageDriverSelectContext, payload: Payload) -> bool:
    assert storage.driver_selector is not None
    return storage.driver_selector(context, payload) is not None


@pytest.mark.parametrize("name", ["ONE", "One", "MADE"])
def test_a_driver_a_storage_or_what_makes_one_is_loaded(name: str) -> None:
    (driver,) = team_storage(f"{__name__}:{name}").drivers
    assert driver.name() == "one"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("not.there:x", "cannot be loaded: ModuleNotFoundError"),
        (f"{__name__}:nothing", "cannot be loaded: AttributeError"),
        (f"{__name__}:dict_of_none", "cannot be loaded"),
        ("builtins:dict", "is a dict, and neither is nor makes a temporalio ExternalStorage or StorageDriver"),
    ],
)
def test_what_is_no_storage_is_told_in_words(name: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        team_storage(name)


def test_agents_leave_inline_what_workers_may_not_find() -> None:
    alone, told = agents_storage(MADE, with_calls=False), agents_storage(MADE, with_calls=True)
    assert [chosen(alone, context, SMALL) for context in (AGENT, CALL, LEDGER)] == [True, False, False]
    assert [chosen(told, context, SMALL) for context in (AGENT, CALL, LEDGER)] == [True, True, False]
    assert chosen(alone, CALL, LARGE)
    none = ExternalStorage(drivers=[ONE], driver_selector=lambda context, payload: None, payload_size_threshold=10**9)
    assert [chosen(agents_storage(none, with_calls=True), CALL, each) for each in (SMALL, LARGE)] == [False, True]
    assert agents_storage(none, with_calls=True).payload_size_threshold == 2_000_000


def test_workers_store_only_what_is_read_there_or_fits_nowhere() -> None:
    storage = workers_storage(MADE)
    assert [chosen(storage, CALL, each) for each in (SMALL, READ_THERE, LARGE)] == [False, True, True]
    assert not chosen(workers_storage(None), CALL, LARGE)


async def test_where_nothing_is_stored_no_task_is_made() -> None:
    """When the SDK encodes what a workflow task ends with: with more at a time it makes a task of asyncio for each."""
    alone = read_by(None)
    ended = WorkflowActivationCompletion()
    for _ in range(3):
        ended.successful.commands.add().schedule_activity.arguments.append(for_reader("said", "").payload)
    loop, made = asyncio.get_running_loop(), list[object]()

    def counted(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(counted)
    try:
        await encode_completion(ended, alone, encode_headers=False, storage_concurrency_limit=stored_at_once(alone))
    finally:
        loop.set_task_factory(None)
    assert made == []


def test_with_a_storage_as_many_as_the_sdk_would() -> None:
    usual = inspect.signature(Worker).parameters["max_workflow_task_external_storage_concurrency"].default
    assert stored_at_once(read_by(MADE)) == usual


async def put_away(driver: StorageDriver) -> Payload:
    storage = ExternalStorage(drivers=[driver], payload_size_threshold=0)
    converter = DataConverter(external_storage=storage)
    (reference,) = await converter.encode([for_reader("said", "")])
    return reference


def read_by(storage: ExternalStorage | None) -> DataConverter:
    converter = data_converter(PayloadEncryption((), lambda: pytest.fail("no keys are needed")))
    assert isinstance(converter, ComposedConverter)
    return replace(converter, external_storage=workers_storage(storage))


async def test_what_is_not_to_be_had_is_said_in_words() -> None:
    """Where it is read, and not while it is fetched, which would stop a whole workflow."""
    reference = await put_away(ONE)
    with pytest.raises(PayloadUnreadable, match=r"'one', which this worker does not have: set \[payloads\]"):
        await read_by(None).decode([reference], [str])
    broken = Payload()
    broken.CopyFrom(reference)
    broken.data = b"{"
    with pytest.raises(PayloadUnreadable, match="a broken reference to external storage"):
        await read_by(MADE).decode([broken], [str])
    marked = Payload(metadata={"encoding": b"x", "__temporal_external_storage_reference": b"true"})
    with pytest.raises(PayloadUnreadable, match="TMPRL1106"):
        await read_by(MADE).decode([marked], [str])


async def test_a_driver_that_fails_is_asked_again() -> None:
    twice = One(RuntimeError("first"), ConnectionError("second"))
    reference = await put_away(twice)
    assert await read_by(ExternalStorage(drivers=[twice])).decode([reference], [str]) == ["said"]
    for kind in (RuntimeError, FileNotFoundError):
        with pytest.raises(PayloadUnreadable, match="does not give this"):
            await read_by(ExternalStorage(drivers=[One(*[kind("gone")] * 3)])).decode([reference], [str])
    with pytest.raises(ConnectionError):
        await read_by(ExternalStorage(drivers=[One(*[ConnectionError()] * 3)])).decode([reference], [str])
