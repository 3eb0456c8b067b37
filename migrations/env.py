"""How Alembic runs the migrations: on the connection of `paymaster.storage.schema.migrate`, in its transaction."""

from typing import cast

from alembic import context
from sqlalchemy import Connection

from paymaster.storage.schema import SCHEMA_TABLE

context.configure(
    connection=cast(Connection, context.config.attributes["connection"]),
    version_table=SCHEMA_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
