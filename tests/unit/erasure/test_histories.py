"""What histories have elsewhere, as Temporal's SDKs write it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from disk_storage import on_disk
from temporalio.api.common.v1 import Memo, Payload, Payloads
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import DataConverter, ExternalStorage

from paymaster.erasure.histories import NotDeletable, payloads_in, stored_elsewhere


async def stored(storage: ExternalStorage) -> Sequence[Payload]:
    """What is sent in the place of a long text."""
    converter = DataConverter(external_storage=storage)
    return await converter.encode(["x" * 100_000])


async def test_a_reference_of_this_sdk_names_its_payload(tmp_path: Path) -> None:
    storage = on_disk(tmp_path)
    [payload] = await stored(storage)
    found = stored_elsewhere(payload)
    assert found is not None
    assert found.driver_name == "disk"
    assert [file.name for file in tmp_path.iterdir()] == [found.claim.claim_data["file"]]


def test_a_reference_of_an_older_sdk_is_read_too() -> None:
    data = b'{"driver_name": "disk", "driver_claim": {"claim_data": {"file": "abc"}}}'
    found = stored_elsewhere(Payload(metadata={"encoding": b"json/external-storage-reference"}, data=data))
    assert found is not None
    assert (found.driver_name, found.claim.claim_data) == ("disk", {"file": "abc"})


def test_a_reference_that_nobody_can_read_is_not_overlooked() -> None:
    marked = Payload(metadata={"encoding": b"binary/encrypted", "__temporal_external_storage_reference": b"true"})
    with pytest.raises(NotDeletable, match="cannot read"):
        stored_elsewhere(marked)
    assert stored_elsewhere(Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')) is None


def test_every_payload_of_an_event_is_seen() -> None:
    event = HistoryEvent()
    started = event.workflow_execution_started_event_attributes
    started.input.CopyFrom(Payloads(payloads=[Payload(data=b"1"), Payload(data=b"2")]))
    started.memo.CopyFrom(Memo(fields={"note": Payload(data=b"3")}))
    event.user_metadata.summary.data = b"4"
    assert sorted(each.data for each in payloads_in(event)) == [b"1", b"2", b"3", b"4"]
