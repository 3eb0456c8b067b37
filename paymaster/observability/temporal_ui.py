"""What the Temporal UI shows of calls and of the ledger, beside their history: summaries and details in Markdown.

Tables are blocks of code, with columns that line up: the UI gives the cells of Markdown's own no room, and reads what
stands between two `$` as a formula.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from paymaster.bars import markdown_bar, used_share
from paymaster.messages import DeskStatus, Grant, LLMRequest, Parked, ServiceStatus, WindowStatus
from paymaster.values.cut import cut
from paymaster.values.money import format_usd

_SUMMARY_BYTES_MAX = 200
"""A server refuses to start a workflow with a summary of more than 400 bytes, encrypted or not."""
_DETAILS_BYTES_MAX = 8_000
"""A server refuses to start a workflow with details above 20,000 bytes (limit.userMetadataDetailsSize)."""
_WINDOWS_SHOWN = 50
_WIDTH_MAX = 60
"""Characters of a column, which a longer cell moves apart."""


def summary(text: str) -> str:
    """Text on one line for the list and the timeline, no longer than a server takes."""
    return cut(" ".join(text.split()), _SUMMARY_BYTES_MAX)


def call_summary(request: LLMRequest) -> str:
    return summary(f"{request.route} for {', '.join(request.budgets)}")


def call_details(request: LLMRequest) -> str:
    """What was asked for, and by whom: nothing of the prompt."""
    rows = [("route", request.route), ("budget", ", ".join(request.budgets)), *sorted(request.metadata.items())]
    return cut(_table(rows), _DETAILS_BYTES_MAX)


def state_of_call(
    parked: Parked | None, sending: Grant | None, attempts: int, cost_nanos: int, failed: Sequence[str]
) -> str:
    """Where a call is: parked, at a service, or in between; and what it took so far."""
    if parked is not None:
        now = f"parked until {_utc(parked.deadline_at_ms)} at most"
    elif sending is not None:
        now = f"waits for {asked(sending)}; costs at most {format_usd(sending.bound_nanos)}"
    else:
        now = "at no service"
    rows = [("now", now)]
    if parked is not None:
        rows += [("why at first", parked.detail), ("why now", "paymaster calls show has it")]
    rows += [("attempts", str(attempts)), ("cost", format_usd(cost_nanos))]
    if failed:
        rows.append(("failed at", ", ".join(failed)))
    return cut(_table(rows), _DETAILS_BYTES_MAX)


def asked(grant: Grant) -> str:
    """The model that is asked, and that the money was short when it was chosen."""
    return f"{grant.service}/{grant.model}{', because the money is short' if grant.money_short else ''}"


def ledger_details(status: DeskStatus) -> str:
    """The accounts, the parked calls and the services of a ledger as it stands: the fullest windows first."""
    windows = sorted(
        ((account, window) for account in status.accounts for window in account.windows),
        key=lambda pair: (-_fullness(pair[1]), pair[0].account),
    )
    parts = [
        _table(
            [
                ("account", "window", "used", "posted", "held", "cap", "parked"),
                *(
                    (
                        account.account,
                        window.window,
                        markdown_bar(window),
                        format_usd(window.posted_nanos),
                        format_usd(window.pending_nanos),
                        "no cap" if window.cap_nanos is None else format_usd(window.cap_nanos),
                        str(account.parked),
                    )
                    for account, window in windows[:_WINDOWS_SHOWN]
                ),
            ]
        )
    ]
    if len(windows) > _WINDOWS_SHOWN or status.more_accounts:
        parts.append("There are more: `paymaster budget show`.")
    parts.append(
        f"**{status.holds}** in flight, **{status.parked}** parked, **{status.unconfirmed}** unconfirmed, "
        f"{status.outbox} to be delivered; state {status.state_bytes // 1024} of {status.state_bytes_max // 1024} KiB"
    )
    if status.waiting:
        rows = [
            (call.workflow_id, ", ".join(call.budgets), _utc(call.deadline_at_ms), call.detail)
            for call in status.waiting
        ]
        parts.append(_table([("parked call", "budget", "until", "waits for"), *rows]))
    if status.services:
        rows = [(each.service, service_state(each)) for each in status.services]
        parts.append(_table([("service", "state"), *rows]))
    return "\n\n".join(parts)


def service_state(service: ServiceStatus) -> str:
    """Whether calls go to a service, and if not why."""
    if service.paused_by is not None:
        return f"paused by {service.paused_by}"
    if service.paused_until_ms is not None:
        return f"paused until {_utc(service.paused_until_ms)}"
    if service.breaker == "closed" and service.paused_models:
        return f"open for calls, but not to {', '.join(service.paused_models)}"
    if service.breaker == "closed":
        return "open for calls"
    return f"breaker {service.breaker.replace('_', ' ')}, {service.failures} failures in a row"


def _fullness(window: WindowStatus) -> float:
    """What is without a cap comes last."""
    used = used_share(window)
    return -1.0 if used is None else used


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = [[_cell(text) for text in row] for row in rows]
    widths = [min(_WIDTH_MAX, max(map(len, column))) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join(("```", *lines, "```"))


def _cell(text: str) -> str:
    """The text on one line, whoever wrote it: nothing in it ends the block."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("`", "'")
