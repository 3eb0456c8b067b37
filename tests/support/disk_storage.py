"""External storage of Temporal as a team has it, in a folder; workers load it by its name."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ExternalStorage,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

FOLDER = "DISK_STORAGE_FOLDER"
THRESHOLD = 32 * 1024


class Disk(StorageDriver):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self) -> str:
        return "disk"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        return [StorageDriverClaim(claim_data={"file": self._written(payload)}) for payload in payloads]

    def _written(self, payload: Payload) -> str:
        data = payload.SerializeToString()
        name = hashlib.sha256(data).hexdigest()
        (self.folder / name).write_bytes(data)
        return name

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        return [Payload.FromString((self.folder / claim.claim_data["file"]).read_bytes()) for claim in claims]

    async def delete(self, claims: list[StorageDriverClaim]) -> None:
        for claim in claims:
            (self.folder / claim.claim_data["file"]).unlink(missing_ok=True)


def on_disk(folder: Path) -> ExternalStorage:
    return ExternalStorage(drivers=[Disk(folder)], payload_size_threshold=THRESHOLD)


def storage() -> ExternalStorage:
    """That of a worker's own process."""
    return on_disk(Path(os.environ[FOLDER]))
