"""All that Temporal gives out about the workflows of a namespace, and what of it can be read."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import Message
from paymaster_process import Site
from temporalio.api.common.v1 import Payload

from paymaster.keys.api_key import EnvironmentKeys
from paymaster.security.encryption import ENCRYPTED, PayloadEncryption


def payloads_in(message: Message, path: str = "") -> Iterator[tuple[str, Payload]]:
    """Every payload anywhere below, with where it is."""
    if isinstance(message, Payload):
        yield path, message
        return
    for field, value in message.ListFields():
        here = f"{path}.{field.name}"
        if isinstance(value, Message):
            yield from payloads_in(value, here)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            for name in value:
                if isinstance(value[name], Message):
                    yield from payloads_in(value[name], f"{here}.{name}")
        elif field.message_type is not None:
            for below in value:
                yield from payloads_in(below, here)


@dataclass
class Held:
    """All that Temporal gives out about the workflows of a namespace."""

    raw: bytes
    """Every event and every description, as they are."""
    opened: str
    """The contents of all payloads, decrypted."""
    plain: dict[str, bytes]
    """Payloads that are not encrypted, by where they are."""
    keys: set[str]
    """The names of the keys that were used."""


async def held_by_temporal(site: Site, *names: str) -> Held:
    """What is there now, opened with the keys of these names."""
    codec = PayloadEncryption(names, EnvironmentKeys)
    held = Held(b"", "", {}, set())
    async for execution in site.client.list_workflows():
        handle = site.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        description = await handle.describe()
        messages: list[Message] = [description.raw_description, *(await handle.fetch_history()).events]
        for message in messages:
            held.raw += message.SerializeToString()
            for path, payload in payloads_in(message):
                if payload.metadata["encoding"] == ENCRYPTED:
                    held.keys.add(payload.metadata["encryption-key-id"].decode())
                else:
                    held.plain[path] = payload.data
                (content,) = await codec.decode([payload])
                held.opened += content.data.decode(errors="replace")
    return held
