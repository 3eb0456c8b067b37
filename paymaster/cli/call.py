"""`paymaster call`: one call from the terminal."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import typer

from paymaster.cli.connection import ConfigOption, command_settings, connect_temporal, run_async
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_note, print_text, usd, utc
from paymaster.cli.waiting import tell_while_waiting
from paymaster.values.budget_path import is_template
from paymaster.values.metadata import metadata_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from paymaster.messages import LLMRequest, LLMResult
    from paymaster.settings import Settings

MetadataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata",
        metavar="KEY=VALUE",
        help="Stored with the call, for `usage --by metadata.KEY` and `erase`; repeatable.",
    ),
]


def call(
    route: Annotated[str, typer.Argument(help="A route of the configuration.")],
    prompt: Annotated[str, typer.Argument(help='The prompt; "-" reads it from stdin.')],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="The budget's path; may be repeated: the call counts for each. Default: the configuration's only one.",
            show_default=False,
        ),
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Default: what the configuration says of the model.", show_default=False)
    ] = None,
    on_exhausted: Annotated[
        Literal["wait", "fail"] | None,
        typer.Option(help="When the money is gone. Default: what the configuration says.", show_default=False),
    ] = None,
    call_id: Annotated[
        str | None, typer.Option(help="The same id gives the same answer and is paid once. Default: a new one.")
    ] = None,
    metadata: MetadataOption = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Call a model: the answer on stdout, what it cost on stderr."""
    settings = command_settings(config)
    if route not in settings.routes:
        raise CommandError(f"there is no route {route!r}; configured: {', '.join(settings.routes) or 'none'}")
    budgets = budget or [_only_budget(settings)]
    request = _request(
        route=route,
        budget=budgets[0] if len(budgets) == 1 else tuple(budgets),
        prompt=_text_of(prompt),
        system=system,
        max_output_tokens=max_output_tokens,
        on_exhausted=on_exhausted,
        call_id=call_id or str(uuid4()),
        metadata=_metadata(metadata or ()),
    )
    result = run_async(_call(settings, request))
    if as_json:
        print_json(_document(result))
    elif result.outcome == "completed":
        print_text(result.text)
        print_note(summary(result))
    else:
        print_note(f"paymaster: {result.outcome}: {result.reason}: {result.detail}")
    if result.outcome != "completed":
        raise typer.Exit(EXIT_NO)


def _text_of(prompt: str) -> str:
    """What is asked: of "-" all of stdin. Raises CommandError for nothing."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise CommandError("the prompt is empty")
    return text


def _metadata(items: "Sequence[str]") -> dict[str, str]:
    try:
        return metadata_of(items)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _request(**fields: object) -> "LLMRequest":
    from pydantic import ValidationError

    from paymaster.messages import LLMRequest

    try:
        return LLMRequest.model_validate(fields)
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        raise CommandError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def _only_budget(settings: "Settings") -> str:
    budgets = [path for path in settings.budgets if not is_template(path)]
    if len(budgets) == 1:
        return budgets[0]
    raise CommandError(f"name a budget with --budget; configured: {', '.join(settings.budgets) or 'none'}")


async def _call(settings: "Settings", request: "LLMRequest") -> "LLMResult":
    from temporalio.client import WorkflowFailureError
    from temporalio.service import RPCError

    from paymaster.client import try_generate
    from paymaster.errors import CallIdReused
    from paymaster.messages import call_workflow_id

    assert request.call_id is not None
    workflow_id = call_workflow_id(request.call_id, settings.ledger.name)
    client = await connect_temporal(settings)
    told = asyncio.create_task(tell_while_waiting(client, settings, request.call_id))
    try:
        return await try_generate(client, request, quiet=True)  # stderr has more than a log
    except CallIdReused as error:
        raise CommandError(error.message) from None
    except WorkflowFailureError as error:
        raise CommandError(f"{workflow_id} ended without a result: {error.cause}", EXIT_NO) from None
    except RPCError as error:
        raise CommandError(f"Temporal gave no answer about {workflow_id}: {error.message}") from None
    except asyncio.CancelledError:
        print_note(f"{workflow_id} goes on; the same command with --call-id {request.call_id} gives its answer")
        raise
    finally:
        told.cancel()


def summary(result: "LLMResult") -> str:
    from paymaster.values.money import format_usd

    usage, is_cut = result.usage, result.finish_reason == "length"
    cached = f" ({usage.cached_input_tokens:,} cached)" if usage.cached_input_tokens else ""
    parts = [
        f"{result.service}/{result.model}",
        f"{usage.input_tokens:,}{cached} + {usage.output_tokens:,} tokens",
        format_usd(result.cost_nanos),
        *(("the money is short",) if result.money_short else ()),
        *(("cut: it has the most tokens that it may have (--max-output-tokens)",) if is_cut else ()),
        *(f"{notice.account} {notice.window}: {format_usd(notice.left_nanos)} left" for notice in result.budget),
    ]
    return " · ".join(parts)


def _document(result: "LLMResult") -> "dict[str, JsonValue]":
    return {
        "call_id": result.call_id,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "detail": result.detail,
        "text": result.text,
        "parsed": result.parsed,
        "finish_reason": result.finish_reason,
        "service": result.service,
        "model": result.model,
        "usage": dict(result.usage),
        "cost_usd": usd(result.cost_nanos),
        "attempts": result.attempts,
        "fell_back": result.fell_back,
        "money_short": result.money_short,
        "waited_ms": result.waited_ms,
        "budget": [
            {
                "account": notice.account,
                "window": notice.window,
                "cap_usd": usd(notice.cap_nanos),
                "posted_usd": usd(notice.posted_nanos),
                "pending_usd": usd(notice.pending_nanos),
                "available_usd": usd(notice.left_nanos),
                "ends_at": utc(notice.ends_at_ms),
                "crossed": list(notice.crossed),
            }
            for notice in result.budget
        ],
    }
