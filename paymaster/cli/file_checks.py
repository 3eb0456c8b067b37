"""What is looked at in a configuration without asking anybody, for `paymaster config check` and `doctor`."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from paymaster.cli.check import Check

if TYPE_CHECKING:
    from paymaster.settings import Settings
    from paymaster.values.money import Price

NO_SERVICES = (
    "it names no service, so no call can be made: add one (docs/services.md), such as [services.openai] with "
    '`api = "openai"`, `base_url` and `key`, and in [routes] a way to it: `writer = ["openai/gpt-5-mini"]`'
)


def counts(settings: "Settings") -> str:
    """How much is configured."""
    return f"services: {len(settings.services)}, routes: {len(settings.routes)}, budgets: {len(settings.budgets)}"


def file_checks(settings: "Settings") -> Iterator[Check]:
    """Whether what the file names can be used: certificates, models, prices."""
    yield from _bundles(settings)
    yield from _models(settings)
    yield from _prices(settings)


def _bundles(settings: "Settings") -> Iterator[Check]:
    """Whether each `ca_bundle` can be read here."""
    from paymaster.providers.tls import tls_context
    from paymaster.settings import ConfigurationError

    for name, service in settings.services.items():
        if service.ca_bundle is not None:
            try:
                tls_context(f"services.{name}", service.ca_bundle)
            except ConfigurationError as error:
                yield Check(f"authorities of {name}", False, str(error))
            else:
                yield Check(f"authorities of {name}", True, f"in {service.ca_bundle}")


def _models(settings: "Settings") -> Iterator[Check]:
    """What the model of each candidate refuses, and what its configuration asks of it in vain."""
    from paymaster.providers.profiles import profile_of
    from paymaster.settings import ModelSettings, split_candidate

    for candidate in dict.fromkeys(name for route in settings.routes.values() for name in route.names):
        service, model = split_candidate(candidate)
        profile = profile_of(settings.services[service].api, model)
        configured = settings.services[service].models.get(model, ModelSettings())
        most, wanted = profile.output_tokens_max, configured.max_output_tokens
        if most is not None and wanted is not None and wanted > most:
            detail = (
                f"max_output_tokens = {wanted} is more than its {most}, so every call is refused: set {most} or less"
            )
            yield Check(f"model {candidate}", False, detail)
        elif profile.refuses:
            detail = f"refuses {', '.join(profile.refuses)}: a request with these goes to the route's next candidate"
            is_last = any(route.candidates[-1] == (candidate,) for route in settings.routes.values())
            yield Check(f"model {candidate}", True, detail + ("; in its route there is none" if is_last else ""))


def _prices(settings: "Settings") -> Iterator[Check]:
    from paymaster.providers.price_list import Asked, price_of
    from paymaster.settings import split_candidate
    from paymaster.settings.problems import did_you_mean

    for candidate in dict.fromkeys(name for route in settings.routes.values() for name in route.names):
        service, model = split_candidate(candidate)
        now = datetime.now(UTC)
        price = price_of(settings, service, model, now) or price_of(settings, service, model, now, Asked(embeds=True))
        meant = did_you_mean(model, settings.services[service].models.keys() - {model})
        problem = (
            f"unknown, so calls are refused: {f'{meant} Else ' if meant else ''}add "
            f'[services.{service}.models."{model}"] with '
            'price = { input = "…", output = "…" } in USD per million tokens ("0" if it costs nothing)'
        )
        yield Check(f"price {candidate}", price is not None, _described(price) if price else problem)


def _described(price: "Price") -> str:
    """The rates and where they are from."""
    from paymaster.values.money import format_usd

    rates = {
        "input": price.input_nanos,
        "cached": price.cached_input_nanos,
        "cache writes": price.cache_write_nanos,
        "output": price.output_nanos,
    }
    per_million = ", ".join(f"{name} {format_usd(rate)}" for name, rate in rates.items() if rate is not None)
    tiers = "".join(f"; more above {tier.above_input_tokens:,} tokens of input" for tier in price.tiers)
    return f"{per_million} per million tokens{tiers}; from {price.source}"
