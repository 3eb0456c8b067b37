"""`paymaster clients`: who may ask the gateway, under which budget. A key is shown once, when it is made."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, admin, command_settings, open_database, run_async
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, iso, print_json, print_line, print_new_key, print_note, print_table

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.settings import Settings
    from paymaster.storage.clients import NewClient, StoredClient

app = typer.Typer(help="Who may ask the gateway: make keys, list and revoke them.", no_args_is_help=True)

Client = Annotated[
    str, typer.Argument(metavar="CLIENT", help="Its name, or the id of its key: pmk_ and the 12 signs behind it.")
]
Who = Annotated[str | None, typer.Option(help="Kept with the change. Default: user@host.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help='How lists, logs and rows call it: "content-bot".')],
    budget: Annotated[str, typer.Option(metavar="PATH", help="Its requests are charged to this, or to one below.")],
    routes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Routes, and service/model, that it may name. Default: all.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="30d", help="After so long its key is refused. Default: never.")
    ] = None,
    requests_at_once: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="The most requests at one gateway. Default: the gateway's own limit."),
    ] = None,
    who: Who = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a client and print its key, which is shown this once: only its hash is stored."""
    from paymaster.storage.clients import NewClient
    from paymaster.values.client_key import key_digest, new_client_key

    settings, key = command_settings(config), new_client_key()
    client = NewClient(
        name=_name(settings, name),
        key_id=key.id,
        key_sha256=key_digest(key.text),
        budget=_budget(budget),
        routes=None if routes is None else _routes(settings, routes),
        requests_at_once=requests_at_once,
        expires_at=None if expires is None else _end(expires),
        created_by=who or admin(),
    )
    stored = run_async(_insert(settings, client))
    if as_json:
        print_new_key(json.dumps({**_document(stored), "key": key.text}, indent=2))
    else:
        print_note(f"{name} may ask, under {budget}. Its key, which is shown this once:")
        print_new_key(key.text)
    if not _is_known(settings, budget):
        print_note(
            f"The configuration has neither {budget} nor a budget above it: requests are refused until there is "
            f'[budgets."{budget}"]'
        )


@app.command(name="list")
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """All clients that were made by `clients create`. Those of the configuration are in its file."""
    settings = command_settings(config)
    clients = run_async(_all(settings))
    if as_json:
        print_json({"ledger": settings.ledger.name, "clients": [_document(client) for client in clients]})
        return
    headers = ["client", "key", "budget", "routes", "at once", "state", "last used (UTC)"]
    print_table(headers, [_row(client) for client in clients], right=["at once"])


@app.command()
def show(client: Client, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """What one client may ask for, who made it, and when its key was used last."""
    found = run_async(_find(command_settings(config), _named(client)))
    if as_json:
        print_json(_document(found))
        return
    for name, value in _document(found).items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print_line(f"{name.replace('_', ' '):<18}{'-' if shown is None else shown}")


@app.command()
def revoke(client: Client, who: Who = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """End a key: within seconds no gateway takes it any more. Calls that have begun go on."""
    revoked = run_async(_revoke(command_settings(config), _named(client), who or admin()))
    if as_json:
        print_json(_document(revoked))
    else:
        print_line(f"the key {revoked.key_id} of {revoked.name} is revoked")


# ---------------------------------------------------------------- what was typed


def _name(settings: "Settings", name: str) -> str:
    from paymaster.settings.kinds import check_name

    if name in settings.gateway.clients:
        raise CommandError(f"the configuration has a client {name!r}; take another name")
    try:
        return check_name(name)
    except ValueError as error:
        raise CommandError(f"{name!r}: {error}") from None


def _budget(path: str) -> str:
    from paymaster.values.budget_path import check_budget_path

    try:
        return check_budget_path(path)
    except ValueError as error:
        raise CommandError(f"--budget: {error}") from None


def _is_known(settings: "Settings", budget: str) -> bool:
    """Whether the file has it or one above it. The ledger decides: an admin's cap is enough for it."""
    from paymaster.values.budget_path import budget_ancestors, template_of

    return any(path in settings.budgets or template_of(path) in settings.budgets for path in budget_ancestors(budget))


def _routes(settings: "Settings", names: str) -> tuple[str, ...]:
    from paymaster.settings.problems import did_you_mean

    routes = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in routes:
        service, slash, model = name.partition("/")
        if name not in settings.routes and not (slash and model and service in settings.services):
            known = did_you_mean(name, settings.routes) or f"the configuration has {', '.join(settings.routes)}"
            raise CommandError(
                f"--routes: there is no route {name!r}; {known}; or name a service's model: service/model"
            )
    return routes


def _end(expires: str) -> datetime:
    from paymaster.settings import parse_duration

    try:
        return datetime.now(UTC) + parse_duration(expires)
    except ValueError as error:
        raise CommandError(f"--expires: {error}") from None


def _named(client: str) -> str:
    """A name or a key's id. Raises CommandError for a whole key, which every user of the machine can see now."""
    from paymaster.values.client_key import is_key_id

    if client.startswith("pmk_") and not is_key_id(client):
        raise CommandError(
            "this is more than the id of a key, which is pmk_ and the 12 signs behind it: whoever lists this machine's "
            "processes, or your shell's history, sees the key; name the id alone, and revoke it"
        )
    return client


# ---------------------------------------------------------------- the database


async def _insert(settings: "Settings", client: "NewClient") -> "StoredClient":
    from paymaster.storage.clients import ClientExists, insert_client

    async with open_database(settings) as engine:
        try:
            return await insert_client(engine, settings.ledger.name, client)
        except ClientExists:
            raise CommandError(
                f"there is a client {client.name!r} with a key that is not revoked; take another name, or revoke it "
                f"first: `paymaster clients revoke {client.name}`",
                EXIT_NO,
            ) from None


async def _all(settings: "Settings") -> "list[StoredClient]":
    from paymaster.storage.clients import all_clients

    async with open_database(settings) as engine:
        return await all_clients(engine, settings.ledger.name)


async def _find(settings: "Settings", client: str) -> "StoredClient":
    from paymaster.storage.clients import client_called

    async with open_database(settings) as engine:
        found = await client_called(engine, settings.ledger.name, client)
    if found is None:
        raise CommandError(f"there is no client {client!r}; see `paymaster clients list`", EXIT_NO)
    return found


async def _revoke(settings: "Settings", client: str, who: str) -> "StoredClient":
    from paymaster.storage.clients import revoke_client

    async with open_database(settings) as engine:
        revoked = await revoke_client(engine, settings.ledger.name, client, who)
    if revoked is None:
        found = await _find(settings, client)
        raise CommandError(
            f"{found.name} was revoked before, at {iso(found.revoked_at)} by {found.revoked_by}", EXIT_NO
        )
    return revoked


# ---------------------------------------------------------------- what is printed


def _state(client: "StoredClient") -> str:
    if client.revoked_at is not None:
        return "revoked"
    return "expired" if client.expires_at is not None and client.expires_at <= datetime.now(UTC) else "active"


def _row(client: "StoredClient") -> list[str]:
    return [
        client.name,
        client.key_id,
        client.budget,
        "every" if client.routes is None else ", ".join(client.routes),
        "" if client.requests_at_once is None else str(client.requests_at_once),
        _state(client),
        "never" if client.last_used_at is None else f"{client.last_used_at:%Y-%m-%d %H:%M}",
    ]


def _document(client: "StoredClient") -> "dict[str, JsonValue]":
    return {
        "name": client.name,
        "key_id": client.key_id,
        "state": _state(client),
        "budget": client.budget,
        "routes": None if client.routes is None else list(client.routes),
        "requests_at_once": client.requests_at_once,
        "created_at": iso(client.created_at),
        "created_by": client.created_by,
        "expires_at": iso(client.expires_at),
        "revoked_at": iso(client.revoked_at),
        "revoked_by": client.revoked_by,
        "last_used_at": iso(client.last_used_at),
    }
