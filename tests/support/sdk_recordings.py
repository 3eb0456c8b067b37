"""Interactions that test suites of public SDKs recorded (VCR's cassettes in YAML), as wire calls and their answers.

They are not part of this project: `PAYMASTER_SDK_RECORDINGS` names a folder that has them, one folder below it for each
repository. `PYTHONPATH=.:tests/support python tests/support/sdk_recordings.py` prints the figures of all of them.
"""

import gzip
import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml
from genai_prices.data_snapshot import get_snapshot
from reserving import reserve_of
from wire import GRANT

from paymaster.admission.routing import bound_nanos
from paymaster.calls.cost import OWN_FIGURE, cost_nanos
from paymaster.messages import Attempt, Billing, LLMRequest, ServiceCall
from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.answers import HttpAnswer, Reading, read_answer
from paymaster.providers.registry import wire_format
from paymaster.settings import Api, Settings
from paymaster.wire.dialects import dialect_of, measured
from paymaster.wire.measured import BadBody
from paymaster.wire.members import members, value_text

NOW_MS = 1_795_348_800_000  # 2026-11-22T12:00Z
OUTPUT_MAX = 200_000
"""The cap where the recorded request had none."""
LOW_CAP = 1_100
"""A grant's cap that is below what most requests ask for."""
SET: Mapping[Dialect, frozenset[str]] = {
    "openai": frozenset({"model", "max_tokens", "max_completion_tokens", "stream_options", "thinking", "reasoning"}),
    "openai-responses": frozenset({"model", "max_output_tokens"}),
    "openai-embeddings": frozenset({"model"}),
    "anthropic": frozenset({"model", "max_tokens", "thinking", "anthropic_version"}),
    "gemini": frozenset({"generationConfig", "generation_config", "model", "requests"}),
}
FLAVORS: Mapping[Dialect, tuple[str, ...]] = {
    "openai": ("chat", "default"),
    "openai-responses": ("responses", "default"),
    "openai-embeddings": ("embeddings", "default"),
    "anthropic": ("anthropic", "default"),
    "gemini": ("default",),
}


class Interaction(NamedTuple):
    """One request and what was answered."""

    file: Path
    dialect: Dialect
    api: Api
    base_url: str
    wire: Wire
    status: int
    headers: list[tuple[bytes, bytes]]
    answer: bytes
    api_version: str | None = None

    @property
    def streamed(self) -> bool:
        return any(name == b"content-type" and b"event-stream" in value for name, value in self.headers)


@dataclass
class Verdict:
    """What became of an interaction."""

    needs: tuple[str, ...] = ()
    chooses: tuple[str, ...] = ()
    refused: str | None = None
    """Why it is not sent even where `allow` has all that it needs."""
    changed: list[str] = field(default_factory=list[str])
    """What reached the provider otherwise than it was written, beside what is set."""
    given_back: str = ""
    """How the answer came back: `same`, or why not."""
    bound: int | None = None
    charged: int | None = None
    listed: int | None = None
    """What genai-prices makes of the answer."""
    billing: Billing | None = None
    reasons: tuple[str, ...] = ()
    """Why the charge may be another than genai-prices' figure."""


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


def judge(interaction: Interaction) -> Verdict:
    """Sends it as far as a worker would, and reads the recorded answer."""
    verdict = Verdict()
    try:
        asked = measured(interaction.wire)
    except BadBody as error:
        return Verdict(refused=str(error))
    verdict.needs, verdict.chooses = asked.needs, asked.chooses
    settings = _settings(interaction, asked.model, (*asked.needs, *(each.partition("=")[0] for each in asked.chooses)))
    request = LLMRequest(route=f"it/{asked.model}", budget="acme", wire=interaction.wire)
    command = reserve_of(settings, request, at_ms=NOW_MS)
    candidate = command.candidates[0]
    if candidate.refused is not None or candidate.price is None:
        verdict.refused = candidate.refused or "no price"
    grant = GRANT.model_copy(
        update={
            "service": "it",
            "model": asked.model,
            "max_output_tokens": candidate.max_output_tokens,
            "price": candidate.price or GRANT.price,
            "bound_nanos": 0 if candidate.price is None else bound_nanos(command, candidate),
        }
    )
    service = settings.services["it"]
    for cap in (candidate.max_output_tokens, LOW_CAP * max(1, asked.outputs)):
        lowered = grant.model_copy(update={"max_output_tokens": cap})
        sent = wire_format(interaction.wire, service).build(interaction.wire, lowered, service, asked.outputs)
        verdict.changed += _changes(interaction, sent.body)
    reading = read_answer(
        ServiceCall(grant=grant, request=request),
        service,
        HttpAnswer(interaction.status, interaction.headers, interaction.answer),
        started_at_ms=NOW_MS,
        now_ms=NOW_MS,
    )
    verdict.given_back = _given_back(interaction, reading)
    verdict.billing = reading.billing
    if candidate.price is not None and reading.completion is not None:
        verdict.bound, verdict.charged = grant.bound_nanos, cost_nanos(grant, _attempt(reading))
        verdict.listed, verdict.reasons = _listed_nanos(interaction), tuple(_reasons(interaction, reading))
    return verdict


def _settings(interaction: Interaction, model: str, allow: tuple[str, ...]) -> Settings:
    service: dict[str, Any] = {
        "api": interaction.api,
        "base_url": interaction.base_url.replace("http://", "https://"),
        "allow": [name for name in dict.fromkeys(allow) if name != "…"],
        "models": {
            model: {"max_output_tokens": OUTPUT_MAX, "image_tokens_max": 10_000, "document_tokens_max": 100_000}
        },
    }
    if interaction.api_version is not None:
        service["api_version"] = interaction.api_version
    return Settings.model_validate({"services": {"it": service}})


def _changes(interaction: Interaction, sent: bytes) -> Iterator[str]:
    text, body = interaction.wire.body.decode(), sent.decode()
    found, after = members(text), members(body)
    kept = [name for name in found if name not in SET[interaction.dialect]]
    if [name for name in after if name not in SET[interaction.dialect]] != kept:
        yield "order"
    yield from (name for name in kept if value_text(body, after[name]) != value_text(text, found[name]))
    # Within what is set nothing else changes: what is longer than its text of before has only the cap more.
    for name in ("generationConfig", "generation_config", "thinking", "reasoning"):
        if name in found and name in after:
            before = json.loads(value_text(text, found[name])) or {}
            now = json.loads(value_text(body, after[name])) or {}
            rest = {key for key in {*before, *now} if before.get(key) != now.get(key)}
            if not rest <= {"maxOutputTokens", "max_output_tokens", "budget_tokens", "max_tokens"}:
                yield name


def _given_back(interaction: Interaction, reading: Reading) -> str:
    wire = reading.refusal if reading.completion is None else reading.completion.wire
    if wire is None:
        return "nothing" if reading.error is None else f"nothing: {reading.error.error_class.name}"
    if wire.body == interaction.answer:
        return "same"
    if b"REDACTED" in wire.body and b"REDACTED" not in interaction.answer:
        return "a key taken out"
    asked: Any = json.loads(interaction.wire.body)
    if interaction.dialect == "openai" and not (asked.get("stream_options") or {}).get("include_usage"):
        left = [event for event in interaction.answer.split(b"\n\n") if event not in wire.body.split(b"\n\n")]
        if len(left) == 1 and b'"usage"' in left[0]:
            return "without the usage"
    return f"other: {interaction.answer[:80]!r} {wire.body[:80]!r}"


def _attempt(reading: Reading) -> Attempt:
    facts = reading.facts
    return Attempt(
        number=1,
        started_at_ms=NOW_MS,
        duration_ms=1,
        billing=reading.billing,
        usage=facts.usage,
        cost_nanos=facts.cost_nanos,
    )


# ---------------------------------------------------------------- genai-prices' own figure


def _reasons(interaction: Interaction, reading: Reading) -> Iterator[str]:
    answer = final_answer(interaction)
    usage = answer.get("usage") or {}
    if reading.facts.cost_source == OWN_FIGURE:
        yield OWN_FIGURE
    if any(each.get("type") != "message" for each in usage.get("iterations") or ()):
        yield "passes of the model that the totals leave out"
    if (usage.get("total_tokens") or 0) > sum(usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")):
        yield "thoughts that only the total has"


def _listed_nanos(interaction: Interaction) -> int | None:
    answer = final_answer(interaction)
    if not answer:
        return None
    try:
        provider = get_snapshot().find_provider(None, None, interaction.base_url)
        known = {extractor.api_flavor for extractor in provider.extractors or ()}
        flavor = next((each for each in FLAVORS[interaction.dialect] if each in known), None)
        if flavor is None:
            return None
        model, usage = provider.extract_usage(answer, api_flavor=flavor)
    except (LookupError, ValueError, TypeError, AttributeError):
        return None
    info = None if model is None else provider.find_model(model.lower(), all_providers=get_snapshot().providers)
    if info is None:
        return None
    tier, speed = answer.get("service_tier"), (answer.get("usage") or {}).get("speed")
    context = {name: word for name, word in (("service_tier", tier), ("speed", speed)) if isinstance(word, str)}
    at = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    try:
        price = info.calc_price(usage, provider, genai_request_timestamp=at, price_context=context).total_price
    except ValueError:
        return None
    return int((price * 10**9).to_integral_value(rounding=ROUND_CEILING))


def final_answer(interaction: Interaction) -> dict[str, Any]:
    """The answer, or what of a stream says the model and the counts."""
    try:
        if not interaction.streamed:
            data = json.loads(interaction.answer)
            return data[-1] if isinstance(data, list) and data else data if isinstance(data, dict) else {}
        events = [json.loads(line[5:]) for line in interaction.answer.decode().splitlines() if _is_data(line)]
    except ValueError:
        return {}
    whole: dict[str, Any] = {}
    for event in events:
        match interaction.dialect:
            case "openai-responses":
                whole |= event.get("response") or {}
            case "anthropic":
                message = event.get("message") or {}
                usage = {name: count for name, count in (event.get("usage") or {}).items() if count is not None}
                whole |= message
                whole["usage"] = (whole.get("usage") or {}) | usage
            case _:
                usage = (event.get("x_groq") or {}).get("usage")
                whole |= {name: value for name, value in event.items() if value} | ({"usage": usage} if usage else {})
    return whole


def _is_data(line: str) -> bool:
    return line.startswith("data:") and line[5:].strip() not in ("", "[DONE]")


# ---------------------------------------------------------------- figures


def print_figures(folder: Path) -> None:
    counts: Counter[str] = Counter()
    needs: Counter[str] = Counter()
    odd: list[str] = []
    for interaction in interactions(folder):
        repository = interaction.file.relative_to(folder).parts[0]
        verdict = judge(interaction)
        counts[f"of {repository}"] += 1
        counts[f"of {interaction.dialect}"] += 1
        counts["of streams"] += interaction.streamed
        counts["given back: " + verdict.given_back.partition(":")[0]] += 1
        needs.update(verdict.needs)
        needs.update(verdict.chooses)
        counts["need nothing"] += not verdict.needs
        if verdict.refused:
            counts[f"refused: {verdict.refused[:60]}"] += 1
        if verdict.changed or verdict.given_back.startswith("other"):
            odd.append(
                f"{interaction.file.relative_to(folder)} {interaction.dialect}: {verdict.changed} {verdict.given_back}"
            )
        counts[f"paid: {paid(verdict)}"] += 1
        counts[f"bound: {bounded(verdict)}"] += 1
        if paid(verdict).startswith(("below", "above,")) or bounded(verdict) == "too low":
            odd.append(f"{interaction.file.relative_to(folder)} {interaction.dialect}: {verdict}")
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    for name, count in needs.most_common():
        print(f"{count:6} needs {name}")
    print("\n".join(odd))


def paid(verdict: Verdict) -> str:
    """How the charge compares with genai-prices' figure."""
    if verdict.charged is None:
        return "not answered, or without a price"
    if verdict.billing is Billing.UNKNOWN and verdict.charged >= (verdict.listed or 0):
        return "at the bound: its counts are not known"
    if verdict.listed is None:
        return "genai-prices has no figure"
    if verdict.charged == verdict.listed:
        return "equal"
    if OWN_FIGURE in verdict.reasons:
        return "what the service itself says, which is not genai-prices' figure"
    if verdict.charged < verdict.listed:
        return f"below: {verdict.charged} < {verdict.listed}"
    return (
        f"above: {verdict.reasons[0]}"
        if verdict.reasons
        else f"above, nobody knows why: {verdict.charged} > {verdict.listed}"
    )


def bounded(verdict: Verdict) -> str:
    if verdict.charged is None or verdict.bound is None or verdict.billing is Billing.UNKNOWN:
        return "nothing to compare"
    if verdict.charged <= verdict.bound:
        return "enough"
    return "too low, at the owner's risk" if verdict.needs or verdict.chooses else "too low"


def folder_of_recordings() -> Path | None:
    named = os.environ.get("PAYMASTER_SDK_RECORDINGS")
    return Path(named) if named else None


if __name__ == "__main__":
    found = folder_of_recordings()
    if found is None:
        sys.exit("set PAYMASTER_SDK_RECORDINGS to a folder of cassettes")
    print_figures(found)
