"""What a model accepts, by the profiles that pydantic-ai keeps of models by their names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paymaster.settings import Api


class Profile(NamedTuple):
    refuses: tuple[str, ...] = ()
    """Fields of a request."""
    output_tokens_max: int | None = None
    """None: not known."""


def profile_of(api: Api, model: str) -> Profile:
    """What is known of a model; for one that nobody knows, nothing."""
    known = _known(api)(model)
    refuses = [
        name
        for name, is_refused in (
            ("tools", known.get("supports_tools") is False),
            ("json_schema", known.get("supports_json_schema_output") is False),
            ("reasoning_effort", known.get("supports_thinking") is False),
            ("temperature", _refuses_sampling(known)),
            ("top_p", _refuses_sampling(known)),
        )
        if is_refused
    ]
    most = known.get("anthropic_max_output_tokens")
    return Profile(tuple(refuses), most if isinstance(most, int) else None)


def _refuses_sampling(known: Mapping[str, Any]) -> bool:
    """Models that reason take no temperature while they do."""
    return bool(
        known.get("anthropic_disallows_sampling_settings")
        or (known.get("openai_supports_reasoning") and known.get("thinking_enabled_by_default"))
    )


def _known(api: Api) -> Callable[[str], Mapping[str, Any]]:
    """Imported here: it takes two seconds of a processor."""
    match api:
        case "anthropic" | "vertex-claude" | "bedrock":
            from pydantic_ai.profiles.anthropic import anthropic_model_profile

            return lambda model: anthropic_model_profile(_claudes_own(model)) or {} if "claude" in model else {}
        case "gemini" | "vertex-gemini":
            from pydantic_ai.profiles.google import google_model_profile

            return lambda model: google_model_profile(model) or {}
        case _:
            from pydantic_ai.profiles.openai import openai_model_profile

            return lambda model: openai_model_profile(model) if _is_openais(model) else {}


def _claudes_own(model: str) -> str:
    """The name that Anthropic has for it: `us.anthropic.claude-…` at Bedrock, `claude-…@20250929` at Vertex AI."""
    return model[model.index("claude") :].replace("@", "-")


def _is_openais(model: str) -> bool:
    """Servers with OpenAI's format have all kinds of models, and a deployment may have any name."""
    return model.startswith(("gpt-", "o1", "o3", "o4", "chatgpt-"))
