"""An agent's loop of tool calls with models that think: each provider gets back what it gave, and nobody else does."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest
from raw_server import failure_of
from replayed_bedrock import ReplayedBedrock
from replayed_chat import (
    ReplayedDeepSeek,
    ReplayedGoogleChat,
    ReplayedLocal,
    ReplayedMagistral,
    ReplayedOpenAI,
    ReplayedOpenRouter,
)
from replayed_claude import ReplayedClaude
from replayed_gemini import ReplayedGemini, ReplayedGeminiWithoutIds
from replayed_provider import ReplayedProvider, Said, SaidCall
from replayed_responses import ReplayedAzureResponses, ReplayedResponses
from replayed_vertex import ReplayedVertexClaude, ReplayedVertexGemini
from temporalio.exceptions import ApplicationError
from tool_loop import looping

KEPT: dict[Callable[[], ReplayedProvider], str] = {
    ReplayedAzureResponses: "gAAAA-rs_1",
    ReplayedBedrock: "hidden-1",
    ReplayedClaude: "hidden-1",
    ReplayedDeepSeek: "first thought",
    ReplayedGemini: "signed-1",
    ReplayedGeminiWithoutIds: "signed-1",
    ReplayedGoogleChat: "signed-1",
    ReplayedLocal: "first thought",
    ReplayedMagistral: "first thought",
    ReplayedOpenAI: "",
    ReplayedOpenRouter: "hidden-1",
    ReplayedResponses: "gAAAA-rs_1",
    ReplayedVertexClaude: "hidden-1",
    ReplayedVertexGemini: "signed-1",
}
"""A part of what it gave in its first turn."""
PROVIDERS = list(KEPT)
ROUNDS = (
    Said("Let me see.", (SaidCall(),), "first thought"),
    Said("", (SaidCall(id="1"), SaidCall(arguments='{"city": "Oslo"}', id="2")), "second thought"),
    Said("One more.", (SaidCall(arguments="{}"),), "third thought"),
    Said("It is sunny.", (), "last thought"),
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("made", PROVIDERS)
async def test_three_turns_of_tools_and_a_further_question(made: Callable[[], ReplayedProvider], stream: bool) -> None:
    provider = made()
    provider.script.extend((*ROUNDS, Said("Yes.", ()), Said("Still.", ())))
    async with looping({"one": provider}, stream=stream) as loop:
        loop.ask("What is the weather?")
        for said in ROUNDS:
            result = await loop.turn("one")
            assert (result.text, len(result.tool_calls)) == (said.text, len(said.calls))
            loop.tell(["sunny"] * len(said.calls))
        loop.ask("Are you sure?")
        assert (await loop.turn("one")).text == "Yes."
        loop.ask("Still?")
        assert (await loop.turn("one")).text == "Still."
    assert not provider.refusals
    assert KEPT[made] in str(provider.asked[-1])
    for earlier, later in pairwise(map(conversation_of, provider.asked)):
        assert later[: len(earlier)] == earlier, "what was sent once is never sent in another way"


@pytest.mark.parametrize(("made", "other"), list(permutations(PROVIDERS, 2)))
async def test_another_provider_takes_over_and_gives_back(
    made: Callable[[], ReplayedProvider], other: Callable[[], ReplayedProvider]
) -> None:
    """A route's candidates do so when one fails: the first one's state waits until it is asked again."""
    first, second = made(), other()
    first.script.extend((ROUNDS[0], ROUNDS[2], ROUNDS[3], Said("Yes.", ())))
    second.script.append(ROUNDS[1])
    async with looping({"one": first, "two": second}, stream=False) as loop:
        loop.ask("What is the weather?")
        for service, said in (("one", ROUNDS[0]), ("two", ROUNDS[1]), ("one", ROUNDS[2]), ("one", ROUNDS[3])):
            await loop.turn(service)
            loop.tell(["sunny"] * len(said.calls))
        loop.ask("Are you sure?")
        await loop.turn("one")
    assert not first.refusals
    assert not second.refusals
    assert KEPT[made] in str(first.asked[-1])
    sent = str(second.asked[0])
    assert not [part for part in ("first thought", "signed-1", "hidden-1", "gAAAA") if part in sent]


def conversation_of(body: dict[str, Any]) -> list[Any]:
    return body.get("messages") or body.get("contents") or body["input"]


@pytest.mark.parametrize(("model", "refusals"), [("our-small-one", 1), ("gpt-4.1-mini", 0)])
async def test_a_deployment_that_does_not_think_is_asked_without(model: str, refusals: int) -> None:
    """Its name may say so; else its refusal does, which the worker remembers."""
    provider = ReplayedAzureResponses()
    provider.model, provider.thinks = model, False
    provider.script.extend(replace(said, thought="") for said in ROUNDS)
    async with looping({"one": provider}, stream=False) as loop:
        loop.ask("What is the weather?")
        for said in ROUNDS:
            await loop.turn("one")
            loop.tell(["sunny"] * len(said.calls))
    assert len(provider.refusals) == refusals
    assert ["include" in body for body in provider.asked] == [True] * refusals + [False] * len(ROUNDS)


async def test_phases_come_back_with_their_messages() -> None:
    provider = ReplayedResponses()
    provider.script.extend((ROUNDS[0], ROUNDS[3], Said("Yes.", ())))
    async with looping({"one": provider}, stream=False) as loop:
        loop.ask("What is the weather?")
        await loop.turn("one")
        loop.tell(["sunny"])
        await loop.turn("one")
        loop.ask("Are you sure?")
        await loop.turn("one")
    assert provider.phases_of(provider.asked[-1]) == ["commentary", "final_answer"]


async def test_a_message_that_the_agent_changed_has_no_state_any_more() -> None:
    """What was thought belongs to what was said then."""
    provider = ReplayedClaude()
    provider.script.extend((ROUNDS[3], Said("Yes.", ())))
    async with looping({"one": provider}, stream=False) as loop:
        loop.ask("What is the weather?")
        await loop.turn("one")
        loop.messages[-1] = loop.messages[-1].model_copy(update={"content": "It is, they say, sunny."})
        loop.ask("Are you sure?")
        await loop.turn("one")
    assert provider.asked[-1]["messages"][1] == {"role": "assistant", "content": "It is, they say, sunny."}


@pytest.mark.parametrize("made", [ReplayedBedrock, ReplayedClaude, ReplayedGemini, ReplayedResponses])
async def test_a_refused_state_is_left_out_in_the_next_attempt(made: Callable[[], ReplayedProvider]) -> None:
    """A key of another account cannot read it."""
    provider, of_another_account = made(), made()
    provider.script.append(ROUNDS[0])
    of_another_account.script.append(ROUNDS[1])
    async with looping({"one": provider}, stream=False) as before:
        before.ask("What is the weather?")
        await before.turn("one")
        before.tell(["sunny"])
    async with looping({"one": of_another_account}, stream=False) as loop:
        loop.messages = before.messages
        result = await loop.turn("one")
    assert len(of_another_account.refusals) == 1
    assert len(result.tool_calls) == 2
    assert KEPT[made] not in str(of_another_account.asked[-1])


async def test_a_change_before_a_thought_costs_only_the_thought() -> None:
    provider = ReplayedClaude()
    provider.needs_thoughts = False
    provider.script.extend((ROUNDS[0], ROUNDS[3]))
    async with looping({"one": provider}, stream=False) as loop:
        loop.ask("What is the weather?")
        await loop.turn("one")
        loop.tell(["sunny"])
        loop.messages[0] = loop.messages[0].model_copy(update={"content": "(a summary)"})
        await loop.turn("one")
    assert ["bound to a different conversation" in why for why in provider.refusals] == [True]


async def test_what_is_refused_without_a_state_too_goes_on() -> None:
    provider = ReplayedClaude()
    provider.script.append(ROUNDS[0])
    async with looping({"one": provider}, stream=False) as loop:
        loop.ask("What is the weather?")
        await loop.turn("one")
        loop.tell(["sunny"])
        loop.messages[0] = loop.messages[0].model_copy(update={"content": "(a summary)"})
        with pytest.raises(ApplicationError) as refused:
            await loop.turn("one")
    failure = failure_of(refused.value)
    assert (failure.reason, failure.fall_back, len(failure.attempts)) == ("state_refused", True, 2)
