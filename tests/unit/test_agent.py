"""What an agent's author is told who asks in the wrong place."""

import pytest

from paymaster import LLMRequest, generate


async def test_outside_of_workflows_it_is_said_what_works_there() -> None:
    """In an activity and in any program."""
    with pytest.raises(RuntimeError, match=r"it is paymaster\.client\.generate, which takes a client too"):
        await generate(LLMRequest(route="writer", budget="acme", prompt="x"))
