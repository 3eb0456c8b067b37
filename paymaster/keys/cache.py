"""Keys kept in memory for a while, so that a call does not wait for their source and goes on when that is down.

Asked for a key, the cache answers with the kept one, and a little before that gets too old it asks the source in the
background. When a service refuses a key, `replaced` asks the source at once. For each key at most one question is under
way at any moment, and everybody who waits shares its answer; so no older answer can overtake a newer one.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from paymaster.keys.api_key import ApiKey, KeySource, KeySourceDown, KeyUnavailable, KeyWithdrawn

REFRESH_AT = 0.8
"""The part of a key's time after which it is asked for again, while it is still in use."""
ASK_AGAIN_AFTER_S = 10.0
"""A source that could not be asked is left alone for so long, while there is a kept key to use."""
WAIT_AT_MOST_S = 4.0
"""By a call, for the source: once before it sends and once after a refusal. Both must fit into the margin that the
workflow gives an attempt beyond the request's own timeout. The question goes on, and a later call has its answer."""
logger = logging.getLogger(__name__)


@dataclass
class _Kept:
    """What is known of one key."""

    key: ApiKey | None = None
    asked_at_s: float = 0.0
    """When the source was asked for it."""
    question: asyncio.Task[None] | None = None
    """The one that is under way."""
    question_at_s: float = 0.0
    problem: KeyUnavailable | None = None
    """What came of the last question, if not a key."""
    problem_at_s: float = 0.0

    def differs_from(self, other: ApiKey) -> bool:
        return self.key is not None and not self.key.has_value_of(other)


class KeyCache:
    """A source of keys that asks another one only now and then.

    A key older than `refresh_after` is used only when the source could not be asked, for at most `keep_in_outage` more.
    """

    def __init__(
        self,
        source: KeySource,
        *,
        refresh_after: timedelta,
        keep_in_outage: timedelta,
        clock: Callable[[], float] = time.monotonic,
        wait_at_most_s: float = WAIT_AT_MOST_S,
    ) -> None:
        self._source = source
        self._refresh_after_s = refresh_after.total_seconds()
        self._keep_at_most_s = (refresh_after + keep_in_outage).total_seconds()
        self._clock = clock
        self.wait_at_most_s = wait_at_most_s
        self._all: dict[str, _Kept] = {}

    async def get(self, name: str) -> ApiKey:
        """The key of this name. Raises KeyUnavailable."""
        kept = self._of(name)
        age_s = self._clock() - kept.asked_at_s
        if self._usable(kept) is None or (age_s >= self._refresh_after_s and kept.problem is None):
            await self._answered(name, kept)
        elif age_s >= self._refresh_after_s * REFRESH_AT and self._may_ask(kept):
            self._ask(name, kept)
        key = self._usable(kept)
        if key is None:
            raise _problem_of(name, kept)
        return key

    async def replaced(self, name: str, refused: ApiKey) -> bool:
        """Whether `get` now gives another key than this one, which a service has just refused.

        Asks the source unless the cache knows already. Raises KeyUnavailable when the source has no key any more or
        could not be asked.
        """
        kept = self._of(name)
        wait_until_s = self._clock() + self.wait_at_most_s
        if kept.question is not None and not kept.differs_from(refused):
            await self._wait(kept.question, wait_until_s)  # it may have asked before the key was changed
        if not kept.differs_from(refused):
            await self._wait(self._ask(name, kept), wait_until_s)
            if kept.problem is not None or kept.question is not None:
                raise _problem_of(name, kept)
        return kept.differs_from(refused)

    def outage(self, name: str) -> str | None:
        """Why a key is in use that could not be asked for again. None: there is no such trouble."""
        kept = self._of(name)
        return None if kept.key is None or kept.problem is None else str(kept.problem)

    async def close(self) -> None:
        """Ends what is under way, and the source's connections."""
        questions = [kept.question for kept in self._all.values() if kept.question is not None]
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
        await self._source.close()

    def _of(self, name: str) -> _Kept:
        return self._all.setdefault(name, _Kept())

    def _usable(self, kept: _Kept) -> ApiKey | None:
        return kept.key if self._clock() - kept.asked_at_s < self._keep_at_most_s else None

    def _may_ask(self, kept: _Kept) -> bool:
        return kept.problem is None or self._clock() - kept.problem_at_s >= ASK_AGAIN_AFTER_S

    def _ask(self, name: str, kept: _Kept) -> asyncio.Task[None]:
        """The question that is under way; else a new one."""
        if kept.question is None:
            kept.question_at_s = self._clock()
            kept.question = asyncio.create_task(self._question(name, kept), name=f"key {name}")
        return kept.question

    async def _answered(self, name: str, kept: _Kept) -> None:
        question = self._ask(name, kept)
        # One that hangs is waited for by those who came at first; those who come later do not wait again.
        await self._wait(question, kept.question_at_s + self.wait_at_most_s)

    async def _wait(self, question: asyncio.Task[None], until_s: float) -> None:
        """Without ending the question, neither when this takes too long nor when the call that waits is cancelled."""
        await asyncio.wait([question], timeout=max(0.0, until_s - self._clock()))

    async def _question(self, name: str, kept: _Kept) -> None:
        """Asks the source and keeps what comes of it. Raises nothing: nobody may be there to hear it."""
        try:
            key = await self._source.get(name)
        except KeyUnavailable as error:
            self._keep_problem(name, kept, error)
        except Exception as error:
            logger.exception("key %s: the source failed", name)
            self._keep_problem(name, kept, KeyUnavailable(f"the key {name!r} cannot be had: {type(error).__name__}"))
        else:
            if kept.problem is not None and kept.key is not None:
                logger.warning("key %s: the source answers again", name)
            kept.key, kept.asked_at_s, kept.problem = key, kept.question_at_s, None
        finally:
            kept.question = None

    def _keep_problem(self, name: str, kept: _Kept, problem: KeyUnavailable) -> None:
        if isinstance(problem, KeyWithdrawn):
            kept.key = None
        elif kept.key is not None and kept.problem is None:
            logger.error("key %s: the kept one stays in use, because its source cannot be asked: %s", name, problem)
        # Made anew, because the one that was raised holds the frames of the source.
        kept.problem, kept.problem_at_s = type(problem)(str(problem)), self._clock()


def _problem_of(name: str, kept: _Kept) -> KeyUnavailable:
    if kept.question is not None or kept.problem is None:
        return KeySourceDown(f"the key {name!r} cannot be had: its source has not answered yet")
    return type(kept.problem)(str(kept.problem))
