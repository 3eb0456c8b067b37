"""How Alembic runs the migrations: on the connection that `paymaster.database.migrate` gives it, in its transaction."""

from typing import cast

from alembic import context
from sqlalchemy import Connection

from paymaster.database import SCHEMA_TABLE

context.configure(
    connection=cast(Connection, context.config.attributes["connection"]),
    version_table=SCHEMA_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
