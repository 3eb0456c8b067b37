"""`paymaster runs`: what the runs of agents have taken and may take, giving them more, ending them."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, admin, checked, command_settings, ledger_status, run_async
from paymaster.cli.exits import CommandError
from paymaster.cli.present import JsonOption, print_json, print_line, print_note, print_table, usd, utc
from paymaster.cli.signing import SignOption, tell_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import JsonValue

    from paymaster.messages import AccountStatus, DeskStatus, RunState

app = typer.Typer(help="Show runs of agents that have limits, give them more, end them.", no_args_is_help=True)

Path = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or RUN/PART, as `paymaster runs list` has it.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]
Who = Annotated[
    str | None, typer.Option(help="Who made the change. Signed commands record the signer. Default: user@host.")
]


@app.command(name="list")
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """The runs with limits that somebody uses now; `paymaster usage --by run` has all that ever cost something."""
    status = run_async(ledger_status(command_settings(config)))
    runs = list(_runs(status))
    if as_json:
        print_json({"ledger": status.ledger, "runs": [_document(*each) for each in runs]})
        return
    print_table(
        ["run", "spent", "held", "of", "calls", "until", "parked"],
        [_row(*each) for each in runs],
        right=["spent", "held", "of", "calls", "parked"],
    )
    if not runs:
        print_note("no run with limits is in use now")


@app.command()
def show(run: Path, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """What one run has taken and may take."""
    status = run_async(ledger_status(command_settings(config)))
    for account, state in _runs(status):
        if state.run == run:
            if as_json:
                print_json(_document(account, state))
            else:
                _describe(account, state)
            return
    raise CommandError(
        f"the ledger has no limited run {run!r} now; `paymaster runs list` shows those that it has, and "
        f"`paymaster usage --run {run} --by model` what it has cost"
    )


@app.command(name="raise")
def raise_(
    run: Path,
    reason: Reason,
    by: Annotated[str | None, typer.Option(metavar="USD", help='So many US dollars more: "0.50".')] = None,
    calls: Annotated[int, typer.Option(min=0, help="So many calls more.")] = 0,
    lasts: Annotated[str | None, typer.Option(metavar="TIME", help='So much longer: "1h".')] = None,
    command_id: Annotated[
        str | None,
        typer.Option("--command-id", metavar="ID", help="Of a raise that got no answer, to give it again once."),
    ] = None,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a run more than its limits. Parked calls of it that fit go on by themselves."""
    from paymaster.messages import RaiseRun
    from paymaster.messages.temporal_names import RAISE_RUN

    asked = {"run": run, "by": by, "calls": calls, "lasts_ms": _milliseconds(lasts)}
    change = checked(RaiseRun, {**asked, "reason": reason, "who": who or admin()})
    told = tell_ledger(
        command_settings(config),
        RAISE_RUN.name,
        change,
        sign_with,
        lambda ledger, signed: ledger.raise_run(signed, command_id),
    )
    _tell(run_async(told), as_json=as_json)


@app.command()
def resume(
    run: Path,
    reason: Reason,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let a run go on that is held as a runaway. What it did so far counts no more towards that."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import ResumeRun
    from paymaster.messages.temporal_names import RESUME_RUN

    change = checked(ResumeRun, {"run": run, "reason": reason, "who": who or admin()})
    told = tell_ledger(command_settings(config), RESUME_RUN.name, change, sign_with, Ledger.resume_run)
    _tell(run_async(told), as_json=as_json, has="goes on, with")


@app.command()
def end(
    run: Path,
    reason: Reason,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let no further call of a run begin: those that wait are denied, and what was not sent yet is taken back."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import EndRun
    from paymaster.messages.temporal_names import END_RUN

    change = checked(EndRun, {"run": run, "reason": reason, "who": who or admin()})
    told = tell_ledger(command_settings(config), END_RUN.name, change, sign_with, Ledger.end_run)
    _tell(run_async(told), as_json=as_json)


def _milliseconds(lasts: str | None) -> int:
    from paymaster.values.durations import duration_from_input, milliseconds

    if lasts is None:
        return 0
    try:
        return milliseconds(duration_from_input(lasts))
    except ValueError as error:
        raise CommandError(f"--lasts {lasts}: {error}") from None


def _runs(status: "DeskStatus") -> "Iterable[tuple[AccountStatus, RunState]]":
    for account in status.accounts:
        if account.run is not None:
            yield account, account.run


def _row(account: "AccountStatus", run: "RunState") -> list[str]:
    from paymaster.values.money import format_usd

    counted = account.window_of_run
    return [
        run.run,
        format_usd(counted.posted_nanos),
        format_usd(counted.pending_nanos),
        "no cap" if run.cap_nanos is None else f"{format_usd(run.cap_nanos)}{_each(run)}",
        f"{run.calls}" if run.calls_max is None else f"{run.calls} of {run.calls_max}{_each(run)}",
        _until(run),
        str(account.parked),
    ]


def _each(run: "RunState") -> str:
    return "" if run.renews is None else f" each {run.renews}"


def _until(run: "RunState") -> str:
    if run.ended_by:
        return f"ended by {run.ended_by}"
    if run.held:
        return f"held: {run.held}"
    return utc(run.ends_at_ms) or ("no end" if run.renews is None else f"no end, anew at {utc(run.renews_at_ms)}")


def _describe(account: "AccountStatus", run: "RunState") -> None:
    names = ["run", "spent", "held", "of", "calls", "until", "parked"]
    for name, value in zip(names, _row(account, run), strict=True):
        print_line(f"{name:<7}{value}")
    print_line(f"`paymaster usage --run {run.run} --by model` shows what it paid for")


def _tell(run: "RunState", *, as_json: bool, has: str = "has now") -> None:
    from paymaster.values.money import format_usd

    if as_json:
        print_json(_state(run))
    elif run.ended_by:
        print_line(f"{run.run} was ended by {run.ended_by}")
    else:
        limits = [
            "no cap" if run.cap_nanos is None else f"a cap of {format_usd(run.cap_nanos)}",
            f"{run.calls} calls" if run.calls_max is None else f"{run.calls} of {run.calls_max} calls",
            "no end" if run.ends_at_ms is None else f"until {utc(run.ends_at_ms)}",
        ]
        if run.renews is not None:
            limits.append(f"in this {run.renews}; anew at {utc(run.renews_at_ms)}")
        print_line(f"{run.run} {has} {', '.join(limits)}")


def _document(account: "AccountStatus", run: "RunState") -> "JsonValue":
    counted = account.window_of_run
    return {
        **_state(run),
        "posted_usd": usd(counted.posted_nanos),
        "pending_usd": usd(counted.pending_nanos),
        "parked": account.parked,
    }


def _state(run: "RunState") -> "dict[str, JsonValue]":
    return {
        "run": run.run,
        "cap_usd": None if run.cap_nanos is None else usd(run.cap_nanos),
        "calls": run.calls,
        "calls_max": run.calls_max,
        "began_at": utc(run.began_at_ms or None),
        "ends_at": utc(run.ends_at_ms),
        "ended_by": run.ended_by or None,
        "held": run.held or None,
        "renews": run.renews,
        "renews_at": utc(run.renews_at_ms),
    }
