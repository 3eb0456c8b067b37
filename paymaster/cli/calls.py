"""`paymaster calls`: what calls do now, why they wait, what they cost; and giving one up."""

import asyncio
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from paymaster.cli.connection import ConfigOption, admin, command_settings, connect_temporal, open_database, run_async
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, iso, print_json, print_line, print_note, print_table, usd, utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue
    from temporalio.client import Client, WorkflowExecution, WorkflowExecutionDescription

    from paymaster.messages import UsageEntry, WaitingCall
    from paymaster.settings import Settings

app = typer.Typer(help="Show calls, what they wait for and what they cost; give one up.", no_args_is_help=True)

CallId = Annotated[str, typer.Argument(metavar="CALL_ID", help="The id that `calls list`, results and alerts show.")]

_ENDS_WITHIN_S = 5.0
_LOOKS_AGAIN_AFTER_S = 0.1


class Call(NamedTuple):
    """A call as Temporal and the copy of the ledger's parked calls know it."""

    call_id: str
    state: str
    """parked, running, or how it ended: its outcome, or what Temporal says of one that was terminated or failed."""
    budget: str | None
    asked: str | None
    """The service and model of its last attempt."""
    began_at: str | None
    cost_nanos: int | None
    """Temporal's figure, of which a server with an SQL database keeps five decimals of a dollar. None: it has none."""
    waiting: "WaitingCall | None"


class Shown(NamedTuple):
    call_id: str
    """Of the generation that is shown."""
    call: Call | None
    """None: Temporal does not have it any more."""
    summary: str | None
    sent: str | None
    """The attempt that is under way: since when."""
    entries: "tuple[UsageEntry, ...]"
    link: str | None

    @property
    def metadata(self) -> "Mapping[str, str]":
        """What is stored with its attempts: none before the first has ended, nor what was erased."""
        return self.entries[-1].metadata if self.entries else {}


@app.command(name="list")
def list_(
    parked: Annotated[bool, typer.Option("--parked", help="Only those that run and had to wait.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Only of this budget and those below it, once they waited or ended.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run of an agent, once they waited or ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """The newest calls: from Temporal, and why they wait from the copy of the ledger's status."""
    settings = command_settings(config)
    query = _query(settings.ledger.name, parked=parked, budget=budget, run=run)
    calls = run_async(_list(settings, query, limit))
    if as_json:
        print_json({"calls": [_document(each) for each in calls]})
        return
    rows = [
        [each.call_id, each.state, each.budget or "", each.asked or "", each.began_at or "", _cost(each), _why(each)]
        for each in calls
    ]
    print_table(["call", "state", "budget", "service/model", "began", "cost", "waits for"], rows, right=["cost"])
    if not calls:
        print_note(f"there is none in the ledger {settings.ledger.name}")
    if len(calls) == limit:
        print_note(f"there may be more than these {limit}: --limit")


@app.command()
def show(call_id: CallId, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """What one call does now, why it waits and until when, and its attempts with what each cost."""
    settings = command_settings(config)
    call_id = _bare(call_id, settings.ledger.name)
    shown = run_async(_show(settings, call_id))
    if shown.call is None and not shown.entries:
        raise CommandError(f"there is no call {call_id}: neither Temporal nor the stored rows have one", EXIT_NO)
    if as_json:
        print_json(_shown_document(shown))
    else:
        _describe(call_id, shown)


@app.command()
def cancel(
    call_id: CallId,
    reason: Annotated[str, typer.Option(help="Why; kept in the call's history.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a call up: one that waits ends and costs nothing; what was sent already runs on and is paid for."""
    settings = command_settings(config)
    call_id, was_sent, ended = run_async(_cancel(settings, _bare(call_id, settings.ledger.name), reason))
    if as_json:
        print_json({"call_id": call_id, "was_sent": was_sent, "ended": ended})
    elif was_sent:
        print_line(f"{call_id}: an attempt was sent; it runs on and is paid for, and then the call is cancelled")
    elif ended:
        print_line(f"{call_id}: cancelled; nothing is under way any more")
    else:
        print_line(f"{call_id}: will be cancelled as soon as a worker takes it; nothing more is sent")


def _bare(call_id: str, ledger: str) -> str:
    """Of what may be the id of a call's workflow. Raises CommandError for that of another ledger's call."""
    from paymaster.messages import call_id_of
    from paymaster.messages.temporal_names import is_call, ledger_of_call

    if is_call(call_id) and (of := ledger_of_call(call_id)) != ledger:
        raise CommandError(f"{call_id} is a call of ledger {of!r}, and this asks {ledger!r}: add --ledger {of}")
    return call_id_of(call_id)


# ---------------------------------------------------------------- what Temporal and the copy say


def _query(ledger: str, *, parked: bool, budget: str | None, run: str | None) -> str:
    """In the words of Temporal's visibility, which knows a call's ledger by its task queue. Raises CommandError."""
    from paymaster.messages.temporal_names import CALL_WORKFLOW, calls_task_queue
    from paymaster.observability.search_attributes import BUDGET, OUTCOME, RUN
    from paymaster.values.budget_path import check_budget_path
    from paymaster.values.run_path import check_run_path

    parts = [f"WorkflowType = '{CALL_WORKFLOW.name}' AND TaskQueue = '{calls_task_queue(ledger)}'"]
    if parked:
        parts.append(f"{OUTCOME.name} = 'parked' AND ExecutionStatus = 'Running'")
    try:
        if budget is not None:
            parts.append(_is_or_below(BUDGET.name, check_budget_path(budget)))
        if run is not None:
            parts.append(_is_or_below(RUN.name, check_run_path(run)))
    except ValueError as error:
        raise CommandError(str(error)) from None
    return " AND ".join(parts)


def _is_or_below(attribute: str, path: str) -> str:
    quoted = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"({attribute} = '{quoted}' OR {attribute} STARTS_WITH '{quoted}/')"


async def _list(settings: "Settings", query: str, limit: int) -> list[Call]:
    from temporalio.service import RPCError

    client = await connect_temporal(settings)
    try:
        found = [each async for each in client.list_workflows(query, limit=limit)]
    except RPCError as error:
        hint = "; `paymaster migrate` registers it" if "search attribute" in error.message else ""
        raise CommandError(f"Temporal does not list calls: {error.message}{hint}") from None
    waiting = await parked_calls(settings, [each.id for each in found])
    return [_call(each, waiting.get(each.id)) for each in found]


async def parked_calls(settings: "Settings", workflow_ids: "Sequence[str]") -> "Mapping[str, WaitingCall]":
    """Those of these that were parked a second ago, by workflow id; none, where no database is configured."""
    from paymaster.storage.parked_rows import parked_calls_of

    if settings.database.url is None:
        return {}
    async with open_database(settings) as engine:
        return await parked_calls_of(engine, settings.ledger.name, workflow_ids)


def _call(execution: "WorkflowExecution", waiting: "WaitingCall | None") -> Call:
    from paymaster.messages import call_id_of
    from paymaster.observability.search_attributes import BUDGET, COST_USD, MODEL, SERVICE
    from paymaster.values.money import NANOS_PER_USD

    attributes = execution.typed_search_attributes
    service, model, cost_usd = attributes.get(SERVICE), attributes.get(MODEL), attributes.get(COST_USD)
    return Call(
        call_id=call_id_of(execution.id),
        state="parked" if waiting else _state(execution),
        budget=", ".join(waiting.budgets) if waiting else attributes.get(BUDGET),
        asked=f"{service}/{model}" if service else None,
        began_at=iso(execution.start_time),
        cost_nanos=None if cost_usd is None else round(cost_usd * NANOS_PER_USD),
        waiting=waiting,
    )


def _state(execution: "WorkflowExecution") -> str:
    """Of a call that does not wait, as far as the copy of the ledger's status says."""
    from temporalio.client import WorkflowExecutionStatus

    from paymaster.observability.search_attributes import OUTCOME

    outcome = execution.typed_search_attributes.get(OUTCOME)
    if execution.status is WorkflowExecutionStatus.RUNNING:
        return "running"
    if execution.status is WorkflowExecutionStatus.COMPLETED and outcome is not None:
        return outcome
    return "ended" if execution.status is None else execution.status.name.lower().replace("canceled", "cancelled")


async def _show(settings: "Settings", call_id: str) -> Shown:
    from paymaster.messages import call_workflow_id
    from paymaster.observability.temporal_links import TemporalLinks

    client = await connect_temporal(settings)
    call_id = await newest_generation(client, settings, call_id)
    described = await _described(client, settings, call_id)
    links = TemporalLinks(settings.console.temporal_ui, client.namespace)
    entries = await _entries(settings, call_id)
    if described is None:
        return Shown(call_id, None, None, None, entries, None)
    workflow_id = call_workflow_id(call_id, settings.ledger.name)
    call = _call(described, (await parked_calls(settings, [workflow_id])).get(workflow_id))
    summary = await described.static_summary()
    return Shown(call_id, call, summary, _sent(described), entries, links.workflow(workflow_id))


async def newest_generation(client: "Client", settings: "Settings", call_id: str) -> str:
    """The id under which the call runs, or ran last; a generation that is named is meant itself. Raises
    CommandError."""
    from temporalio.service import RPCError

    from paymaster.generations import latest_generation
    from paymaster.messages.temporal_names import first_generation, generation_id

    if first_generation(call_id) != call_id:
        return call_id
    try:
        return generation_id(call_id, await latest_generation(client, call_id))
    except RPCError as error:
        raise CommandError(f"Temporal gave no answer about {call_id}: {error.message}") from None


async def _described(client: "Client", settings: "Settings", call_id: str) -> "WorkflowExecutionDescription | None":
    """None: Temporal has no such call, or none any more."""
    from temporalio.service import RPCError, RPCStatusCode

    from paymaster.messages import call_workflow_id

    try:
        return await client.get_workflow_handle(call_workflow_id(call_id, settings.ledger.name)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise CommandError(f"Temporal gave no answer about {call_id}: {error.message}") from None


async def _entries(settings: "Settings", call_id: str) -> "tuple[UsageEntry, ...]":
    from paymaster.storage.usage_rows import entries_of_call

    if settings.database.url is None:
        return ()
    async with open_database(settings) as engine:
        return tuple(await entries_of_call(engine, settings.ledger.name, call_id))


def _sent(described: "WorkflowExecutionDescription") -> str | None:
    """Since when an attempt is at a service; None: none is."""
    from datetime import UTC

    from temporalio.api.enums.v1 import PendingActivityState

    from paymaster.messages.temporal_names import CALL_SERVICE

    for activity in described.raw_description.pending_activities:
        is_begun = activity.state != PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        if activity.activity_type.name == CALL_SERVICE.name and is_begun:
            return iso(activity.last_started_time.ToDatetime(UTC))
    return None


async def _cancel(settings: "Settings", call_id: str, reason: str) -> tuple[str, bool, bool]:
    """The generation that is cancelled, whether something was sent already, and whether the call has ended. Raises
    CommandError where it had before."""
    from temporalio.client import WorkflowExecutionStatus
    from temporalio.service import RPCError

    from paymaster.messages import call_workflow_id

    client = await connect_temporal(settings)
    call_id = await newest_generation(client, settings, call_id)
    described = await _described(client, settings, call_id)
    if described is None:
        raise CommandError(f"Temporal has no call {call_id}", EXIT_NO)
    if described.status is not WorkflowExecutionStatus.RUNNING:
        raise CommandError(f"{call_id} has ended: {_state(described)}", EXIT_NO)
    handle = client.get_workflow_handle(call_workflow_id(call_id, settings.ledger.name))
    was_sent = _sent(described) is not None
    why = f"{admin()}: {reason}" if reason else admin()
    try:
        await handle.cancel(reason=why)
        ended = not was_sent and await _ended(client, settings, call_id)
    except RPCError as error:
        raise CommandError(f"{call_id} was not cancelled: {error.message}") from None
    return call_id, was_sent, ended


async def _ended(client: "Client", settings: "Settings", call_id: str) -> bool:
    """Whether it has ended soon."""
    from temporalio.client import WorkflowExecutionStatus

    try:
        async with asyncio.timeout(_ENDS_WITHIN_S):
            while (described := await _described(client, settings, call_id)) is not None:
                if described.status is not WorkflowExecutionStatus.RUNNING:
                    return True
                await asyncio.sleep(_LOOKS_AGAIN_AFTER_S)
    except TimeoutError:
        pass
    return False


# ---------------------------------------------------------------- what is shown


def _cost(call: Call) -> str:
    from paymaster.values.money import format_usd

    return "" if call.cost_nanos is None else format_usd(call.cost_nanos)


def _why(call: Call) -> str:
    return f"{call.waiting.detail}; until {utc(call.waiting.deadline_at_ms)}" if call.waiting else ""


def _describe(call_id: str, shown: Shown) -> None:
    """`call_id`: as it was asked for."""
    from paymaster.values.money import format_usd
    from paymaster.values.plurals import counted

    call = shown.call
    lines = [("call", shown.call_id)]
    if shown.call_id != call_id:
        lines.append(("", f"{call_id} was asked for again: what came before ended without an answer, unbilled"))
    if call is None:
        lines.append(("state", "Temporal does not have it any more; these are its stored rows"))
    else:
        lines.append(("asked", shown.summary or ""))
        lines.append(("state", f"{call.state}, begun {call.began_at}"))
        if call.waiting:
            lines.append(("waits", f"{call.waiting.detail}"))
            lines.append(
                ("until", f"{utc(call.waiting.deadline_at_ms)}, and is denied then, if it could not go on before")
            )
        if shown.sent:
            lines.append(("sent", f"{shown.sent}; it is paid for, also if the call is cancelled"))
    told = ", ".join(f"{name}={value}" for name, value in sorted(shown.metadata.items()))
    lines += [("metadata", told)] if told else []
    lines += [("Temporal", shown.link)] if shown.link else []
    for name, value in lines:
        print_line(f"{name:<9}{value}")
    rows = [_row(each) for each in shown.entries]
    print_table(["attempt", "service/model", "granted", "status", "tokens", "cost"], rows, right=["tokens", "cost"])
    print_line(f"{counted(len(rows), 'attempt')}, {format_usd(sum(each.cost_nanos for each in shown.entries))}")


def _row(entry: "UsageEntry") -> "Sequence[str]":
    from paymaster.values.money import format_usd

    tokens = f"{entry.usage.input_tokens:,} + {entry.usage.output_tokens:,}" if entry.usage else "?"
    status = ": ".join(filter(None, (entry.status, entry.error_class)))
    unsure = " (unconfirmed)" if entry.state == "unconfirmed" else ""
    asked, at = f"{entry.service}/{entry.model}", utc(entry.granted_at_ms) or ""
    return [entry.attempt_id, asked, at, f"{status}{unsure}", tokens, format_usd(entry.cost_nanos)]


def _document(call: Call) -> "dict[str, JsonValue]":
    return {
        "call_id": call.call_id,
        "state": call.state,
        "budget": call.budget,
        "asked": call.asked,
        "began_at": call.began_at,
        "cost_usd": None if call.cost_nanos is None else usd(call.cost_nanos),
        "waits_for": call.waiting.detail if call.waiting else None,
        "denied_at": utc(call.waiting.deadline_at_ms) if call.waiting else None,
    }


def _shown_document(shown: Shown) -> "JsonValue":
    return {
        **({} if shown.call is None else _document(shown.call)),
        "sent_at": shown.sent,
        "link": shown.link,
        "metadata": {**shown.metadata},
        "attempts": [
            {
                "attempt_id": each.attempt_id,
                "service": each.service,
                "model": each.model,
                "granted_at": utc(each.granted_at_ms),
                "state": each.state,
                "status": each.status,
                "error": each.error_class,
                "cost_usd": usd(each.cost_nanos),
            }
            for each in shown.entries
        ],
    }
