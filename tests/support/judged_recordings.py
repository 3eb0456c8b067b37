"""What a worker makes of recorded interactions: how they are bound, sent, given back and paid, by functions alone.

`PYTHONPATH=.:tests/support python tests/support/judged_recordings.py` prints the figures of all that are in the folder
that `PAYMASTER_SDK_RECORDINGS` names.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from reserving import reserve_of
from sdk_recordings import Interaction, changes, folder_of_recordings, interactions, service_table
from wire import GRANT

from paymaster.admission.routing import bound_nanos
from paymaster.calls.cost import OWN_FIGURE, cost_nanos
from paymaster.messages import Attempt, Billing, LLMRequest, Reserve, ServiceCall
from paymaster.messages.wire import Dialect
from paymaster.providers.answers import HttpAnswer, Reading, read_answer
from paymaster.providers.bounds import facts_of
from paymaster.providers.counting import TokenCounting, ways_of_counting
from paymaster.providers.provider import CannotCount
from paymaster.providers.registry import wire_format
from paymaster.settings import Settings
from paymaster.wire.dialects import measured
from paymaster.wire.measured import BadBody

NOW_MS = 1_795_348_800_000  # 2026-11-22T12:00Z
LOW_CAP = 1_100
"""A grant's cap that is below what most requests ask for."""
FLAVORS: Mapping[Dialect, tuple[str, ...]] = {
    "openai": ("chat", "default"),
    "openai-responses": ("responses", "default"),
    "openai-embeddings": ("embeddings", "default"),
    "anthropic": ("anthropic", "default"),
    "gemini": ("default",),
}


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
    counted_bound: int | None = None
    """Where its tokens are counted without a word in the configuration, and can be."""
    charged: int | None = None
    listed: int | None = None
    """What genai-prices makes of the answer."""
    billing: Billing | None = None
    reasons: tuple[str, ...] = ()
    """Why the charge may be another than genai-prices' figure."""


def judge(interaction: Interaction) -> Verdict:
    """Sends it as far as a worker would, and reads the recorded answer."""
    verdict = Verdict()
    try:
        asked = measured(interaction.wire)
    except BadBody as error:
        return Verdict(refused=str(error))
    verdict.needs, verdict.chooses = asked.needs, asked.chooses
    table = service_table(interaction, interaction.base_url.replace("http://", "https://"), asked)
    settings = Settings.model_validate({"services": {"it": table}})
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
        verdict.changed += changes(interaction, sent.body)
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
        verdict.counted_bound = _counted_bound(settings, request, command)
        verdict.listed, verdict.reasons = _listed_nanos(interaction), tuple(_reasons(interaction, reading))
    return verdict


def _counted_bound(settings: Settings, request: LLMRequest, command: Reserve) -> int | None:
    """What a provider adds itself is not counted, nor are embeddings."""
    service, candidate, asked = settings.services["it"], command.candidates[0], facts_of(request)
    if "tokenizer" not in ways_of_counting(service, candidate.model) or asked.needs or asked.outputs == 0:
        return None
    nobody: Any = None
    try:
        tokens = asyncio.run(TokenCounting(settings.services, nobody, nobody).count(request, candidate))
    except CannotCount:
        return None
    return bound_nanos(command, candidate.model_copy(update={"counted_tokens": tokens}))


def _given_back(interaction: Interaction, reading: Reading) -> str:
    wire = reading.refusal if reading.completion is None else reading.completion.wire
    if wire is None:
        return "nothing" if reading.error is None else f"nothing: {reading.error.error_class.name}"
    if wire.body == interaction.answer:
        return "same"
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
        counts[f"counted bound: {counted(verdict)}"] += 1
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


def counted(verdict: Verdict) -> str:
    if verdict.charged is None or verdict.counted_bound is None or verdict.billing is Billing.UNKNOWN:
        return "nothing to compare"
    if verdict.charged <= verdict.counted_bound:
        return "enough"
    return "too low, at the owner's risk" if verdict.chooses else "too low"


if __name__ == "__main__":
    found = folder_of_recordings()
    if found is None:
        sys.exit("set PAYMASTER_SDK_RECORDINGS to a folder of cassettes")
    print_figures(found)
