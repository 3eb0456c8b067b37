"""`paymaster migrate`: the database's schema, and Temporal's search attributes."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    command_settings,
    connect_temporal,
    database_errors,
    database_url,
    run_async,
    tell_if_slow,
)
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_line, print_note

if TYPE_CHECKING:
    from paymaster.settings import Settings


def migrate(
    way_back: Annotated[
        bool, typer.Option("--way-back", help="Let workers of 0.1.0 start again on this database; nothing is removed.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Bring the database to this version's schema, and register Temporal's search attributes; from Paymaster's checkout
    or image.

    Harmless when both are there already. Without the attributes calls run all the same, so their absence is said and
    does not fail it.
    """
    settings = command_settings(config)
    run_async(_name_older_schema(settings) if way_back else _migrate(settings))


async def _name_older_schema(settings: "Settings") -> None:
    from paymaster.storage.schema import OLDER_SCHEMA_REVISION, SchemaOutdated, name_older_schema

    url = database_url(settings)
    async with database_errors(url):
        try:
            await name_older_schema(url)
        except SchemaOutdated as error:
            raise CommandError(str(error)) from None
    print_line(
        f"the database is called schema {OLDER_SCHEMA_REVISION} again; workers of this version start after `migrate`"
    )


async def _migrate(settings: "Settings") -> None:
    from paymaster.observability.search_attributes import SearchAttributesMissing, register
    from paymaster.storage.schema import SCHEMA_REVISION, MigrationsMissing, SchemaOutdated, migrate

    url = database_url(settings)
    async with database_errors(url), tell_if_slow("migrating the database; large tables take minutes"):
        try:
            await migrate(url)
        except (MigrationsMissing, SchemaOutdated) as error:
            raise CommandError(str(error)) from None
    print_line(f"the database has schema {SCHEMA_REVISION}")
    try:
        client = await connect_temporal(settings)
        await register(client)
    except (CommandError, SearchAttributesMissing) as error:
        print_note(f"search attributes are not registered: {error}")
    else:
        print_line(f"Temporal's namespace {client.namespace} has the search attributes")
