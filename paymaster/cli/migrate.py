"""`paymaster migrate`: the database's schema."""

from paymaster.cli.connection import ConfigOption, command_settings, database_errors, database_url, run_async
from paymaster.cli.output import CommandError, print_line


def migrate(config: ConfigOption = None) -> None:
    """Bring the database to the schema of this version. Harmless when it is there already."""
    run_async(_migrate(database_url(command_settings(config))))


async def _migrate(url: str) -> None:
    from paymaster.database import SCHEMA_REVISION, MigrationsMissing, SchemaOutdated, migrate

    async with database_errors(url):
        try:
            await migrate(url)
        except (MigrationsMissing, SchemaOutdated) as error:
            raise CommandError(str(error)) from None
    print_line(f"the database has schema {SCHEMA_REVISION}")
