"""Waiting for the copy of the ledger's status, after a command that was carried out."""

from console_pages import NOWHERE

from paymaster.ledger.copied_status import CopiedStatus
from paymaster.storage.engine import create_engine


async def test_a_database_that_is_away_undoes_no_command() -> None:
    """The command was carried out: what fails afterwards must not be told in its place."""
    await CopiedStatus(create_engine(NOWHERE), "default").wait_for(7)
