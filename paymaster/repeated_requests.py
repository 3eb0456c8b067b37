"""Which call an HTTP request belongs to: one of its own, or that of an earlier request which its SDK repeats.

Two equal requests on purpose are two calls. A request that its SDK sends once more after a failure is one call, and so
is that of an activity which is tried again: the number of a request among its equals decides, and an SDK says how often
it has sent it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import NamedTuple, Protocol
from uuid import uuid4

from temporalio import activity

REQUESTS_MAX = 10_000
"""Different requests that are remembered."""
EQUALS_MAX = 100
"""Equal requests that failed and are remembered."""
ATTEMPTS_MAX = 1_000
"""Attempts of activities in this process whose requests are remembered."""


@dataclass
class _Sent:
    call_id: str
    repeats: int
    """How often its SDK had sent it before, by its own word."""
    failed: bool
    """Whether it has ended, and without an answer: only then is it sent once more."""


@dataclass
class _Equals:
    count: int = 0
    sent: list[_Sent] = field(default_factory=list[_Sent])


def _repeated(sent: list[_Sent], repeats: int) -> _Sent | None:
    """The newest that failed, was sent as often before, and so is sent once more now."""
    failed = [each for each in reversed(sent) if each.failed and each.repeats < repeats]
    return max(failed, key=lambda each: each.repeats, default=None)


class RepeatedRequests:
    """The requests of one caller, by their digests. Any thread may ask."""

    def __init__(self) -> None:
        self._equals: OrderedDict[str, _Equals] = OrderedDict()
        self._changing = Lock()

    def begin(self, digest: str, repeats: int, new_id: Callable[[int], str]) -> str:
        """The id of this request's call. `new_id` makes one of how many equal requests were before it."""
        with self._changing:
            equals = self._equals.setdefault(digest, _Equals())
            self._equals.move_to_end(digest)
            if len(self._equals) > REQUESTS_MAX:
                self._equals.popitem(last=False)
            again = _repeated(equals.sent, repeats)
            if again is None:
                again = _Sent(new_id(equals.count), repeats, failed=False)
                equals.count += 1
                equals.sent.append(again)
            again.repeats, again.failed = repeats, False
            return again.call_id

    def end(self, digest: str, call_id: str, *, failed: bool) -> None:
        """Its SDK has the answer, or its failure, and may send it once more."""
        with self._changing:
            equals = self._equals.get(digest, _Equals())
            ended = next((sent for sent in equals.sent if sent.call_id == call_id), None)
            if ended is None:
                return
            ended.failed = failed
            may_be_repeated = [sent for sent in equals.sent if sent.failed]
            if not failed:
                equals.sent.remove(ended)
            elif len(may_be_repeated) > EQUALS_MAX:
                equals.sent.remove(may_be_repeated[0])

    @property
    def remembered(self) -> int:
        """How many requests, equal ones counted each."""
        with self._changing:
            return sum(len(equals.sent) for equals in self._equals.values())


class SentCall(NamedTuple):
    """The call of a request that is sent now."""

    id: str
    digest: str
    among: RepeatedRequests | None
    """The requests of its caller. None: it has an id that the caller chose."""
    id_is_drawn: bool = False
    """At random. An activity's is not: the same request has it in each attempt."""

    def end(self, *, failed: bool) -> None:
        if self.among is not None:
            self.among.end(self.digest, self.id, failed=failed)


class _Attempts:
    """The requests of the attempts of activities that run in this process."""

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[str, ...], RepeatedRequests] = OrderedDict()
        self._changing = Lock()

    def requests(self, attempt: tuple[str, ...]) -> RepeatedRequests:
        with self._changing:
            requests = self._requests.setdefault(attempt, RepeatedRequests())
            self._requests.move_to_end(attempt)
            if len(self._requests) > ATTEMPTS_MAX:
                self._requests.popitem(last=False)
            return requests


_attempts = _Attempts()


def _scheduled(info: activity.Info) -> str:
    """When Temporal was first asked for the activity, which is the same in all its attempts, and tells two apart to
    which a workflow gave one id. Empty: a local activity may be asked for anew when its worker is lost; one without a
    workflow has a run of its own."""
    return "" if info.is_local or info.workflow_run_id is None else info.scheduled_time.isoformat()


class Asked(Protocol):
    """A request of a call, or of a purchase."""

    @property
    def call_id(self) -> str | None:
        """The id that its caller chose. None: none."""
        ...

    def digest(self) -> str:
        """Equal for equal requests."""
        ...


def call_of(request: Asked, repeats: int, elsewhere: RepeatedRequests) -> SentCall:
    """The call of a request that is sent outside workflows. `elsewhere`: the requests of a caller that is no activity.

    In an activity its id depends on the activity and on the request, so that a retried activity finds it again.
    """
    if request.call_id is not None:
        return SentCall(request.call_id, "", None)
    digest = request.digest()
    if activity.in_activity():
        info = activity.info()
        run_id = info.workflow_run_id or info.activity_run_id or ""
        scope = (info.namespace, info.workflow_id or "", run_id, info.activity_id, _scheduled(info))
        # Attempts of an activity that was reset are counted anew; the token is each attempt's own.
        requests = _attempts.requests((*scope, str(info.attempt), info.task_token.hex()))

        def new_id(before: int) -> str:
            return "activity-" + sha256("\0".join((*scope, digest, str(before))).encode()).hexdigest()
    else:
        requests = elsewhere

        def new_id(before: int) -> str:
            return str(uuid4())

    return SentCall(requests.begin(digest, repeats, new_id), digest, requests, id_is_drawn=not activity.in_activity())
