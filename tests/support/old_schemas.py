"""Databases with the schema of an older version, for tests of what migrates them."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine


async def upgrade_to(engine: AsyncEngine, revision: str) -> None:
    """Brings the schema from nothing to that of a revision."""

    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
