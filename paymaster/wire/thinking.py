"""Budgets of thinking, which a provider refuses where they are not below the cap of the output."""

from collections.abc import Mapping

from pydantic import JsonValue

from paymaster.values.json_reading import object_of
from paymaster.wire.members import members, value_text, with_values

BUDGET_LEAST = 1_024
"""The smallest budget that Anthropic takes, and OpenRouter for its models."""


def below_cap(text: str, data: Mapping[str, JsonValue], holder: str, name: str, cap: int) -> dict[str, str]:
    """The member `holder` of a body with its budget just below a new cap. Empty: it may stay as it is."""
    budget = object_of(data.get(holder)).get(name)
    if isinstance(budget, bool) or not isinstance(budget, int) or not budget >= cap > BUDGET_LEAST:
        return {}
    return {holder: with_values(value_text(text, members(text)[holder]), {name: str(cap - 1)})}
