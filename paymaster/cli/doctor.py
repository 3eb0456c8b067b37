"""`paymaster doctor`: is everything there that a call needs?"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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
from paymaster.cli.file_checks import NO_SERVICES, counts, file_checks
from paymaster.cli.present import JsonOption, print_checks, print_json, utc
from paymaster.cli.prices import use_stored_list

if TYPE_CHECKING:
    from paymaster.messages import DeskStatus
    from paymaster.settings import Settings

_SHOWN_MAX = 10


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
    has_services = bool(settings.services)
    checks = [
        Check("configuration", has_services, f"{file}: {counts(settings) if has_services else NO_SERVICES}"),
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
        checks.append(await _check("database locks", _locks, settings))
        checks.append(await _check("price list", _price_list, settings))
    checks += await gateway_checks(settings)
    checks.extend([check async for check in _keys(settings)])
    checks.extend(_proxies(settings))
    checks.extend(file_checks(settings))
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
        return [Check("ledger", False, f"{str(error).rstrip('.')}{await _others(settings)}")]
    see = ", see `paymaster unconfirmed list`" if status.unconfirmed else ""
    counts = f"{status.holds} in flight, {status.parked} parked, {status.unconfirmed} unconfirmed{see}"
    checks = [Check("ledger", True, f"{status.ledger} answers: {counts}")]
    if used_up := list(_used_up(status)):
        more = f" and {len(used_up) - _SHOWN_MAX} more" if len(used_up) > _SHOWN_MAX else ""
        checks.append(Check("caps", True, f"used up: {', '.join(used_up[:_SHOWN_MAX])}{more}; `paymaster budget show`"))
    if not any(account.account.startswith("budget:") for account in status.accounts):
        checks.append(Check("budgets", False, 'there is none, so calls are refused: add [budgets."NAME"] to the file'))
    return checks


async def _others(settings: "Settings") -> str:
    """Why this ledger may not answer: it runs elsewhere, or others were meant."""
    from temporalio.service import RPCError

    from paymaster.ledger.neighbours import ledgers_running, misplaced

    try:
        running = await ledgers_running(await connect_temporal(settings))
    except (CommandError, RPCError):
        return ""
    if (problem := misplaced(settings.ledger.name, running.get(settings.ledger.name))) is not None:
        return f"; {problem}"
    others = [name for name in running if name != settings.ledger.name]
    return f"; in this namespace run the ledgers {', '.join(others)}" if others else ""


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
    from paymaster.storage.access import ONLY_READS, only_reads
    from paymaster.storage.ledger_state_rows import other_ledgers
    from paymaster.storage.partitions import has_two_beginnings
    from paymaster.storage.schema import SCHEMA_REVISION

    async with open_database(settings) as engine:
        if await only_reads(engine):
            raise CommandError(f"the database {engine.url}: {ONLY_READS}")
        if await has_two_beginnings(engine):
            raise CommandError(
                f"the database {engine.url}: a dump was put back without its tables (--data-only) into those that "
                "`migrate` had made: rows are missing, their sums are wrong, and no coming month can be made. Put it "
                "back whole, into an empty database: docs/operating.md"
            )
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


async def _locks(settings: "Settings") -> str:
    from paymaster.storage.lock_room import lock_room

    async with open_database(settings) as engine:
        room = await lock_room(engine)
    told = (
        f"PostgreSQL has room for {room.locks:,}, and in a year a statement over all months takes up to "
        f"{room.of_statement:,}, on {room.at_once} connections at once"
    )
    if room.lacking is not None:
        raise CommandError(
            f"{told}: set max_locks_per_transaction to {room.lacking} (it is {room.per_transaction}) and start "
            "PostgreSQL anew, or take old months out with `paymaster usage prune`"
        )
    return told


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
    return f"the ledger has another one than the file (differences: {len(found)}): `paymaster config diff` shows them"


async def _keys(settings: "Settings") -> AsyncIterator[Check]:
    """Whether each key can be used here, and where it is; never its value."""
    from paymaster.cli.keys import find_keys, where

    async for found in find_keys(settings):
        yield Check(f"key {found.name}", found.problem is None, found.problem or where(found))


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
