"""How providers that speak chat completions differ from each other, by their addresses."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Quirks:
    """How one provider differs from what most compatible servers do."""

    output_cap: str = "max_tokens"
    """OpenAI's reasoning models refuse this old name; most compatible servers know no other."""
    seed: str = "seed"
    required: str = "required"
    """The word of `tool_choice` for "any of the tools"."""
    unsupported: frozenset[str] = frozenset()
    """Parameters of a request that it ignores or refuses."""
    reports_cost: bool = False
    """`usage.cost` is what it charges, in US dollars."""
    streams_usage: bool = True
    """A stream says what is billed, when asked to."""
    call_id: re.Pattern[str] = re.compile(".{1,40}")
    """What the id of a tool call must be."""
    json_schema: bool = True
    """Otherwise it promises JSON, and the model is told the schema."""
    wants_thoughts: bool = False
    """A message with calls needs `reasoning_content`, if only an empty one where another model wrote it."""
    wants_signature: bool = False
    """The first call of a message needs Google's signature, or its word for a call that another model made."""
    takes_documents: bool = False
    """PDFs, as bytes."""
    caches: Literal["openai", "anthropic"] | None = None
    """In whose form it is told up to where a conversation is worth keeping in its cache. None: it is not told."""


_UNKNOWN = Quirks(streams_usage=False)
_QUIRKS = {
    "api.openai.com": Quirks(output_cap="max_completion_tokens", takes_documents=True, caches="openai"),
    "api.groq.com": Quirks(output_cap="max_completion_tokens"),
    "api.mistral.ai": Quirks(seed="random_seed", required="any", call_id=re.compile("[a-zA-Z0-9]{9}")),
    "api.deepseek.com": Quirks(unsupported=frozenset({"seed", "images"}), wants_thoughts=True, json_schema=False),
    "api.moonshot.ai": Quirks(streams_usage=False, wants_thoughts=True),
    "api.moonshot.cn": Quirks(streams_usage=False, wants_thoughts=True),
    "generativelanguage.googleapis.com": Quirks(streams_usage=False, wants_signature=True),
    "openrouter.ai": Quirks(reports_cost=True, caches="anthropic"),
    # Ollama, by its usual port: it drops `tool_choice` without a word.
    ":11434": Quirks(unsupported=frozenset({"tool_choice"})),
}
AZURE = Quirks(output_cap="max_completion_tokens")


def quirks_of(base_url: str) -> Quirks:
    address = urlsplit(base_url)
    host = address.hostname or ""
    if host.endswith(".api.openai.com"):  # a region
        host = "api.openai.com"
    return _QUIRKS.get(host) or _QUIRKS.get(f":{address.port}") or _UNKNOWN
