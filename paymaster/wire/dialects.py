"""The formats in which wire calls are written."""

from collections.abc import Callable, Mapping

from paymaster.messages.wire import Dialect, Wire
from paymaster.wire import openai_chat
from paymaster.wire.measured import Measured

_MEASURED: Mapping[Dialect, Callable[[bytes], Measured]] = {"openai": openai_chat.measured}


def measured(wire: Wire) -> Measured:
    """What the body asks for. Raises BadBody."""
    return _MEASURED[wire.dialect](wire.body)
