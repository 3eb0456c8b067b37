"""An answer that does not fit is repaired in a conversation that goes on from it, with what its provider gave."""

from collections.abc import Callable

import pytest
from pydantic import BaseModel
from replayed_chat import ReplayedDeepSeek, ReplayedMagistral, ReplayedOpenRouter
from replayed_claude import ReplayedClaude
from replayed_provider import ReplayedProvider, Said, SaidCall
from replayed_responses import ReplayedAzureResponses, ReplayedResponses
from tool_loop import looping

from paymaster.calls.structured_output import answer_as
from paymaster.messages import LLMRequest, LLMResult

KEPT: dict[Callable[[], ReplayedProvider], str] = {
    ReplayedAzureResponses: "gAAAA-rs_1",
    ReplayedClaude: "hidden-1",
    ReplayedDeepSeek: "first thought",
    ReplayedMagistral: "first thought",
    ReplayedOpenRouter: "hidden-1",
    ReplayedResponses: "gAAAA-rs_1",
}
"""A part of what it gave with its first answer."""
REQUEST = LLMRequest(route="r", budget="acme", system="Be brief.", prompt="Who wrote it?")


class Author(BaseModel):
    name: str


async def repaired(provider: ReplayedProvider, first: Said) -> str:
    """The conversation that was sent the second time."""
    provider.script.extend((first, Said('{"name": "Frisch"}', (), "second thought")))
    async with looping({"one": provider}, stream=False) as loop:

        async def ask(request: LLMRequest) -> LLMResult:
            loop.messages = list(request.conversation())
            return await loop.turn("one")

        assert await answer_as(Author, REQUEST, ask) == Author(name="Frisch")
    assert not provider.refusals
    _, second = provider.asked
    return str(second)


@pytest.mark.parametrize("made", KEPT)
async def test_a_repair_gives_back_what_the_model_thought(made: Callable[[], ReplayedProvider]) -> None:
    assert KEPT[made] in await repaired(made(), Said('{"name": 1}', (), "first thought"))


@pytest.mark.parametrize("made", KEPT)
async def test_a_repair_has_no_calls_that_nobody_answered(made: Callable[[], ReplayedProvider]) -> None:
    sent = await repaired(made(), Said("Let me see.", (SaidCall(arguments='{"city": "Oslo"}'),), "first thought"))
    assert "Let me see." in sent
    assert not [part for part in (KEPT[made], "Oslo") if part in sent]
