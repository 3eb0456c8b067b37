"""reserve and void: ask the ledger, on behalf of a call workflow that cannot send updates itself."""

from datetime import UTC, datetime

from temporalio import activity
from temporalio.exceptions import ApplicationError

from paymaster.ledger.backlog_sender import Backlog
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.messages import (
    Answer,
    Candidate,
    Command,
    Denied,
    Ended,
    Granted,
    Parked,
    Reservation,
    Reserve,
    ReserveAnswer,
    ReserveRequest,
    Void,
)
from paymaster.messages.bounds import check_grant
from paymaster.providers.price_list import price_of
from paymaster.settings import ModelSettings, Settings, split_candidate
from paymaster.values.collection import EndedRequests

DEFAULT_MAX_OUTPUT_TOKENS = 4_096
"""When neither the request nor the model's configuration says: without a cap on the output no bound can be given."""
_PLAIN = (
    "the request came in plain text, where everybody who reads Temporal's histories reads its prompt, and this worker "
    "has [encryption]; give the agent's client PaymasterPlugin() with the same keys, or the codec; or set "
    "allow_plaintext = true under [encryption] for the workers"
)
_NO_BOUND = (
    "the request has {thing}s, whose tokens nobody knows beforehand; add {thing}_tokens_max = … (the most "
    'of one {thing}) under [services.{service}.models."{model}"]'
)


class ReserveActivities:
    """Local activities of the call workflow."""

    def __init__(
        self, settings: Settings, commits: GroupCommit[Command, Answer], backlog: Backlog, *, findable: bool = False
    ) -> None:
        """`findable`: whether calls may set Paymaster's search attributes."""
        self._settings = settings
        self._commits = commits
        self._backlog = backlog
        self._findable = findable
        self._ended = EndedRequests()

    @activity.defn
    async def reserve(self, request: ReserveRequest) -> Reservation:
        """A hold for the first candidate that may be called now; or parked, denied, ended.

        Raises a non-retryable `LedgerUnreachable` when the ledger did not answer for 30 s.
        """
        self._ended.add(request.input_bytes)
        return Reservation(answer=await self._reserve(request), findable=self._findable)

    async def _reserve(self, request: ReserveRequest) -> ReserveAnswer:
        if request.plain and not self._settings.encryption.allow_plaintext:
            return Denied(hold_id=request.hold_id, reason="plaintext", detail=_PLAIN)
        ledger = self._settings.ledger
        if request.route not in self._settings.routes:
            known = ", ".join(sorted(self._settings.routes)) or "none"
            detail = f"there is no route {request.route!r} in this worker's configuration; there are: {known}"
            return Denied(hold_id=request.hold_id, reason="unknown_route", detail=detail)
        wait_at_most_ms = request.wait_at_most_ms or int(ledger.wait_at_most.total_seconds() * 1000)
        command = Reserve(
            hold_id=request.hold_id,
            call=request.call,
            budget=request.budget,
            candidates=self._candidates(request),
            input_bytes=request.input_bytes,
            on_exhausted=request.on_exhausted or ledger.on_exhausted,
            deadline_at_ms=request.started_at_ms + wait_at_most_ms,
            asked_at_ms=request.asked_at_ms,
            priority=request.priority,
        )
        try:
            answer = await self._commits.submit(command)
        except CommitUnavailable as error:
            raise ApplicationError(f"the ledger: {error}", type="LedgerUnreachable", non_retryable=True) from error
        except PoisonedBatch as error:
            raise ApplicationError(
                f"the ledger refused it: {error}", type="LedgerRefused", non_retryable=True
            ) from error
        assert isinstance(answer, Granted | Parked | Denied | Ended)  # what the desk answers to a Reserve
        if isinstance(answer, Granted):
            try:
                check_grant(answer.grant)
            except ValueError as error:
                detail = f"the ledger's grant: {error}; is its configuration right?"
                raise ApplicationError(detail, type="LedgerRefused", non_retryable=True) from error
        return answer

    @activity.defn
    async def void(self, hold_id: str) -> None:
        """Frees a hold under which nothing was sent, unparks a call, or forbids a reserve that comes too late."""
        try:
            await self._commits.submit(Void(hold_id=hold_id))
        except (CommitUnavailable, PoisonedBatch) as error:
            activity.logger.warning("hold %s could not be voided, the backlog tries again: %s", hold_id, error)
            await self._backlog.add_void(hold_id)

    def _candidates(self, request: ReserveRequest) -> tuple[Candidate, ...]:
        candidates: list[Candidate] = []
        too_small = max((self._model(name).context_tokens or 0 for name in request.too_long_for), default=0)
        for name in self._settings.routes[request.route]:
            settings = self._model(name)
            if name in request.excluded or (settings.context_tokens or too_small + 1) <= too_small:
                continue
            service, model = split_candidate(name)
            media = {
                "image": (request.images, settings.image_tokens_max),
                "document": (request.documents, settings.document_tokens_max),
            }
            unbound = next((thing for thing, (count, most) in media.items() if count and most is None), None)
            output_max = settings.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
            candidates.append(
                Candidate(
                    service=service,
                    model=model,
                    max_output_tokens=min(request.max_output_tokens or output_max, output_max),
                    price=price_of(self._settings, service, model, datetime.now(UTC)),
                    context_tokens=settings.context_tokens,
                    media_tokens=sum(count * (most or 0) for count, most in media.values()),
                    refused=None if unbound is None else _NO_BOUND.format(thing=unbound, service=service, model=model),
                )
            )
        return tuple(candidates)

    def _model(self, name: str) -> ModelSettings:
        """What the configuration says about a candidate; all defaults when nothing."""
        service, model = split_candidate(name)
        return self._settings.services[service].models.get(model, ModelSettings())
