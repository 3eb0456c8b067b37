"""The candidates of a route as the ledger is asked for them: in pools, with weights, also for when money is short."""

import json

from reserving import reserve_of

from paymaster.messages import Candidate, LLMRequest, Wire
from paymaster.settings import Settings

EU, US, AZURE, MINI = "openai-eu/gpt-5", "openai-us/gpt-5", "azure/gpt-5", "openai-us/gpt-5-mini"


def settings() -> Settings:
    openai = {"api": "openai", "base_url": "https://api.openai.com/v1"}
    claude = {"api": "anthropic", "base_url": "https://api.anthropic.com/v1"}
    return Settings.model_validate(
        {
            "services": {"openai-eu": openai, "openai-us": openai, "azure": openai, "claude": claude},
            "routes": {
                "writer": {
                    "candidates": [[EU, US], AZURE],
                    "weights": {EU: 3},
                    "when_short": {"below": 0.25, "candidates": [[MINI, AZURE]]},
                },
                "mixed": [[EU, "claude/claude-opus-5", US]],
                "plain": [EU, US],
            },
        }
    )


def candidates(request: LLMRequest, *excluded: str) -> tuple[Candidate, ...]:
    return reserve_of(settings(), request, excluded=excluded).candidates


def asked(*excluded: str, route: str = "writer") -> list[tuple[str, bool, int, int | None]]:
    found = candidates(LLMRequest(route=route, budget="acme", prompt="hi"), *excluded)
    return [(f"{each.service}/{each.model}", each.shares, each.weight, each.short_below) for each in found]


def test_each_has_its_place_and_weight() -> None:
    assert asked() == [
        (EU, False, 3, None),
        (US, True, 1, None),
        (AZURE, False, 1, None),
        (MINI, False, 1, 250_000),
        (AZURE, True, 1, 250_000),
    ]


def test_a_list_of_names_shares_nothing_and_is_written_as_before() -> None:
    assert asked(route="plain") == [(EU, False, 1, None), (US, False, 1, None)]
    [first, _] = candidates(LLMRequest(route="plain", budget="acme", prompt="hi"))
    assert not {"shares", "weight", "short_below"} & json.loads(first.model_dump_json()).keys()


def test_whoever_failed_the_call_is_left_out_of_its_pool() -> None:
    assert asked(EU) == [
        (US, False, 1, None),
        (AZURE, False, 1, None),
        (MINI, False, 1, 250_000),
        (AZURE, True, 1, 250_000),
    ]
    assert [name for name, *_ in asked(EU, US, AZURE)] == [MINI]


def test_a_wire_call_shares_the_load_of_those_that_speak_its_format() -> None:
    body = json.dumps({"model": "m", "n": 1, "logit_bias": {}, "messages": [{"role": "user", "content": "hi"}]})
    wire = Wire(dialect="openai", body=body.encode())
    found = candidates(LLMRequest(route="mixed", budget="acme", wire=wire))
    assert [(each.service, each.shares) for each in found] == [("openai-eu", False), ("openai-us", True)]
    found = candidates(LLMRequest(route=US, budget="acme", wire=wire))
    assert [(each.service, each.shares) for each in found] == [("openai-us", False)]
