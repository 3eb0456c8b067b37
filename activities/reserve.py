"""reserve and void: ask the ledger, on behalf of a call workflow that cannot send updates itself."""

import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.run_roots import RunRoots
from activities.used_call_ids import UsedCallIds
from paymaster.calls.candidates import Listed, listed, shares
from paymaster.calls.purchases import candidate_of
from paymaster.ledger.backlog_sender import Backlog
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.messages import (
    Answer,
    Candidate,
    Command,
    CountFirst,
    Denied,
    Ended,
    Granted,
    Parked,
    Reservation,
    Reserve,
    ReserveAnswer,
    ReserveRequest,
    RunTerms,
    Void,
    call_id_of,
)
from paymaster.messages.bounds import check_grant
from paymaster.messages.temporal_names import (
    BAD_CALL_ID,
    CALL_ID_REUSED,
    PURCHASE_WORKFLOW_PREFIX,
    first_generation,
    has_purchases_rows,
)
from paymaster.providers.counting import ways_of_counting
from paymaster.providers.price_list import Asked, price_of, unpriced
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import ModelSettings, Settings, split_candidate
from paymaster.values.collection import EndedRequests
from paymaster.values.limits import COUNT_MAX
from paymaster.values.run_path import check_run_path, run_id_of_root

DIGEST_CHARACTERS = 8
"""32 bits: of the questions of one run two different ones are taken for equal once in a few hundred million."""
DEFAULT_MAX_OUTPUT_TOKENS = 4_096
"""When neither the request nor the model's configuration says: without a cap on the output no bound can be given."""
COUNTED_BYTES_MIN = 4_096
"""Of text; what a shorter one costs is not worth a question to a provider."""
_REUSED = (
    "call id {call_id!r} was used before, by a call that was paid for and whose answer is not kept any more; "
    "nothing was sent, since it would be paid twice: ask under another call id"
)
_BOUGHT_BEFORE = (
    "{call_id!r} was paid for before, and Temporal has forgotten how it ended; nothing is held for it, since it would "
    "be paid twice: `paymaster calls show {call_id}` has its rows; a new activity may buy again"
)
_PURCHASES_ID = (
    "call id {call_id!r} begins as those of purchases do, and its rows would be taken for theirs; "
    "nothing was sent: ask under a call id that does not begin with {prefix!r}"
)
_NO_PURCHASES_ID = (
    "the rows of purchase {call_id!r} would be taken for those of a call; nothing is held for it: the id of its "
    "workflow has to begin with {prefix!r}"
)
_NAMED_MAX = 3
"""Keys that are named at once where a call is refused for more: what a candidate says of itself has 500 characters."""
_NAMED_CHARACTERS_MAX = 40
_SEARCHES = "model.search"
"""What a model needs that searches the web by itself, such as OpenAI's gpt-4o-search-preview and Perplexity's
sonar-deep-research: the fees, and what was found, are in no bound."""
_PLAIN = (
    "the request came in plain text, where everybody who reads Temporal's histories reads it, and this worker "
    "has [encryption]; give the agent's client PaymasterPlugin() with the same keys, or the codec; or set "
    "allow_plaintext = true under [encryption] for the workers"
)
_OTHER_FORMAT = 'the call is written in the format "{dialect}", which api = "{api}" does not speak{why}'
_NO_BOUND = (
    "the request has {thing}s, whose tokens nobody knows beforehand; add {thing}_tokens_max = … (the most "
    'of one {thing}) under [services.{service}.models."{model}"]'
)


class ReserveActivities:
    """Local activities of the call workflow."""

    def __init__(
        self,
        settings: Settings,
        commits: GroupCommit[Command, Answer],
        backlog: Backlog,
        roots: RunRoots,
        used: UsedCallIds,
        *,
        findable: bool = False,
    ) -> None:
        """`findable`: whether calls may set Paymaster's search attributes."""
        self._settings = settings
        self._commits = commits
        self._backlog = backlog
        self._roots = roots
        self._used = used
        self._findable = findable
        self._ended = EndedRequests()

    @activity.defn
    async def reserve(self, request: ReserveRequest) -> Reservation:
        """A hold for the first candidate that may be called now; or parked, denied, ended.

        Raises a non-retryable `LedgerUnreachable` when the ledger did not answer for 30 s.
        """
        self._ended.add(request.input_bytes)
        if denied := await self._denied_id(request):
            return Reservation(answer=denied, findable=self._findable)
        run = await self._run_of(request)
        try:
            path = run and check_run_path("/".join((run, *(part.name for part in request.run_parts))))
        except ValueError as error:
            denied = Denied(hold_id=request.hold_id, reason="bad_run", detail=str(error))
            return Reservation(answer=denied, findable=self._findable)
        answer = await self._reserve(request, path)
        return Reservation(answer=answer, findable=self._findable, run=path if self._findable else None)

    async def _denied_id(self, request: ReserveRequest) -> Denied | None:
        """Why nothing may be paid for under the id that it has. None: it may."""
        is_purchase = request.up_to_nanos is not None
        if has_purchases_rows(request.call.workflow_id) != is_purchase:
            reason, text = BAD_CALL_ID, _NO_PURCHASES_ID if is_purchase else _PURCHASES_ID
        elif request.may_be_reused and await self._used.was_used(request.call):
            reason, text = CALL_ID_REUSED, _BOUGHT_BEFORE if is_purchase else _REUSED
        else:
            return None
        call_id = first_generation(call_id_of(request.call.workflow_id))
        detail = text.format(call_id=call_id, prefix=PURCHASE_WORKFLOW_PREFIX)
        return Denied(hold_id=request.hold_id, reason=reason, detail=detail)

    async def _run_of(self, request: ReserveRequest) -> str | None:
        """The id of the call's run. Raises RPCError where Temporal does not tell now."""
        if request.run is not None:
            return request.run
        if request.root is not None:
            return await self._roots.run_of(request.root)
        if request.run_limits is None and not request.run_parts:
            return None
        return run_id_of_root(request.call.workflow_id, request.call.run_id)  # nobody asks for it but a program

    async def _reserve(self, request: ReserveRequest, run: str | None) -> ReserveAnswer:
        if request.plain and not self._settings.encryption.allow_plaintext:
            return Denied(hold_id=request.hold_id, reason="plaintext", detail=_PLAIN)
        ledger = self._settings.ledger
        candidates = self._candidates(request)
        if candidates is None:
            known = ", ".join(sorted(self._settings.routes)) or "none"
            detail = f"there is no route {request.route!r} in this worker's configuration; there are: {known}"
            return Denied(hold_id=request.hold_id, reason="unknown_route", detail=detail)
        wait_at_most_ms = request.wait_at_most_ms or int(ledger.wait_at_most.total_seconds() * 1000)
        command = Reserve(
            hold_id=request.hold_id,
            call=request.call,
            budget=request.budget,
            further_budgets=request.further_budgets,
            candidates=candidates,
            input_bytes=request.input_bytes,
            on_exhausted=request.on_exhausted or ledger.on_exhausted,
            deadline_at_ms=request.started_at_ms + wait_at_most_ms,
            asked_at_ms=request.asked_at_ms,
            priority=request.priority,
            granted_before=request.granted_before,
            run=run,
            run_terms=_terms(request),
            digest=_keyed(request.digest, run),
        )
        try:
            answer = await self._commits.submit(command)
        except CommitUnavailable as error:
            raise ApplicationError(f"the ledger: {error}", type="LedgerUnreachable", non_retryable=True) from error
        except PoisonedBatch as error:
            raise ApplicationError(
                f"the ledger refused it: {error}", type="LedgerRefused", non_retryable=True
            ) from error
        assert isinstance(answer, Granted | Parked | Denied | CountFirst | Ended)  # what the desk answers to a Reserve
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

    def _candidates(self, request: ReserveRequest) -> tuple[Candidate, ...] | None:
        """Those of its route that are left, or what it wants to buy. None: there is no such route."""
        if request.up_to_nanos is not None:
            return (candidate_of(request.route, request.up_to_nanos),)
        route = self._route(request)
        return None if route is None else self._left(request, route)

    def _left(self, request: ReserveRequest, route: Sequence[Listed]) -> tuple[Candidate, ...]:
        too_small = max((self._model(name).context_tokens or 0 for name in request.too_long_for), default=0)
        left = [
            each
            for each in self._speakers(request, route)
            if each.name not in request.excluded
            and (self._model(each.name).context_tokens or too_small + 1) > too_small
        ]
        return tuple([self._candidate(request, each, shares_load=shares(left, n)) for n, each in enumerate(left)])

    def _speakers(self, request: ReserveRequest, route: Sequence[Listed]) -> Sequence[Listed]:
        """The candidates that can be asked what a wire call asks; all, which then say why not, where none can."""
        speakers = [
            each
            for each in route
            if request.translated_bytes is not None or self._speaks(split_candidate(each.name)[0], request)
        ]
        return speakers or route

    def _speaks(self, service: str, request: ReserveRequest) -> bool:
        """Whether the service takes the call in the format that it is written in; of a neutral call always."""
        return request.dialect is None or request.dialect in PROVIDERS[self._settings.services[service].api].dialects

    def _candidate(self, request: ReserveRequest, place: Listed, *, shares_load: bool) -> Candidate:
        service, model = split_candidate(place.name)
        settings = self._model(place.name)
        media = {
            "image": (request.images, settings.image_tokens_max),
            "document": (request.documents, settings.document_tokens_max),
        }
        unbound = next((thing for thing, (count, most) in media.items() if count and most is None), None)
        output_max = settings.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
        output_each = min(request.max_output_tokens or output_max, output_max)
        speaks, has_media = self._speaks(service, request), bool(request.images or request.documents)
        asked = Asked(request.chooses if speaks else (), embeds=request.outputs == 0, has_media=has_media)
        longer_by = 0 if speaks else max(0, (request.translated_bytes or 0) - request.input_bytes)
        return Candidate(
            service=service,
            model=model,
            max_output_tokens=max(1, output_each * request.outputs),
            price=price_of(self._settings, service, model, datetime.now(UTC), asked),
            context_tokens=_context_tokens(request, settings, output_each),
            media_tokens=(self._thought_tokens(request, service, settings) if speaks else longer_by)
            + sum(count * (most or 0) for count, most in media.values()),
            refused=self._untaken(request, service, model)
            or (None if unbound is None else _NO_BOUND.format(thing=unbound, service=service, model=model)),
            countable=self._is_countable(request, place.name),
            counted_tokens=request.counted.get(place.name),
            shares=shares_load,
            weight=place.weight,
            short_below=place.short_below,
        )

    def _is_countable(self, request: ReserveRequest, name: str) -> bool:
        """Whether its tokens may be counted, which they were not yet. What a provider adds itself nobody can count, and
        embeddings are not."""
        service, model = split_candidate(name)
        is_long = request.input_bytes >= COUNTED_BYTES_MIN
        may_be = is_long and name not in request.counted and not request.needs and request.outputs > 0
        return may_be and bool(ways_of_counting(self._settings.services[service], model))

    def _thought_tokens(self, request: ReserveRequest, service: str, settings: ModelSettings) -> int:
        """The most that what was thought before can be: each time an answer at the largest cap of the service's models,
        whichever it was, and together no more than a context."""
        models = (settings, *self._settings.services[service].models.values())
        each = max(model.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS for model in models)
        return min(request.kept_thoughts * each, settings.context_tokens or COUNT_MAX)

    def _route(self, request: ReserveRequest) -> Sequence[Listed] | None:
        """The route's candidates. A wire call names one of them too, as any program names a model."""
        route = self._settings.routes.get(request.route)
        if request.dialect is None or route is not None:
            return None if route is None else listed(route)
        service, _, model = request.route.partition("/")
        return (Listed(request.route),) if model and service in self._settings.services else None

    def _untaken(self, request: ReserveRequest, service: str, model: str) -> str | None:
        """Why this service does not take a wire call. None: it takes it, or it is none."""
        if request.dialect is None:
            return None
        settings, needs = self._settings.services[service], list[str]()
        if self._speaks(service, request):
            unpriced_choices = unpriced(self._settings, service, model, datetime.now(UTC), request.chooses)
            needs += [*request.needs, *(choice.partition("=")[0] for choice in unpriced_choices)]
        elif request.translated_bytes is None:
            key = (request.untranslatable or "")[:_NAMED_CHARACTERS_MAX]
            why = f", and {key} cannot be said in another" if key else ""
            return _OTHER_FORMAT.format(dialect=request.dialect, api=settings.api, why=why)
        if self._searches_by_itself(request, service, model):
            needs.append(_SEARCHES)
        unbound = [key for key in dict.fromkeys(needs) if key not in settings.allow]
        if not unbound:
            return None
        named = [name[:_NAMED_CHARACTERS_MAX] for name in unbound[:_NAMED_MAX]]
        more = f" and {len(unbound) - _NAMED_MAX} more" if len(unbound) > _NAMED_MAX else ""
        return (
            f"{', '.join(named)}{more}: whether it changes what the call can cost is not known; leave it out, or add "
            f"allow = {json.dumps(named)} under [services.{service}], at your own risk"
        )

    def _searches_by_itself(self, request: ReserveRequest, service: str, model: str) -> bool:
        """Whether a caller names, and not the configuration, what takes a fee for a search with each answer."""
        is_ours = request.route in self._settings.routes or model in self._settings.services[service].models
        return not is_ours and "search" in model.lower()

    def _model(self, name: str) -> ModelSettings:
        """What the configuration says about a candidate; all defaults when nothing."""
        service, model = split_candidate(name)
        return self._settings.services[service].models.get(model, ModelSettings())


def _keyed(digest: str, run: str | None) -> str:
    """Tells equal questions of one run apart from others. Cut, so that many fit to each and none can be read back."""
    return hmac.digest(run.encode(), digest.encode(), "sha256").hex()[:DIGEST_CHARACTERS] if run and digest else ""


def _terms(request: ReserveRequest) -> tuple[RunTerms | None, ...]:
    if request.run_limits is None and not request.run_parts:
        return ()
    return tuple(
        None if limits is None else limits.terms()
        for limits in (request.run_limits, *(part.limits for part in request.run_parts))
    )


def _context_tokens(request: ReserveRequest, settings: ModelSettings, output_each: int) -> int | None:
    """The most that all outputs together may fill, which is what the desk compares: each has the context to itself.

    Of embeddings each text has it, so that nothing bounds them all.
    """
    if settings.context_tokens is None or request.outputs == 0:
        return None
    return settings.context_tokens + output_each * (request.outputs - 1)
