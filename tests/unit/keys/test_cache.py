"""The cache of keys: asks its source rarely, and at once when that matters; never in vain and never twice at a time."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from paymaster.keys.api_key import ApiKey, KeySourceDown, KeyUnavailable, KeyWithdrawn
from paymaster.keys.cache import ASK_AGAIN_AFTER_S, KeyCache

NAME = "provider-key"


class Source:
    """Answers with the key that it has when it is asked, or with a problem; on demand only when it is told to."""

    def __init__(self) -> None:
        self.value = "key-1"
        self.problem: Exception | None = None
        self.asked = 0
        self.at_once = 0
        self.at_once_max = 0
        self.closed = False
        self._held: asyncio.Event | None = None

    def hold(self) -> None:
        """From now on it looks at its key and then does not answer."""
        self._held = asyncio.Event()

    def release(self) -> None:
        """Those who wait get their answer, and those who come later do not wait."""
        assert self._held is not None
        self._held.set()
        self._held = None

    async def get(self, name: str) -> ApiKey:
        self.asked += 1
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        value, problem, held = self.value, self.problem, self._held
        try:
            await asyncio.sleep(0)  # as everything that goes over a network
            if held is not None:
                await held.wait()
            if problem is not None:
                raise problem
            return ApiKey(value)
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Kept:
    """A cache of 100 seconds, and 1,000 in an outage, over a source and a clock of its own."""

    def __init__(self) -> None:
        self.source, self.clock = Source(), Clock()
        self.cache = KeyCache(
            self.source,
            refresh_after=timedelta(seconds=100),
            keep_in_outage=timedelta(seconds=1_000),
            clock=self.clock,
        )

    async def get(self) -> str:
        return (await self.cache.get(NAME)).reveal()

    async def replaced(self, value: str) -> bool:
        return await self.cache.replaced(NAME, ApiKey(value))


@pytest.fixture
def kept() -> Kept:
    return Kept()


async def turns(happened: Callable[[], object]) -> None:
    """Lets the other tasks go on until it has happened."""
    for _ in range(100):
        if happened():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


# ---------------------------------------------------------------- getting


async def test_a_key_is_asked_for_once_while_it_is_fresh(kept: Kept) -> None:
    assert await kept.get() == "key-1"
    kept.source.value = "key-2"
    kept.clock.now_s += 79
    assert await kept.get() == "key-1"
    assert kept.source.asked == 1


async def test_many_who_come_at_once_make_one_question(kept: Kept) -> None:
    kept.source.hold()
    calls = [asyncio.create_task(kept.get()) for _ in range(50)]
    await turns(lambda: kept.source.asked)
    kept.source.release()
    assert set(await asyncio.gather(*calls)) == {"key-1"}
    assert kept.source.asked == 1


async def test_two_names_are_two_questions(kept: Kept) -> None:
    await asyncio.gather(kept.cache.get("a"), kept.cache.get("b"))
    assert kept.source.asked == kept.source.at_once_max == 2


async def test_a_key_is_refreshed_early_while_it_is_used(kept: Kept) -> None:
    """Nobody waits for it: not even for a source that does not answer."""
    await kept.get()
    kept.source.value = "key-2"
    kept.clock.now_s += 81
    kept.source.hold()
    assert await kept.get() == await kept.get() == "key-1"
    await turns(lambda: kept.source.asked == 2)
    kept.source.release()
    await turns(lambda: not kept.source.at_once)
    assert await kept.get() == "key-2"
    assert kept.source.asked == 2


async def test_a_key_that_is_too_old_is_waited_for(kept: Kept) -> None:
    """After a quiet night the first call uses what the source has by now."""
    await kept.get()
    kept.source.value = "key-2"
    kept.clock.now_s += 100
    assert await kept.get() == "key-2"


async def test_a_call_that_is_cancelled_does_not_end_the_question_of_the_others(kept: Kept) -> None:
    kept.source.hold()
    first, second = (asyncio.create_task(kept.get()) for _ in range(2))
    await turns(lambda: kept.source.asked)
    first.cancel()
    await turns(first.done)
    kept.source.release()
    assert await second == "key-1"
    assert kept.source.asked == 1


async def test_what_is_not_there_is_asked_for_again_by_the_next_call(kept: Kept) -> None:
    kept.source.problem = KeyWithdrawn("there is no such key")
    with pytest.raises(KeyWithdrawn, match="no such key"):
        await kept.get()
    kept.source.problem = None
    assert await kept.get() == "key-1"


async def test_a_source_that_fails_in_any_other_way_is_a_missing_key(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.source.problem = RuntimeError("a defect")
    with pytest.raises(KeyUnavailable, match="RuntimeError"):
        await kept.get()
    assert "the source failed" in caplog.text


async def test_close_ends_what_is_under_way(kept: Kept) -> None:
    kept.source.hold()
    call = asyncio.create_task(kept.get())
    await turns(lambda: kept.source.asked)
    await kept.cache.close()
    assert kept.source.closed
    assert kept.source.at_once == 0
    with pytest.raises(KeyUnavailable):
        await call


# ---------------------------------------------------------------- outages


async def test_in_an_outage_the_kept_key_is_used_for_its_time_and_no_longer(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    await kept.get()
    kept.source.problem = KeySourceDown("the vault is down")
    kept.clock.now_s += 100
    assert await kept.get() == "key-1"
    assert kept.cache.outage(NAME) == "the vault is down"
    kept.clock.now_s += 999
    assert await kept.get() == "key-1"
    assert caplog.text.count("the kept one stays in use") == 1, "once for each outage"
    kept.clock.now_s += 1
    with pytest.raises(KeySourceDown, match="the vault is down"):
        await kept.get()


async def test_a_source_that_is_down_is_not_asked_by_every_call(kept: Kept) -> None:
    await kept.get()
    kept.source.problem = KeySourceDown("the vault is down")
    kept.clock.now_s += 100
    for _ in range(10):
        await kept.get()
    assert kept.source.asked == 2
    kept.clock.now_s += ASK_AGAIN_AFTER_S
    await kept.get()
    await turns(lambda: kept.source.asked == 3 and not kept.source.at_once)


async def test_after_an_outage_the_new_key_is_used(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    await kept.get()
    kept.source.problem = KeySourceDown("the vault is down")
    kept.clock.now_s += 100
    await kept.get()
    kept.source.problem, kept.source.value = None, "key-2"
    kept.clock.now_s += ASK_AGAIN_AFTER_S
    assert await kept.get() == "key-1", "nobody waits for a source that was down a moment ago"
    await turns(lambda: kept.source.asked == 3 and not kept.source.at_once)
    assert await kept.get() == "key-2"
    assert kept.cache.outage(NAME) is None
    assert "the source answers again" in caplog.text


@pytest.mark.parametrize("problem", [KeyUnavailable("the new version has a space in it"), RuntimeError("a defect")])
async def test_a_mistake_in_the_source_keeps_the_key_too(kept: Kept, problem: Exception) -> None:
    """Somebody may have pasted half a key, or taken our access away: that must not stop what worked until now."""
    await kept.get()
    kept.source.problem = problem
    kept.clock.now_s += 100
    assert await kept.get() == "key-1"
    assert kept.cache.outage(NAME) is not None


async def test_a_key_that_was_withdrawn_is_not_used_any_more(kept: Kept) -> None:
    """Whoever deletes or disables a secret means it."""
    await kept.get()
    kept.source.problem = KeyWithdrawn("the secret is disabled")
    kept.clock.now_s += 100
    with pytest.raises(KeyWithdrawn):
        await kept.get()


async def test_a_source_that_hangs_holds_up_only_those_who_come_at_first(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs the key waits a moment and fails retryably; who comes later fails at once; the answer still counts."""
    kept.cache.wait_at_most_s = 0.05
    kept.source.hold()
    with pytest.raises(KeySourceDown, match="has not answered"):
        await kept.get()
    kept.cache.wait_at_most_s = 5
    kept.clock.now_s += 5
    with pytest.raises(KeySourceDown, match="has not answered"):
        async with asyncio.timeout(2):
            await kept.get()
    assert kept.source.asked == 1
    kept.source.release()
    await turns(lambda: not kept.source.at_once)
    assert await kept.get() == "key-1"


# ---------------------------------------------------------------- a service refuses the key


async def test_a_refused_key_is_asked_for_at_once(kept: Kept) -> None:
    await kept.get()
    assert not await kept.replaced("key-1"), "the newest key is bad"
    kept.source.value = "key-2"
    assert await kept.replaced("key-1")
    assert await kept.get() == "key-2"


async def test_an_older_key_than_the_kept_one_needs_no_question(kept: Kept) -> None:
    await kept.get()
    assert await kept.replaced("key-0")
    assert kept.source.asked == 1


async def test_many_refusals_at_once_make_one_question(kept: Kept) -> None:
    await kept.get()
    kept.source.value = "key-2"
    kept.source.hold()
    refusals = [asyncio.create_task(kept.replaced("key-1")) for _ in range(50)]
    await turns(lambda: kept.source.asked == 2)
    kept.source.release()
    assert all(await asyncio.gather(*refusals))
    assert kept.source.asked == 2


async def test_an_answer_from_before_the_change_is_not_believed(kept: Kept) -> None:
    """A refresh read the old key; then key and vault were changed; then a service refused the old one."""
    await kept.get()
    kept.clock.now_s += 81
    kept.source.hold()
    await kept.get()
    await turns(lambda: kept.source.asked == 2)  # has read key-1 and is on its way back
    kept.source.value = "key-2"
    refusals = [asyncio.create_task(kept.replaced("key-1")) for _ in range(5)]
    await asyncio.sleep(0)
    kept.source.release()
    assert all(await asyncio.gather(*refusals))
    assert await kept.get() == "key-2"
    assert (kept.source.asked, kept.source.at_once_max) == (3, 1)


async def test_a_refusal_during_an_outage_does_not_know(kept: Kept) -> None:
    """The key may be bad or changed; the next attempt asks again, whatever else waits after a failed question."""
    await kept.get()
    kept.source.problem = KeySourceDown("the vault is down")
    for _ in range(2):
        with pytest.raises(KeySourceDown):
            await kept.replaced("key-1")
    assert kept.source.asked == 3
    assert await kept.get() == "key-1"
    kept.source.problem, kept.source.value = None, "key-2"
    assert await kept.replaced("key-1")


async def test_a_refusal_of_a_withdrawn_key_is_final(kept: Kept) -> None:
    await kept.get()
    kept.source.problem = KeyWithdrawn("the secret is disabled")
    with pytest.raises(KeyWithdrawn):
        await kept.replaced("key-1")


async def test_a_refusal_does_not_wait_long_for_a_source_that_hangs(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.cache.wait_at_most_s = 0.05
    await kept.get()
    kept.source.hold()
    with pytest.raises(KeySourceDown):
        await kept.replaced("key-1")
    assert await kept.get() == "key-1"
    await kept.cache.close()
