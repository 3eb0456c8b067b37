"""The `temporal` program of the embedded stack."""

import asyncio
from pathlib import Path

from paymaster.devstack.errors import StackError
from paymaster.temporal_program import NoTemporalProgram, temporal_program


async def temporal_binary() -> Path:
    """The path of a `temporal` program that runs here. Raises StackError, with what to do, if there is none."""
    try:
        return await asyncio.to_thread(temporal_program)
    except NoTemporalProgram as error:
        raise StackError(str(error)) from None
