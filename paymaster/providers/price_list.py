"""The price of a model: of the configuration, else of genai-prices. Never imported by workflows.

genai-prices knows rates by provider, model and time. Its traps: a model without rates costs nothing there, a missing
rate counts as zero, and a name that it cannot place is an error; all of these are "unknown" here, which refuses the
call. What it does not cover (per-call fees of a provider's own tools) is never asked for by us.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from math import ceil, prod
from typing import NamedTuple

from genai_prices import Usage
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices, TimeOfDateConstraint

from paymaster.admission.price_changes import Rates, rates_of
from paymaster.calls.cost import CONFIGURATION, Cost
from paymaster.providers.counted_kinds import counted_kinds
from paymaster.providers.listings import factor_in, listing_of, newest, priced_by
from paymaster.providers.provider import WORD_LENGTH_MAX, Billed, WireUsage
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import ServiceSettings, Settings, split_candidate
from paymaster.values.cost_lines import Kind, Part, add_up
from paymaster.values.money import AT_CHOICE, NANOS_PER_USD, Price, PriceTier

_DEARER_OUTPUT = ("output_image_mtok", "output_audio_mtok", "output_video_mtok")
"""Rates of what a model may answer besides text: the bound of a call is at the dearest."""
_IMAGES = "input_image_mtok"
_ONCE = Fraction(1)
_KEPT_LONG = "cache_control.ttl=1h"
"""The choice to have the cache keep what is written for an hour, at a price of its own."""
_CACHED = ("cached_input_tokens", "cached_audio_tokens", "cached_image_tokens", "cached_video_tokens")


class Asked(NamedTuple):
    """What the price of a request depends on beside its model."""

    chooses: tuple[str, ...] = ()
    """What chooses a price, as `service_tier=priority`."""
    embeds: bool = False
    """Nothing is put out, so that a price for output is not needed."""
    has_media: bool = False
    """It has images or documents, whose tokens may be dearer than those of texts."""


PLAIN = Asked()


def price_of(settings: Settings, service: str, model: str, at: datetime, asked: Asked = PLAIN) -> Price | None:
    """The price of a model at that time, or None: then its calls are refused, because a price is never guessed.

    Where the price depends on the time of day, or on what the request chooses, it is the dearest that may apply: the
    call may wait before it is sent, and a service may serve it otherwise than it was asked to.
    """
    settings_of_service = settings.services[service]
    own = _configured(settings_of_service, model, at)
    if own is not None:
        return own
    listing = newest()
    found = find_listed(settings_of_service, model, listing.snapshot)
    if found is None:
        return None
    provider, info = found
    unknown = unpriced(settings, service, model, at, asked.chooses)
    chosen = [choice for choice in asked.chooses if choice not in unknown]
    source = AT_CHOICE.join(
        [f"{priced_by(listing, settings_of_service.price_factor)}: {provider.id}/{info.id}", *chosen]
    )
    factor = _factor(settings_of_service, model) * _chosen_factor(settings_of_service, chosen)
    contexts = [{}, *({name: word} for name, word in _words(chosen)), dict(_words(chosen))]
    prices = [
        _price(rates, source, factor, asked) for context in contexts for rates in _rates_of_a_day(info, at, context)
    ]
    # The windows and tiers of one model move all its rates alike, so that one of them is the dearest in everything.
    known = [price for price in prices if price is not None]
    return max(known, key=lambda price: price.bound_nanos(10**6, 10**6)) if len(known) == len(prices) else None


def rates_now(settings: Settings, names: Iterable[str]) -> dict[str, Rates]:
    """The rates of each `service/model` that has a price now."""
    now, found = datetime.now(UTC), dict[str, Rates]()
    for name in names:
        service, model = split_candidate(name)
        if service in settings.services:
            plain, embeds = (price_of(settings, service, model, now, asked) for asked in (PLAIN, Asked(embeds=True)))
            if price := plain or embeds:
                found[name] = rates_of(price)
    return found


def unpriced(settings: Settings, service: str, model: str, at: datetime, chooses: Sequence[str]) -> list[str]:
    """What of these choices nobody knows a price for. Beside a price of the configuration that is all of them."""
    own = _configured(settings.services[service], model, at)
    found = find_listed(settings.services[service], model, newest().snapshot)
    if own is not None or found is None:
        return list(chooses)
    provider, info = found
    variants = (info.price_variants or ()) if any(info is own for own in provider.models) else ()
    listed = {f"{name}={word}" for variant in variants for name, word in variant.when.items()}
    if all(rates.__dict__.get("cache_write_1h_mtok") is not None for rates in _rates_of_a_day(info, at)):
        listed.add(_KEPT_LONG)
    known = listed | PROVIDERS[settings.services[service].api].chosen_factors.keys()
    return [choice for choice in chooses if choice not in known]


def _configured(service: ServiceSettings, model: str, at: datetime) -> Price | None:
    configured = service.models.get(model)
    return configured.price_at(at, CONFIGURATION) if configured else None


def _words(chooses: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, word) for name, _, word in (choice.partition("=") for choice in chooses)]


def _chosen_factor(service: ServiceSettings, chooses: Sequence[str]) -> Fraction:
    """Never below 1: a wish need not be granted."""
    factors = PROVIDERS[service.api].chosen_factors
    return prod((max(factors[choice], _ONCE) for choice in chooses if choice in factors), start=_ONCE)


def listed_cost(service: ServiceSettings, bill: Billed, at: datetime, granted: Price | None = None) -> Cost | None:
    """The cost of an answer that was asked for at that time, by what genai-prices has for the models and the tier that
    answered; None where it has nothing, or where the service names a factor that nobody knows.

    `granted`: the price of its grant, whose list decides, and which decides itself (None) where the configuration has
    another factor since. A list that this process does not have is taken for the newest. Default: the newest list.
    """
    if bill.usage is None or bill.model is None or bill.factor is None:
        return None
    if granted is not None and factor_in(granted.source) != service.price_factor:
        return None
    listing = (None if granted is None else listing_of(granted.source)) or newest()
    by = priced_by(listing, service.price_factor)
    context = {"service_tier": bill.service_tier, "speed": bill.speed}
    total, sources, parts = Fraction(0), dict[str, None](), list[Part]()
    for model, usage in bill.passes or ((bill.model, bill.usage),):
        found = _listed(
            service, listing.snapshot, model, usage, {name: word for name, word in context.items() if word}, at
        )
        if found is None:
            return None
        factor = bill.factor * _factor(service, model)
        total += Fraction(found.usd) * factor
        sources[found.name] = None
        parts += (part if part.price is None else part._replace(price=part.price * factor) for part in found.parts)
    nanos = _nanos(total)
    if not bill.passes:
        parts = [part._replace(model=None) for part in parts]
    return Cost(nanos, f"{by}: {', '.join(sources)}", add_up(parts, nanos))


def _factor(service: ServiceSettings, model: str) -> Fraction:
    """By which the listed prices of a model are multiplied here: by what its address costs, and by the contract."""
    return PROVIDERS[service.api].price_factor(service, model) * Fraction(service.price_factor)


class _Listed(NamedTuple):
    """What the usage of a model costs by the list."""

    usd: Decimal
    name: str
    """Of the model's price."""
    parts: list[Part]


def _listed(
    service: ServiceSettings,
    snapshot: DataSnapshot,
    model: str,
    usage: WireUsage,
    context: dict[str, str],
    at: datetime,
) -> _Listed | None:
    """None also for a speed that has no price here: the usual one is lower."""
    found = find_listed(service, model, snapshot)
    if found is None:
        return None
    provider, info = found
    # As genai-prices does: the variants of a model apply only where the provider itself lists it.
    own = any(info is each for each in provider.models)
    speeds = [variant.when.get("speed") for variant in info.price_variants or () if own]
    if "speed" in context and context["speed"] not in speeds:
        return None
    rates = info.get_prices(at, context if own else None)
    if _price(rates, "", asked=Asked(embeds=usage.output_tokens == 0)) is None:
        return None
    # Where it is not said what of sound or images was cached, nothing was: the dearest that it can be.
    for counted in (usage, usage.model_copy(update=dict.fromkeys(_CACHED, 0))):
        try:
            usd = rates.calc_price(_usage(counted))["total_price"]
            return _Listed(usd, f"{provider.id}/{info.id}", _parts(rates, counted, info.id))
        except ValueError:
            if usage.cached_input_tokens + usage.cache_write_tokens > usage.input_tokens:
                return None
    return None


_RATES: Mapping[Kind, tuple[str, ...]] = {
    Kind.INPUT: ("input_mtok",),
    Kind.CACHED_INPUT: ("cache_read_mtok", "input_mtok"),
    Kind.CACHE_WRITE: ("cache_write_mtok", "input_mtok"),
    Kind.CACHE_WRITE_1H: ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    Kind.OUTPUT: ("output_mtok",),
    Kind.REASONING: ("output_mtok",),
    Kind.WEB_SEARCH: ("web_searches_kcount",),
    Kind.REQUEST: ("requests_kcount",),
    **{
        kind: (f"input_{sort}_mtok", "input_mtok")
        for kind, sort in ((Kind.INPUT_AUDIO, "audio"), (Kind.INPUT_IMAGE, "image"), (Kind.INPUT_VIDEO, "video"))
    },
    **{
        kind: (f"cache_{sort}_read_mtok", "cache_read_mtok", f"input_{sort}_mtok", "input_mtok")
        for kind, sort in ((Kind.CACHED_AUDIO, "audio"), (Kind.CACHED_IMAGE, "image"), (Kind.CACHED_VIDEO, "video"))
    },
    **{
        kind: (f"output_{sort}_mtok", "output_mtok")
        for kind, sort in ((Kind.OUTPUT_AUDIO, "audio"), (Kind.OUTPUT_IMAGE, "image"), (Kind.OUTPUT_VIDEO, "video"))
    },
}
"""The list's rates of each kind; the first that a model has is what it pays."""


def _parts(rates: ModelPrice, usage: WireUsage, model: str) -> list[Part]:
    """What was used, at the exact rates that genai-prices has for it."""
    counts = {**counted_kinds(usage), Kind.REQUEST: 1}
    parts: list[Part] = []
    for kind, count in counts.items():
        rate = next((rate for name in _RATES[kind] if (rate := rates.__dict__.get(name)) is not None), None)
        if rate is None and kind is Kind.REQUEST:
            continue
        price = None if rate is None else Fraction(_reached(rate, usage.input_tokens)) * NANOS_PER_USD
        if price is not None and _RATES[kind][0].endswith("_kcount"):
            price /= 1_000
        parts.append(Part(kind, count, price, model))
    return parts


def _reached(rate: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if not isinstance(rate, TieredPrices):
        return rate
    return next((tier.price for tier in reversed(rate.tiers) if input_tokens > tier.start), rate.base)


def find_listed(service: ServiceSettings, model: str, snapshot: DataSnapshot) -> tuple[Provider, ModelInfo] | None:
    """By the service's address, and never by the model's name alone: others serve it at other prices."""
    if len(model) > WORD_LENGTH_MAX:  # no model's, and to search for it takes long
        return None
    try:
        provider = snapshot.find_provider(None, None, service.base_url)
    except LookupError:
        return None
    if model.startswith("arn:"):  # the id of a model of Bedrock, or of an inference profile, is its last part
        model = model.rpartition("/")[2]
    # Not `find_provider_model`, which remembers each name for ever: agents and services may make them up.
    info = provider.find_model(model.lower(), all_providers=snapshot.providers)
    return None if info is None else (provider, info)


def _rates_of_a_day(info: ModelInfo, at: datetime, context: dict[str, str] | None = None) -> list[ModelPrice]:
    """The rates at that time, and those of every window of the day."""
    windows = [] if isinstance(info.prices, ModelPrice) else info.prices
    daily = [window.prices for window in windows if isinstance(window.constraint, TimeOfDateConstraint)]
    return [info.get_prices(at, context), *daily]


def _price(rates: ModelPrice, source: str, factor: Fraction = _ONCE, asked: Asked = PLAIN) -> Price | None:
    """Exact rates, times the factor; None where the one for input is missing, or for output that there is."""
    dearer_input = (_IMAGES,) if asked.has_media else ()
    written = ("cache_write_1h_mtok", "cache_write_mtok") if _KEPT_LONG in asked.chooses else ("cache_write_mtok",)
    names = ("input_mtok", "output_mtok", "cache_read_mtok", *dearer_input, *written, *_DEARER_OUTPUT)
    prices = {name: _tiers(rates.__dict__.get(name), factor) for name in names}
    if not prices["input_mtok"] or not (prices["output_mtok"] or asked.embeds):
        return None

    def rate(name: str, start: int) -> int | None:
        reached = [nanos for above, nanos in prices[name] if above <= start]
        return reached[-1] if reached else None

    def tier(start: int) -> PriceTier:
        return PriceTier(
            above_input_tokens=start,
            input_nanos=max(rate(name, start) or 0 for name in ("input_mtok", *dearer_input)),
            output_nanos=max(rate(name, start) or 0 for name in ("output_mtok", *_DEARER_OUTPUT)),
            cached_input_nanos=rate("cache_read_mtok", start),
            cache_write_nanos=next((nanos for name in written if (nanos := rate(name, start)) is not None), None),
        )

    starts = sorted({above for tiers in prices.values() for above, _ in tiers if above > 0})
    fee = rates.__dict__.get("requests_kcount")
    return Price(
        **tier(0).model_dump(exclude={"above_input_tokens"}),
        tiers=tuple(map(tier, starts)),
        request_nanos=_nanos(Fraction(fee) * factor / 1_000) if isinstance(fee, Decimal) else 0,
        source=source,
    )


def _tiers(rate: Decimal | TieredPrices | None, factor: Fraction) -> list[tuple[int, int]]:
    """Pairs of the input tokens above which a rate holds, and the rate; the first pair begins at 0. Empty: no rate."""
    if rate is None:
        return []
    if isinstance(rate, TieredPrices):
        starts = [(0, rate.base), *((tier.start, tier.price) for tier in rate.tiers)]
        return [(start, _nanos(Fraction(price) * factor)) for start, price in starts]
    return [(0, _nanos(Fraction(rate) * factor))]


def _nanos(usd: Fraction) -> int:
    return ceil(usd * NANOS_PER_USD)


def _usage(usage: WireUsage) -> Usage:
    return Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens or None,
        output_tokens=usage.output_tokens,
        input_audio_tokens=usage.input_audio_tokens or None,
        cache_audio_read_tokens=usage.cached_audio_tokens or None,
        output_audio_tokens=usage.output_audio_tokens or None,
        input_image_tokens=usage.input_image_tokens or None,
        cache_image_read_tokens=usage.cached_image_tokens or None,
        output_image_tokens=usage.output_image_tokens or None,
        input_video_tokens=usage.input_video_tokens or None,
        cache_video_read_tokens=usage.cached_video_tokens or None,
        output_video_tokens=usage.output_video_tokens or None,
        web_searches=usage.web_searches or None,
    )
