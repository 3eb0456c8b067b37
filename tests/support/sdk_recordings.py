"""Interactions that test suites of public SDKs recorded (VCR's cassettes in YAML), as wire calls and their answers.

They are not part of this project: `PAYMASTER_SDK_RECORDINGS` names a folder that has them, one folder below it for each
repository.
"""

import gzip
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

from paymaster.messages.wire import Dialect, Wire
from paymaster.settings import Api
from paymaster.wire.dialects import dialect_of
from paymaster.wire.measured import Measured
from paymaster.wire.members import Member, items, members, value_text

OUTPUT_MAX = 200_000
"""The cap where the recorded request had none."""
_CONFIGS = ("generationConfig", "generation_config")
_CAPS = ("maxOutputTokens", "max_output_tokens")
SET: Mapping[Dialect, frozenset[str]] = {
    "openai": frozenset(
        {
            "model",
            "max_tokens",
            "max_completion_tokens",
            "stream_options.include_usage",
            "thinking.budget_tokens",
            "reasoning.max_tokens",
        }
    ),
    "openai-responses": frozenset({"model", "max_output_tokens"}),
    "openai-embeddings": frozenset({"model"}),
    "anthropic": frozenset({"model", "max_tokens", "thinking.budget_tokens"}),
    "gemini": frozenset(
        {
            "model",
            "requests.model",
            *(f"{name}.{cap}" for name in ("generationConfig", "generation_config") for cap in _CAPS),
        }
    ),
}
"""Members of a body that Paymaster sets; with a dot those of an object, or of each object of a list."""


class Interaction(NamedTuple):
    """One request and what was answered."""

    file: Path
    dialect: Dialect
    api: Api
    base_url: str
    path: str
    """Of the recorded URL, with its query."""
    wire: Wire
    status: int
    headers: list[tuple[bytes, bytes]]
    answer: bytes
    api_version: str | None = None

    @property
    def streamed(self) -> bool:
        named = any(name == b"content-type" and b"event-stream" in value for name, value in self.headers)
        return named or self.answer.startswith((b"data:", b"event:"))


def interactions(folder: Path) -> Iterator[Interaction]:
    for file in sorted(folder.rglob("*.yaml")):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[Interaction]:
    try:
        data = yaml.load(file.read_bytes(), yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        return
    listed: Any = data.get("interactions") if isinstance(data, dict) else None
    for each in listed or ():
        found = _interaction(file, each)
        if found is not None:
            yield found


def _interaction(file: Path, each: Any) -> Interaction | None:
    request, response = each.get("request") or {}, each.get("response") or {}
    url = urlsplit(request.get("uri") or "")
    path = url.path + (f"?{url.query}" if url.query else "")
    found, body = dialect_of(path), _bytes(request)
    if found is None or request.get("method") != "POST" or body is None:
        return None
    dialect, wire_path = found
    headers = [
        (name.lower().encode(), str(value).encode("latin-1", "replace"))
        for name, values in (response.get("headers") or {}).items()
        for value in (values if isinstance(values, list) else [values])
    ]
    answer = _bytes(response)
    api, base_url = _service(dialect, url.netloc, url.path)
    given = {
        name: str(value[0] if isinstance(value, list) else value)
        for name, value in (request.get("headers") or {}).items()
    }
    return Interaction(
        file=file,
        dialect=dialect,
        api=api,
        base_url=f"{url.scheme}://{base_url}",
        path=path,
        wire=Wire(dialect=dialect, path=wire_path, body=body, headers=given),
        status=_status(response),
        headers=headers,
        answer=b"" if answer is None else _decompressed(answer),
        api_version=parse_qs(url.query).get("api-version", [None])[0] if "/deployments/" in url.path else None,
    )


def _status(response: Any) -> int:
    status = response.get("status") or response.get("status_code") or 200
    return int(status.get("code") or 200) if isinstance(status, dict) else int(status)


def _bytes(side: Any) -> bytes | None:
    """A body as it is recorded; where only its data are, as somebody may have written it."""
    if side.get("parsed_body") is not None:
        return json.dumps(side["parsed_body"], ensure_ascii=False).encode("utf-8", "surrogatepass")
    body = side.get("body")
    if isinstance(body, dict):
        body = body["string"] if set(body) <= {"string", "encoding", "base64_string"} else json.dumps(body)
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    return body if isinstance(body, bytes) else None


def _decompressed(body: bytes) -> bytes:
    if body.startswith(b"\x1f\x8b"):
        return gzip.decompress(body)
    try:
        return zlib.decompress(body) if body.startswith(b"\x78") else body
    except zlib.error:
        return body


def _service(dialect: Dialect, host: str, path: str) -> tuple[Api, str]:
    """The api that takes the dialect there, and its address."""
    if dialect == "gemini":
        if "/publishers/" in path:
            return "vertex-gemini", host + path.partition("/publishers/")[0]
        return "gemini", host + path.partition("/models/")[0]
    if "/deployments/" in path:
        return "azure-openai", host
    prefix = path.rpartition("/chat/completions" if dialect == "openai" else "/")[0]
    apis: dict[Dialect, Api] = {"openai-responses": "openai-responses", "anthropic": "anthropic"}
    return apis.get(dialect, "azure-openai" if host.endswith(".azure.com") else "openai"), host + prefix


# ---------------------------------------------------------------- who takes it, and what arrived there


def service_table(interaction: Interaction, base_url: str, asked: Measured) -> dict[str, Any]:
    """The table of a service that takes it, with all that it needs allowed."""
    chosen = (each.partition("=")[0] for each in asked.chooses)
    table: dict[str, Any] = {
        "api": interaction.api,
        "base_url": base_url,
        "allow": [name for name in dict.fromkeys((*asked.needs, *chosen)) if name != "…"],
        "models": {
            asked.model: {"max_output_tokens": OUTPUT_MAX, "image_tokens_max": 10_000, "document_tokens_max": 100_000}
        },
    }
    return table if interaction.api_version is None else table | {"api_version": interaction.api_version}


def changes(interaction: Interaction, sent: bytes) -> list[str]:
    """What of the request's body arrived otherwise than it was written, to the byte, beside the values that are set."""
    return list(_changes(interaction.wire.body.decode(), sent.decode(), SET[interaction.dialect]))


def _changes(before: str, after: str, may: Collection[str]) -> Iterator[str]:
    """The names of members that are others than they were, and "between" for what stands between them.

    Those that may be set stand where they were, or at the end.
    """
    was, now = members(before), members(after)
    heads = {name.partition(".")[0] for name in may}
    yield from (
        name
        for name in was
        if name not in heads and (name not in now or value_text(before, was[name]) != value_text(after, now[name]))
    )
    added = sum(name in heads for name in now) - sum(name in heads for name in was)
    end = max((member.value_end for member in was.values()), default=before.index("{") + 1)
    commas = "," * (added if was else added - 1)
    if _without(before[:end] + commas + before[end:], was, heads) != _without(after, now, heads):
        yield "between"
    for name in heads & was.keys() & now.keys():
        below = [each.partition(".")[2] for each in may if each.startswith(f"{name}.")]
        if below:
            yield from _changes_below(value_text(before, was[name]), value_text(after, now[name]), below)


def _changes_below(before: str, after: str, may: Collection[str]) -> Iterator[str]:
    if before.startswith("["):
        for (begin, end), (now_begin, now_end) in zip(items(before), items(after), strict=True):
            yield from _changes(before[begin:end], after[now_begin:now_end], may)
    elif before != "null":
        yield from _changes(before, after, may)


def _without(text: str, found: Mapping[str, Member], names: Collection[str]) -> str:
    for member in reversed([found[name] for name in found if name in names]):
        text = text[: member.name_begin] + text[member.value_end :]
    return text


def folder_of_recordings() -> Path | None:
    named = os.environ.get("PAYMASTER_SDK_RECORDINGS")
    return Path(named) if named else None


# ---------------------------------------------------------------- what counters of tokens said

_COUNTERS = {
    "/messages/count_tokens": "/messages",
    ":countTokens": ":generateContent",
    "/responses/input_tokens": "/responses",
}
"""How the paths of providers' counters end, and those of what they count for."""
_COUNTED_INPUTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "promptTokenCount")


def counts_and_bills(folder: Path) -> Iterator[tuple[str, int, int]]:
    """The host, what its counter said, and the input that was billed for the request that came next in the file."""
    for file in sorted(folder.rglob("*.yaml")):
        if not any(end.encode() in (content := file.read_bytes()) for end in _COUNTERS):
            continue
        listed: list[Any] = yaml.load(content, yaml.CSafeLoader).get("interactions") or []
        for counted, sent in pairwise(listed):
            found = _count_and_bill(counted, sent)
            if found is not None:
                yield found


def _count_and_bill(counted: Any, sent: Any) -> tuple[str, int, int] | None:
    asked, then = (urlsplit(each["request"]["uri"]) for each in (counted, sent))
    ends = next((end for end in _COUNTERS if asked.path.endswith(end)), None)
    if ends is None or then.path != asked.path.removesuffix(ends) + _COUNTERS[ends]:
        return None
    count, answer = (json.loads(_decompressed(_bytes(each["response"]) or b"{}")) for each in (counted, sent))
    usage = answer.get("usage") or answer.get("usageMetadata")
    return (
        asked.netloc,
        count.get("totalTokens", count.get("input_tokens")),
        sum(usage.get(each) or 0 for each in _COUNTED_INPUTS),
    )
