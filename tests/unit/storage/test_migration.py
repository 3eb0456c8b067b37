"""A migration comes to its end whatever the database's own settings say."""

from paymaster_process import Databases
from sqlalchemy import text
from sqlalchemy.engine import make_url

from paymaster.storage.engine import create_engine
from paymaster.storage.schema import check_schema, migrate


async def test_a_database_that_cuts_everybody_short_is_migrated(databases: Databases) -> None:
    """Many programs share it, so it ends whatever takes long, and whoever waits."""
    url = await databases.create_empty()
    name = make_url(url).database
    engine = create_engine(url)
    async with engine.begin() as connection:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(text(f"ALTER DATABASE {name} SET {setting} = '1ms'"))
    await migrate(url)
    await check_schema(engine)  # by the connection from before
    await engine.dispose()
