"""`paymaster services`: rate limits, breakers, pauses."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    checked,
    command_settings,
    ledger_status,
    run_async,
)
from paymaster.cli.present import JsonOption, print_json, print_line, print_table, utc
from paymaster.cli.signing import SignOption, tell_ledger

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.messages import AccountStatus, ServiceState, ServiceStatus

app = typer.Typer(help="Show services with their limits, pause and resume them.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(help="The service's name in the configuration.")]
Reason = Annotated[str, typer.Option(help="Why; shown to whoever waits.")]
Who = Annotated[str | None, typer.Option(help="Default: user@host.")]


@app.callback()
def services(context: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Rate limits and their use, breakers, pauses."""
    from paymaster.messages import LIMITS

    if context.invoked_subcommand is not None:
        return
    status = run_async(ledger_status(command_settings(config)))
    accounts = {account.account: account for account in status.accounts}
    rows = [(service, accounts[f"service:{service.service}"]) for service in status.services]
    if as_json:
        print_json({"ledger": status.ledger, "services": [_document(*row) for row in rows]})
        return
    limits = [limit.replace("_per_minute", "/min").replace("max_concurrent", "at once") for limit in LIMITS]
    headers = ["service", "state", *limits, "parked"]
    print_table(headers, [_row(*row) for row in rows], right=headers[2:])


@app.command()
def pause(
    name: Name,
    reason: Reason,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send nothing more to a service: its calls fall back, or park."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import PauseService
    from paymaster.messages.temporal_names import PAUSE_SERVICE

    change = checked(PauseService, {"service": name, "reason": reason, "who": who or admin()})
    told = tell_ledger(command_settings(config), PAUSE_SERVICE.name, change, sign_with, Ledger.pause_service)
    _tell(run_async(told), as_json=as_json)


@app.command()
def resume(
    name: Name,
    reason: Reason = "",
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """End an admin's pause, a pause that the service asked for, and an open breaker."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import ResumeService
    from paymaster.messages.temporal_names import RESUME_SERVICE

    change = checked(ResumeService, {"service": name, "reason": reason, "who": who or admin()})
    told = tell_ledger(command_settings(config), RESUME_SERVICE.name, change, sign_with, Ledger.resume_service)
    _tell(run_async(told), as_json=as_json)


def _tell(state: "ServiceState", *, as_json: bool) -> None:
    if as_json:
        print_json({"service": state.service, "paused": state.paused, "paused_by": state.paused_by})
    elif state.paused:
        print_line(f"{state.service} is paused")
    else:
        was = f"; it was paused by {state.paused_by}" if state.paused_by else ""
        print_line(f"{state.service} resumed{was}")


def _row(service: "ServiceStatus", account: "AccountStatus") -> list[str]:
    from paymaster.messages import LIMITS
    from paymaster.observability.temporal_ui import service_state

    limits = {limit.what: f"{limit.used} of {limit.limit}" for limit in account.limits}
    return [
        service.service,
        service_state(service),
        *(limits.get(name, "no limit") for name in LIMITS),
        str(account.parked),
    ]


def _document(service: "ServiceStatus", account: "AccountStatus") -> "JsonValue":
    return {
        "service": service.service,
        "breaker": service.breaker,
        "failures": service.failures,
        "open_until": utc(service.open_until_ms),
        "paused_until": utc(service.paused_until_ms),
        "paused_by": service.paused_by,
        "parked": account.parked,
        "limits": {limit.what: {"limit": limit.limit, "used": limit.used} for limit in account.limits},
    }
