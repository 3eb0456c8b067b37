"""Rate limits: a leaky bucket (GCRA) per account for requests and one for tokens, in integers.

A limit of N per minute drains at 0.9 N per minute and holds a burst of 0.1 N (at least one), so that no 60 seconds see
more than N. A request larger than the whole burst is admitted when the bucket is empty and puts it into debt, which the
next ones wait for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from paymaster.messages import LimitName, LimitStatus

_UNIT = 600_000
"""One request or token in the bucket: so that a drain of 0.9 N per 60,000 ms is the whole number 9 N per ms."""


@dataclass(slots=True)
class Bucket:
    """What was used and has not drained yet."""

    per_minute: int
    level: int = 0
    drained_at_ms: int = 0

    def wait_ms(self, amount: int, now_ms: int) -> int:
        """How long until this amount may be taken; 0 when it may be taken now."""
        self._drain(now_ms)
        over = min(self.level, self.level + amount * _UNIT - self._capacity)
        return 0 if over <= 0 else -(-over // (9 * self.per_minute))

    def room(self, now_ms: int) -> int | None:
        """The largest amount that may be taken now, perhaps below 0; None: any."""
        self._drain(now_ms)
        return None if self.level == 0 else (self._capacity - self.level) // _UNIT

    @property
    def _capacity(self) -> int:
        return max(self.per_minute * _UNIT // 10, _UNIT)

    def fullness(self, now_ms: int) -> Fraction:
        """The part of the burst that is used; above 1 in debt."""
        self._drain(now_ms)
        return Fraction(self.level, self._capacity)

    def used(self, now_ms: int) -> int:
        """How many requests or tokens have not drained yet, rounded up. Changes nothing."""
        elapsed_ms = max(0, now_ms - self.drained_at_ms)
        return -(-max(0, self.level - elapsed_ms * 9 * self.per_minute) // _UNIT)

    def take(self, amount: int, now_ms: int) -> None:
        """Uses the amount, whether there is room or not. Negative amounts give back what was not used after all."""
        self._drain(now_ms)
        self.level = max(0, self.level + amount * _UNIT)

    def _drain(self, now_ms: int) -> None:
        elapsed_ms = max(0, now_ms - self.drained_at_ms)
        self.level = max(0, self.level - elapsed_ms * 9 * self.per_minute)
        self.drained_at_ms = max(self.drained_at_ms, now_ms)


@dataclass(slots=True)
class Limiter:
    """The limits of one account. None: that one is not limited."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    concurrent_max: int | None = None
    running: int = 0
    """Holds of this account that have not ended; an expired hold keeps its place until it is settled. Counted only
    while there is any limit."""

    def configure(self, limits: Mapping[LimitName, int | None]) -> None:
        """Sets the limits. What a bucket holds stays in it, but drains no later than it would have."""
        self.requests = _configured(self.requests, limits["requests_per_minute"])
        self.tokens = _configured(self.tokens, limits["tokens_per_minute"])
        self.concurrent_max = limits["max_concurrent"]

    def in_use(self, now_ms: int) -> tuple[LimitStatus, ...]:
        """Each limit that there is, and how much of it is used. Changes nothing."""
        limits: tuple[tuple[LimitName, int | None, int], ...] = (
            ("requests_per_minute", *_in_use(self.requests, now_ms)),
            ("tokens_per_minute", *_in_use(self.tokens, now_ms)),
            ("max_concurrent", self.concurrent_max, self.running),
        )
        return tuple(LimitStatus(what=what, limit=most, used=used) for what, most, used in limits if most is not None)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        return tuple(bucket for bucket in (self.requests, self.tokens) if bucket is not None)

    @property
    def limits(self) -> bool:
        """Whether there is any limit."""
        return self.requests is not None or self.tokens is not None or self.concurrent_max is not None

    @property
    def is_full(self) -> bool:
        return self.concurrent_max is not None and self.running >= self.concurrent_max

    def is_idle(self, now_ms: int) -> bool:
        """Whether a limiter that is made anew would decide in the same way."""
        return not self.limits or (self.running == 0 and not any(bucket.used(now_ms) for bucket in self.buckets))

    def fullness(self, now_ms: int) -> Fraction | None:
        """The part that is used of the limit of which the largest part is. None: there is no limit."""
        parts = [bucket.fullness(now_ms) for bucket in self.buckets]
        if self.concurrent_max is not None:
            parts.append(Fraction(self.running, self.concurrent_max))
        return max(parts, default=None)

    def wait_ms(self, tokens: int, now_ms: int) -> int:
        """How long until one request with so many tokens may be sent, as far as the rates go."""
        wait_ms = 0 if self.requests is None else self.requests.wait_ms(1, now_ms)
        return wait_ms if self.tokens is None else max(wait_ms, self.tokens.wait_ms(tokens, now_ms))

    def room(self, now_ms: int) -> int | None:
        """The most tokens with which one request may be sent now; below 0: none may. None: any number."""
        if self.is_full or (self.requests is not None and self.requests.wait_ms(1, now_ms) > 0):
            return -1
        return None if self.tokens is None else self.tokens.room(now_ms)

    def start(self, tokens: int, now_ms: int) -> None:
        self.running += 1
        self.use(1, tokens, now_ms)

    def use(self, requests: int, tokens: int, now_ms: int) -> None:
        """What was used beyond the estimate (or, negative, was not)."""
        if self.requests is not None:
            self.requests.take(requests, now_ms)
        if self.tokens is not None:
            self.tokens.take(tokens, now_ms)


def _in_use(bucket: Bucket | None, now_ms: int) -> tuple[int | None, int]:
    return (None, 0) if bucket is None else (bucket.per_minute, bucket.used(now_ms))


def _configured(bucket: Bucket | None, per_minute: int | None) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute)
    bucket.level = min(bucket.level, bucket.level * per_minute // bucket.per_minute)
    bucket.per_minute = per_minute
    return bucket
