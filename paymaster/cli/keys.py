"""`paymaster keys`: which keys there are, from where, how old; never a value."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import typer

from paymaster.cli.connection import ConfigOption, command_settings, run_async
from paymaster.cli.exits import EXIT_NO
from paymaster.cli.present import JsonOption, iso, print_checks, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.keys.api_key import ApiKey
    from paymaster.settings import Settings

app = typer.Typer(help="Show and check the keys that the configuration names.", no_args_is_help=True)

_ANSWERS_WITHIN_S = 20.0  # a person waits longer than a call does: signing in by the Azure CLI takes seconds


class FoundKey(NamedTuple):
    """One key that the configuration names, and what its source says about it."""

    name: str
    used_by: tuple[str, ...]
    key: "ApiKey | None"
    problem: str | None
    """What to do about it. None: it can be used."""


@app.command("list")
def list_keys(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Names, sources, versions and ages."""
    found = run_async(_found(command_settings(config)))
    if as_json:
        print_json({"keys": [_document(each) for each in found]})
        return
    headers = ["key", "used by", "source", "version", "age", "expires"]
    print_table(headers, [_row(each) for each in found])
    if not found:
        print_note("the configuration names no key")


@app.command()
def check(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Fetch every key, and say what to do where one cannot be used. Exit code 1: there is such a key."""
    found = run_async(_found(command_settings(config)))
    if as_json:
        print_json({"ok": not any(each.problem for each in found), "keys": [_document(each) for each in found]})
    elif not found:
        print_line("ok       the configuration names no key")
    else:
        print_checks((each.name, each.problem is None, each.problem or where(each)) for each in found)
    if any(each.problem for each in found):
        raise typer.Exit(EXIT_NO)


def where(found: FoundKey) -> str:
    """Where it is and how old: "in OPENAI_API_KEY", "in https://…/secrets/openai-api-key, version 5f3a, 3 days old"."""
    assert found.key is not None  # without a problem there is one
    parts = [f"in {found.key.where}"]
    if found.key.version is not None:
        parts.append(f"version {found.key.version}")
    if found.key.changed_at is not None:
        parts.append(f"{_age(found.key.changed_at)} old")
    if found.key.expires_at is not None:
        over = found.key.expires_at <= datetime.now(UTC)
        parts.append(f"expire{'d' if over else 's'} {_day(found.key.expires_at)}")
    return ", ".join(parts)


async def find_keys(settings: "Settings") -> AsyncIterator[FoundKey]:
    """Every key and token that the configuration names, asked for now."""
    from paymaster.keys.api_key import KeyUnavailable
    from paymaster.keys.ring import kept_keys
    from paymaster.providers.aws_signature import access_key

    used_by: dict[str, list[str]] = {}
    for name, service in settings.services.items():
        if service.key_name is not None:
            used_by.setdefault(service.key_name, []).append(name)
    for name in settings.encryption.keys:
        used_by.setdefault(name, []).append("[encryption]")
    if settings.gateway.streams.secret_key is not None:
        used_by.setdefault(settings.gateway.streams.secret_key, []).append("[gateway.streams]")
    for name, client in settings.gateway.clients.items():
        if client.key is not None:
            used_by.setdefault(client.key, []).append(f"[gateway.clients.{name}]")
    signing = {service.key_name for service in settings.services.values() if service.auth == "aws"}
    keys = kept_keys(settings, wait_at_most_s=_ANSWERS_WITHIN_S)
    try:
        for name, users in used_by.items():
            try:
                found = await keys.get(name)
                if name in signing:
                    access_key(found.reveal(), name)
                yield FoundKey(name, tuple(users), found, None)
            except KeyUnavailable as error:
                yield FoundKey(name, tuple(users), None, str(error))
    finally:
        await keys.close()


async def _found(settings: "Settings") -> list[FoundKey]:
    return [each async for each in find_keys(settings)]


def _row(found: FoundKey) -> list[str]:
    users, key = ", ".join(found.used_by), found.key
    if key is None:
        return [found.name, users, f"PROBLEM: {found.problem}", "", "", ""]
    age = "" if key.changed_at is None else _age(key.changed_at)
    return [found.name, users, key.where or "", key.version or "", age, _day(key.expires_at) if key.expires_at else ""]


def _document(found: FoundKey) -> "JsonValue":
    key = found.key
    return {
        "key": found.name,
        "used_by": list(found.used_by),
        "problem": found.problem,
        "source": key.where if key else None,
        "version": key.version if key else None,
        "changed_at": iso(key.changed_at) if key else None,
        "expires_at": iso(key.expires_at) if key else None,
    }


def _age(since: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}{'' if seconds // length == 1 else 's'}"
    return "less than a minute"


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")
