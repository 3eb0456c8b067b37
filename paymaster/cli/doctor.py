"""`paymaster doctor`: is everything there that a call needs?"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from paymaster.cli.check import Check
from paymaster.cli.connection import (
    ConfigOption,
    connect_temporal,
    database_url,
    ledger_status,
    open_database,
    read_settings,
    run_async,
    settings_file,
    temporal_address,
)
from paymaster.cli.doctor_gateway import gateway_checks
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_checks, print_json, utc
from paymaster.cli.prices import use_stored_list

if TYPE_CHECKING:
    from paymaster.messages import DeskStatus
    from paymaster.settings import Settings
    from paymaster.values.money import Price

_SHOWN_MAX = 10
_NO_SERVICES = (
    "it names no service, so no call can be made: add one (docs/services.md), such as [services.openai] with "
    '`api = "openai"`, `base_url` and `key`, and in [routes] a way to it: `writer = ["openai/gpt-5-mini"]`'
)


def doctor(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check configuration, Temporal, ledger, database, gateway, keys and prices, and say what to do."""
    checks = run_async(_checks(config))
    if as_json:
        print_json(
            {
                "ok": all(check.ok for check in checks),
                "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
            }
        )
    else:
        print_checks(check._replace(detail=check.detail.replace("\n", " ")) for check in checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(EXIT_NO)


async def _checks(config: Path | None) -> list[Check]:
    from paymaster.settings import ConfigurationError

    file = settings_file(config)
    try:
        settings = read_settings(config)
    except ConfigurationError as error:
        return [Check("configuration", False, f"{file}: {problem}") for problem in error.problems]
    counts = f"services: {len(settings.services)}, routes: {len(settings.routes)}, budgets: {len(settings.budgets)}"
    has_services = bool(settings.services)
    checks = [
        Check("configuration", has_services, f"{file}: {counts if has_services else _NO_SERVICES}"),
        await _check("temporal", _temporal, settings),
    ]
    if checks[-1].ok:
        checks += await _ledger(settings)
        if checks[-1].ok:
            checks.append(await _check("configuration in force", _configuration, settings))
    checks.append(await _check("database", _database, settings))
    if checks[-1].ok:
        checks.append(await _check("database pooler", _pooler, settings))
        checks.append(await _check("database grants", _grants, settings))
        checks.append(await _check("price list", _price_list, settings))
    checks += await gateway_checks(settings)
    checks.extend([check async for check in _keys(settings)])
    checks.extend(_bundles(settings))
    checks.extend(_proxies(settings))
    checks.extend(_models(settings))
    checks.extend(_prices(settings))
    checks.extend([check async for check in _encodings(settings)])
    return checks


async def _check(name: str, find: "Callable[[Settings], Awaitable[str]]", settings: "Settings") -> Check:
    try:
        return Check(name, True, await find(settings))
    except CommandError as error:
        return Check(name, False, str(error))


async def _temporal(settings: "Settings") -> str:
    from paymaster.observability.search_attributes import are_registered

    client = await connect_temporal(settings)
    attributes = "with" if await are_registered(client) else "without (see `paymaster migrate`)"
    return f"{temporal_address()}, namespace {client.namespace}, {attributes} search attributes"


async def _ledger(settings: "Settings") -> list[Check]:
    """How it stands, where it answers, and what somebody should look at."""
    try:
        status = await ledger_status(settings)
    except CommandError as error:
        return [Check("ledger", False, str(error))]
    see = ", see `paymaster unconfirmed list`" if status.unconfirmed else ""
    counts = f"{status.holds} in flight, {status.parked} parked, {status.unconfirmed} unconfirmed{see}"
    checks = [Check("ledger", True, f"{status.ledger} answers: {counts}")]
    if used_up := list(_used_up(status)):
        more = f" and {len(used_up) - _SHOWN_MAX} more" if len(used_up) > _SHOWN_MAX else ""
        checks.append(Check("caps", True, f"used up: {', '.join(used_up[:_SHOWN_MAX])}{more}; `paymaster budget show`"))
    if not any(account.account.startswith("budget:") for account in status.accounts):
        checks.append(Check("budgets", False, 'there is none, so calls are refused: add [budgets."NAME"] to the file'))
    return checks


def _used_up(status: "DeskStatus") -> Iterator[str]:
    """Caps under which nothing is left to spend, and when that ends."""
    from paymaster.values.money import format_usd

    for account in status.accounts:
        for window in account.windows:
            if account.enforced and window.cap_nanos is not None and window.posted_nanos >= window.cap_nanos:
                until = "" if window.ends_at_ms is None else f" until {utc(window.ends_at_ms)}"
                spent = f"{format_usd(window.posted_nanos)} of {format_usd(window.cap_nanos)}"
                yield f"{account.account} {window.window} ({spent}){until}"


async def _database(settings: "Settings") -> str:
    from paymaster.admission.alert_texts import empty_books
    from paymaster.storage.ledger_state_rows import other_ledgers
    from paymaster.storage.schema import SCHEMA_REVISION

    async with open_database(settings) as engine:
        others = await other_ledgers(engine, settings.ledger.name)
        hint = f"; {empty_books(settings.ledger.name, others)}" if others else ""
        return f"{engine.url}, schema {SCHEMA_REVISION}{hint}"


async def _pooler(settings: "Settings") -> str:
    from paymaster.storage.access import UNSAID_POOLER, shares_connections
    from paymaster.storage.engine import is_pooled, parse_url

    async with open_database(settings) as engine:
        shares = await shares_connections(engine)
    said = is_pooled(parse_url(database_url(settings)))
    if shares and not said:
        raise CommandError(UNSAID_POOLER)
    if shares:
        return "a pooler in transaction mode, which the URL says: nothing is prepared, and jit stays as it is"
    return "none that shares connections between transactions"


async def _price_list(settings: "Settings") -> str:
    """What workers look prices up in; the checks of prices that follow do so too."""
    from paymaster.providers.listings import newest

    await use_stored_list(settings)
    return newest().name


async def _grants(settings: "Settings") -> str:
    from paymaster.storage.access import missing_grants

    async with open_database(settings) as engine:
        missing = await missing_grants(engine)
    if missing:
        raise CommandError(f"the database's role lacks privileges; as the tables' owner: {' '.join(missing)}")
    return "the role may do what a worker does"


async def _configuration(settings: "Settings") -> str:
    from paymaster.admission.configuration import differences
    from paymaster.cli.connection import admin_errors, connect_ledger
    from paymaster.settings import ConfigurationError
    from paymaster.settings.desk_config import desk_config

    ledger = await connect_ledger(settings)
    with admin_errors():
        in_force = await ledger.configuration()
    try:
        found = differences(in_force.config, desk_config(settings), in_force.admin_caps_nanos)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None
    if not found:
        return "the ledger has that of the file"
    return f"the ledger has another one than the file ({len(found)} differences): `paymaster config diff` shows them"


async def _keys(settings: "Settings") -> AsyncIterator[Check]:
    """Whether each key can be used here, and where it is; never its value."""
    from paymaster.cli.keys import find_keys, where

    async for found in find_keys(settings):
        yield Check(f"key {found.name}", found.problem is None, found.problem or where(found))


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


def _proxies(settings: "Settings") -> Iterator[Check]:
    """Which proxies the environment names for services, and those that cannot be read."""
    from paymaster.providers.proxies import ProxyUnreadable, named_proxy

    found: dict[str, Check] = {}
    for name, service in settings.services.items():
        try:
            named = named_proxy(service.base_url)
        except ProxyUnreadable as error:
            found[error.variable] = Check(f"proxy {error.variable}", False, str(error))
            continue
        if named is not None:
            at = f"{named.proxy.url.scheme}://{named.proxy.url.host}:{named.proxy.url.port or 80}"
            found.setdefault(f"{named.variable} {name}", Check(f"proxy of {name}", True, f"{named.variable}, {at}"))
    yield from found.values()


def _prices(settings: "Settings") -> Iterator[Check]:
    from paymaster.providers.price_list import Asked, price_of
    from paymaster.settings import split_candidate

    for candidate in dict.fromkeys(name for route in settings.routes.values() for name in route.names):
        service, model = split_candidate(candidate)
        now = datetime.now(UTC)
        price = price_of(settings, service, model, now) or price_of(settings, service, model, now, Asked(embeds=True))
        problem = (
            f'unknown, so calls are refused: add [services.{service}.models."{model}"] with '
            'price = { input = "…", output = "…" } in USD per million tokens ("0" if it costs nothing)'
        )
        yield Check(f"price {candidate}", price is not None, _described(price) if price else problem)


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


async def _encodings(settings: "Settings") -> AsyncIterator[Check]:
    """Whether OpenAI's tokenizer can count here where bounds may be counted."""
    from paymaster.providers.counting import check_extra, encodings_wanted
    from paymaster.providers.provider import CannotCount
    from paymaster.providers.tokenizer import Tokenizer
    from paymaster.values.extras import ExtraMissing

    try:
        check_extra(settings.services)
    except ExtraMissing as error:
        yield Check("tokenizer", False, str(error))
        return
    tokenizer = Tokenizer()
    for name, candidate in encodings_wanted(settings).items():
        try:
            await tokenizer.encoding(name)
        except CannotCount as error:
            yield Check(f"tokenizer {name}", False, str(error))
        else:
            yield Check(f"tokenizer {name}", True, f"can count for {candidate}")


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
