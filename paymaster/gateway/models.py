"""The lists of models that clients may name, as OpenAI, Anthropic and Google write them. Pure."""

from collections.abc import Sequence

from pydantic import JsonValue

from paymaster.gateway.clients import ClientTerms
from paymaster.messages.wire import Dialect
from paymaster.settings import Settings

_BEGINNING = "1970-01-01T00:00:00Z"
"""What Anthropic says of a model whose date is not known."""
_GOOGLES_METHODS: list[JsonValue] = ["generateContent", "streamGenerateContent", "countTokens", "embedContent"]


def names_for(client: ClientTerms, settings: Settings) -> list[str]:
    """Routes, and each `service/model`, that the client may name."""
    models = (f"{service}/{model}" for service, table in settings.services.items() for model in table.models)
    names = dict.fromkeys((*settings.routes, *models))
    return [name for name in names if client.routes is None or name in client.routes]


def listed(names: Sequence[str], dialect: Dialect) -> JsonValue:
    """All of them as one page."""
    models: list[JsonValue] = [described(name, dialect) for name in names]
    match dialect:
        case "anthropic":
            ends: dict[str, JsonValue] = {
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
            return {"data": models, "has_more": False, **ends}
        case "gemini":
            return {"models": models}
        case "openai" | "openai-responses" | "openai-embeddings":
            return {"object": "list", "data": models}


def described(name: str, dialect: Dialect) -> JsonValue:
    match dialect:
        case "anthropic":
            return {"type": "model", "id": name, "display_name": name, "created_at": _BEGINNING}
        case "gemini":
            return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": _GOOGLES_METHODS}
        case "openai" | "openai-responses" | "openai-embeddings":
            return {"id": name, "object": "model", "created": 0, "owned_by": "paymaster"}
