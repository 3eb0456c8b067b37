"""A worker joins its ledger: it brings its configuration, and the ledger learns of rows that it does not know."""

import asyncio
import logging
import time
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.admission.state import RULES
from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.ledger.handle import Ledger
from paymaster.ledger.neighbours import misplaced
from paymaster.ledger.pacing import jittered
from paymaster.messages import ConfigState, DeskConfig, StoredRows
from paymaster.settings import ConfigurationError
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.ledger_state_rows import latest_granted_ms

LEDGER_ANSWERS_WITHIN_S = 60.0
"""At start. Temporal gives the task of a dead worker to another one after 10 s, and one with which several died after
ever longer pauses, in which it takes no update."""
ASKS_AGAIN_AFTER_S = 1.0
logger = logging.getLogger(__name__)


async def join_ledger(ledger: Ledger, config: DeskConfig, engine: AsyncEngine, stop: asyncio.Event, *, who: str) -> int:
    """Brings the ledger this process's configuration, logs what it keeps of another, and compares what is stored.

    Returns the rules that it goes by. `stop` ends the wait for it. Raises LedgerNotFound when it does not answer at
    all, AdminRefused when it refuses, and ConfigurationError when it runs where this version's workers do not look.
    """
    applied = await _configured(ledger, config, stop, who)
    if applied.digest != config.digest:
        logger.warning("the ledger keeps the configuration that it has: %s", applied.detail)
    if applied.kept:
        logger.warning(
            "a worker's start removes nothing, so the ledger keeps what this file lacks: %s; "
            "`paymaster config diff` shows it, `paymaster config apply` removes it",
            applied.kept,
        )
    if applied.rules < RULES:
        logger.warning(
            "the ledger goes by the rules of an older version (%d, the newest are %d); when no older "
            "worker runs any more: `paymaster upgrade`",
            applied.rules,
            RULES,
        )
    await _compare_rows(ledger, engine)
    return applied.rules


async def _configured(ledger: Ledger, config: DeskConfig, stop: asyncio.Event, who: str) -> ConfigState:
    """Gives the ledger its configuration. It may need a while: a worker that died with its task in hand, say."""
    give_up_at, command_id = time.monotonic() + LEDGER_ANSWERS_WITHIN_S, uuid4().hex
    while True:
        try:
            if (problem := misplaced(ledger.name, await ledger.task_queue())) is not None:
                raise ConfigurationError([problem])
            return await ledger.start(config, command_id, who=who)
        except LedgerNotFound as error:
            if stop.is_set() or time.monotonic() > give_up_at:
                raise
            logger.warning("asking again: %s", error)
            await asyncio.sleep(jittered(ASKS_AGAIN_AFTER_S))


async def _compare_rows(ledger: Ledger, engine: AsyncEngine) -> None:
    """Tells the ledger of the newest stored entry: if Temporal was put back to an earlier time, it reads what was spent
    since. Without an answer the worker starts all the same."""
    try:
        newest = StoredRows(latest_granted_ms=await latest_granted_ms(engine, ledger.name))
        again = await ledger.compare_rows(newest)
    except (LedgerNotFound, AdminRefused, *DATABASE_ERRORS) as error:
        logger.warning("whether the database has entries that the ledger does not know was not looked at: %s", error)
        return
    if again.accounts:
        logger.warning("the database has newer entries than the ledger: it reads again what was spent")
