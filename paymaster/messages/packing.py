"""How a field of a message is compressed where it is large, so that the message fits into a Temporal payload."""

from typing import Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializerFunctionWrapHandler, TypeAdapter, WrapSerializer

from paymaster.values.packed import pack, unpack


class _Packed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    packed: str


def unpacked(value: object, bytes_max: int) -> bytes:
    """The JSON of a field that is compressed. Raises ValueError for one that is not, or that holds more."""
    return unpack(_Packed.model_validate(value).packed, bytes_max)


def packs(adapter: TypeAdapter[Any], *, plain_bytes_max: int, bytes_max: int) -> tuple[BeforeValidator, WrapSerializer]:
    """For a field's annotation: its JSON is compressed above `plain_bytes_max` bytes, and holds `bytes_max` at most.

    What is compressed stands alone: a reader that does not know it refuses it, instead of taking it for an empty value.
    """

    def read(value: object) -> object:
        if isinstance(value, dict) and "packed" in value:
            return adapter.validate_json(unpacked(cast(object, value), bytes_max))
        return cast(object, value)

    def write(value: object, plain: SerializerFunctionWrapHandler) -> object:
        text = adapter.dump_json(value)
        return plain(value) if len(text) <= plain_bytes_max else {"packed": pack(text)}

    return BeforeValidator(read), WrapSerializer(write, when_used="json", return_type=object)
