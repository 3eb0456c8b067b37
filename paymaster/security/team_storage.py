"""The external storage of a team, as workers and agents use it: loaded by its name, and never in the way.

Temporal's SDK stops a workflow for ever over a payload that somebody has put into a storage which is not there.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from temporalio.api.common.v1 import Payload
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

from paymaster.messages.temporal_names import CALL_WORKFLOW, LEDGER_WORKFLOW, budget_workflow_id
from paymaster.security.named_objects import named_object
from paymaster.security.payloads import REASON, STORAGE, unreadable
from paymaster.settings import ConfigurationError
from paymaster.values.limits import INLINE_BYTES_MAX

StorageT = TypeVar("StorageT", bound=ExternalStorage)
_SETTING = "payloads.storage"
_LEDGER_IDS = budget_workflow_id("")
_HERE = os.urandom(16)
"""Known in this process only: nobody else can send a payload as one that was not to be had."""
_STORED_AT_ONCE = 3
"""The SDK's own default."""
_TRY_AGAIN_AFTER_S = (0.2, 1.0)
"""Before a payload is called unreadable that its driver does not give."""


def team_storage(name: str) -> ExternalStorage:
    """The storage of this name, "module:object". Raises ConfigurationError, saying what is wrong with it."""
    made = named_object(name, _SETTING, (ExternalStorage, StorageDriver))
    if isinstance(made, StorageDriver):
        return ExternalStorage(drivers=[made])
    if not isinstance(made, ExternalStorage):
        raise ConfigurationError(
            [
                f"{_SETTING}: {name} is a {type(made).__name__}, and neither is nor makes a temporalio "
                "ExternalStorage or StorageDriver"
            ]
        )
    return made


def storage_names(converter: DataConverter) -> tuple[str, ...]:
    """The names of the drivers with which a client of this converter reads what is in external storage."""
    storage = converter.external_storage
    return () if storage is None else tuple(each.name() for each in storage.drivers if not isinstance(each, _Nowhere))


def stored_at_once(converter: DataConverter) -> int:
    """Of the payloads of a workflow task, how many a worker of this converter puts away, or fetches, at a time.

    Without a storage one, which takes no task of asyncio: the SDK makes one for each payload, whether it is put away or
    not.
    """
    return 1 if isinstance(converter.external_storage, NoStorage) else _STORED_AT_ONCE


def not_had(reason: str) -> Payload:
    """What takes the place of a payload, for the codec, which comes after the storage."""
    payload = unreadable(reason)
    payload.metadata[REASON] = _HERE
    return payload


def why_not_had(payload: Payload) -> str | None:
    """Why a payload could not be had from its storage, in this process. None: it was not one of those."""
    return payload.data.decode() if payload.metadata.get(REASON) == _HERE else None


@dataclass(frozen=True)
class AgentsChoice:
    """Chooses as the team does, but leaves inline what workers need not have a storage for."""

    storage: ExternalStorage
    with_calls: bool
    """Whether requests are put away like everything else, because the workers have this storage too."""

    def __call__(self, context: StorageDriverSelectContext, payload: Payload) -> StorageDriver | None:
        fits = payload.ByteSize() <= INLINE_BYTES_MAX
        if fits and (_is_to_ledger(context) or (_is_to_call(context) and not self.with_calls)):
            return None
        return _chosen(self.storage, context, payload, always=not fits)


def agents_storage(storage: ExternalStorage, *, with_calls: bool) -> ExternalStorage:
    """That storage for the client of an agent or a command."""
    return _with_choice(ExternalStorage, storage, AgentsChoice(storage, with_calls))


@dataclass(frozen=True)
class WorkersStorage(ExternalStorage):
    """Says in words, in the place of a payload, why it cannot be had.

    OSError and TimeoutError mean that it may be had later: the task is tried again. A file that is missing is not.
    """

    async def _retrieve_payload(self, payload: Payload) -> Payload:
        try:
            reference = self._decode_reference(payload)
        except Exception as error:  # the SDK's own reading, of what anybody may have written
            return not_had(f"this is a broken reference to external storage: {type(error).__name__}: {error}")
        if reference is None:
            return payload
        if reference.driver_name not in self._driver_map:
            return not_had(
                f"this was put into the external storage {reference.driver_name!r}, which this worker does not have: "
                'set [payloads] storage = "module:object" for the workers, with the storage that the agents\' clients '
                "have"
            )
        for pause_s in (*_TRY_AGAIN_AFTER_S, None):
            try:
                return await super()._retrieve_payload(payload)
            except Exception as error:  # drivers raise whatever they like
                if pause_s is None:
                    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                        raise
                    problem = f"{type(error).__name__}: {error}"
                    return not_had(f"the external storage {reference.driver_name!r} does not give this: {problem}")
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    async def _retrieve_payload_sequence(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [await self._retrieve_payload(payload) for payload in payloads]


@dataclass(frozen=True)
class NoStorage(WorkersStorage):
    """Of workers without one: it puts nothing away, whoever it is for."""


@dataclass(frozen=True)
class _WorkersChoice:
    """Puts away what does not fit inline, and what goes to somebody who has said that he can read it there."""

    storage: ExternalStorage

    def __call__(self, context: StorageDriverSelectContext, payload: Payload) -> StorageDriver | None:
        fits = payload.ByteSize() <= INLINE_BYTES_MAX
        readers = payload.metadata.get(STORAGE, b"").decode(errors="replace").split(",")
        driver = _chosen(self.storage, context, payload, always=not fits)
        return driver if driver is not None and (not fits or driver.name() in readers) else None


def workers_storage(storage: ExternalStorage | None) -> WorkersStorage:
    """The storage for Paymaster's own workers. None: nothing is put away, and what others put away is refused."""
    if storage is None:
        return NoStorage(drivers=[_Nowhere()], driver_selector=lambda context, payload: None)
    return _with_choice(WorkersStorage, storage, _WorkersChoice(storage))


def _with_choice(kind: type[StorageT], storage: ExternalStorage, choice: AgentsChoice | _WorkersChoice) -> StorageT:
    return kind(
        drivers=storage.drivers,
        driver_selector=choice,
        payload_size_threshold=min(storage.payload_size_threshold, INLINE_BYTES_MAX),
    )


def _chosen(
    storage: ExternalStorage, context: StorageDriverSelectContext, payload: Payload, *, always: bool
) -> StorageDriver | None:
    """The driver that the team chooses; `always`: the first one where it chooses none."""
    select = storage.driver_selector
    driver = storage.drivers[0] if select is None else select(context, payload)
    return storage.drivers[0] if driver is None and always else driver


def _is_to_call(context: StorageDriverSelectContext) -> bool:
    return isinstance(context.target, StorageDriverWorkflowInfo) and context.target.type == CALL_WORKFLOW.name


def _is_to_ledger(context: StorageDriverSelectContext) -> bool:
    target = context.target
    if not isinstance(target, StorageDriverWorkflowInfo):
        return False
    return target.type == LEDGER_WORKFLOW.name or (target.id or "").startswith(_LEDGER_IDS)


class _Nowhere(StorageDriver):
    """Stands in where there is no storage: the SDK wants a driver."""

    def name(self) -> str:
        return "paymaster-nowhere"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        raise NotImplementedError("there is no external storage here")

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        raise FileNotFoundError("there is no external storage here")
