"""`paymaster budget what-if`: which stored calls another configuration would have held up."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_settings, open_database, run_async, tell_if_slow
from paymaster.cli.exits import EXIT_NO, CommandError, given_once
from paymaster.cli.present import JsonOption, iso, print_json, print_line, print_table, usd, utc
from paymaster.cli.span import SinceOption, UntilOption, span_of
from paymaster.cli.usage_pruned import LACKS_BEFORE, lacks_what_is_pruned, tell_what_is_pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from paymaster.messages import DeskConfig
    from paymaster.reports.replayed import Call, HeldUp, InWindow, Totals
    from paymaster.reports.usage import Scope
    from paymaster.reports.what_if import Replay
    from paymaster.settings import Settings

_SHOWN = 40
"""Caps, and budgets, in a table, those with the most calls; --json has all of them."""
_UNITS_S = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def what_if(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The other configuration, a whole paymaster.toml.")],
    since: SinceOption = None,
    until: UntilOption = None,
    budget: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Only calls of this budget and what is below it; once.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Replay the stored calls against another configuration. Exit code 1: it would have held some up.

    The ledger is not asked, and nothing is changed.
    """
    of_budget = given_once("--budget", budget)
    wanted = _desk_config(file)
    settings = command_settings(config)
    start, end = span_of(since, until)
    replay, lacks_before = run_async(_replay(settings, wanted, start, end, of_budget))
    tell_what_is_pruned(lacks_before)
    if as_json:
        asked: dict[str, JsonValue] = {"ledger": settings.ledger.name, "file": str(file)}
        asked |= {"since": iso(start), "until": iso(end), "budget": of_budget, LACKS_BEFORE: iso(lacks_before)}
        print_json(asked | _document(replay))
    elif replay.total.calls:
        _print(replay)
    else:
        print_line("no usage is stored for this")
    if replay.total.held_up or replay.total.denied:
        raise typer.Exit(EXIT_NO)


def _desk_config(file: Path) -> "DeskConfig":
    from paymaster.settings import ConfigurationError, load_settings
    from paymaster.settings.desk_config import desk_config

    try:
        return desk_config(load_settings(file))
    except ConfigurationError as error:
        raise CommandError(str(error)) from None


async def _replay(
    settings: "Settings", wanted: "DeskConfig", since: datetime | None, until: datetime | None, budget: str | None
) -> "tuple[Replay, datetime | None]":
    """The replay, and before when it lacks what is pruned: also caps of windows that began earlier do."""
    from paymaster.reports.stored_holds import stored_holds
    from paymaster.reports.what_if import Replay, replayed_from_ms

    since_ms = 0 if since is None else round(since.timestamp() * 1000)
    from_ms = replayed_from_ms(wanted, since_ms)
    begin = None if since is None or from_ms == 0 else datetime.fromtimestamp(from_ms / 1000, UTC)
    replay = Replay(wanted, since_ms=since_ms, budget=budget)
    async with open_database(settings) as engine, tell_if_slow("replaying the stored calls"):
        async for stored in stored_holds(engine, ledger=settings.ledger.name, since=begin, until=until):
            replay.take(stored)
        of_rows: Scope = {"since": begin, "until": until, "budget": budget, "run": None}
        return replay, await lacks_what_is_pruned(engine, settings, of_rows)


def _most_first(replay: "Replay") -> "list[HeldUp]":
    return sorted(replay.held_up.values(), key=lambda each: (-each.calls, each.account, each.what))


# ---------------------------------------------------------------- for people


def _print(replay: "Replay") -> None:
    from paymaster.reports.what_if import APPROXIMATE

    total, found = replay.total, _most_first(replay)
    if found:
        _print_caps(found)
        print_line("")
    budgets = {path: each for path, each in replay.by_budget.items() if each.held_up or each.denied}
    if budgets:
        _print_budgets(budgets)
        print_line("")
    for reason, refused in sorted(replay.refusals.items()):
        print_line(f"{refused.calls:,} {reason}: {refused.detail} (the first: {_when(refused.first)})")
    print_line(
        f"of {total.calls:,} calls {total.held_up:,} would have waited, or been denied where they do not want to, and "
        f"{total.denied:,} would have been denied anyway"
    )
    print_line(f"approximately: {'; '.join(APPROXIMATE)}")


def _print_caps(found: "Sequence[HeldUp]") -> None:
    from paymaster.values.money import format_usd

    rows = [
        [
            each.account,
            _named(each),
            f"{each.calls:,}",
            format_usd(each.cost_nanos),
            f"{each.windows:,}" if each.windows else "",
            _when(each.first),
            _longest(each),
        ]
        for each in found[:_SHOWN]
    ]
    headers = ["account", "cap or limit", "calls", "cost", "windows", "the first", "longest wait"]
    print_table(headers, rows, right=["calls", "cost", "windows"])
    if len(found) > _SHOWN:
        print_line(f"and {len(found) - _SHOWN:,} more caps and limits: see --json")


def _print_budgets(budgets: "dict[str, Totals]") -> None:
    from paymaster.values.money import format_usd

    most_first = sorted(budgets.items(), key=lambda each: (-(each[1].held_up + each[1].denied), each[0]))
    rows = [
        [
            path,
            *(f"{count:,}" for count in (each.calls, each.held_up, each.denied)),
            *(format_usd(nanos) for nanos in (each.cost_nanos, each.held_up_nanos + each.denied_nanos)),
        ]
        for path, each in most_first[:_SHOWN]
    ]
    headers = ["budget", "calls", "would have waited", "denied", "cost", "of these"]
    print_table(headers, rows, right=headers[1:])
    if len(budgets) > _SHOWN:
        print_line(f"and {len(budgets) - _SHOWN:,} more budgets: see --json")


def _named(held_up: "HeldUp") -> str:
    from paymaster.values.money import format_usd

    most = format_usd(held_up.most) if held_up.windows else f"{held_up.most:,}"
    return f"{held_up.what} {most}{'' if held_up.enforced else ', watched only'}"


def _when(call: "Call") -> str:
    return f"{datetime.fromtimestamp(call.granted_at_ms / 1000, UTC):%Y-%m-%d %H:%M} {call.call_id}"


def _longest(held_up: "HeldUp") -> str:
    """The two largest units of the longest wait, or what it is for where nobody can say."""
    if held_up.longest_ms is None:
        return "until it is raised" if held_up.windows else "until a call ends"
    left_s, parts = -(-held_up.longest_ms // 1000), list[str]()
    for unit, length_s in _UNITS_S:
        if left_s >= length_s:
            parts.append(f"{left_s // length_s}{unit}")
            left_s %= length_s
    return " ".join(parts[:2])


# ---------------------------------------------------------------- for programs


def _document(replay: "Replay") -> "dict[str, JsonValue]":
    from paymaster.reports.what_if import APPROXIMATE

    return {
        "total": _totals(replay.total),
        "budgets": [
            {"budget": path, **_totals(each)}
            for path, each in sorted(replay.by_budget.items())
            if each.held_up or each.denied
        ],
        "held_up": [_held_up(each) for each in _most_first(replay)],
        "refused": [
            {"reason": reason, "calls": each.calls, "detail": each.detail, "first": _call(each.first)}
            for reason, each in sorted(replay.refusals.items())
        ],
        "approximate": list(APPROXIMATE),
    }


def _totals(totals: "Totals") -> "dict[str, JsonValue]":
    return {
        "calls": totals.calls,
        "would_have_waited": totals.held_up,
        "denied": totals.denied,
        "cost_usd": usd(totals.cost_nanos),
        "would_have_waited_usd": usd(totals.held_up_nanos),
        "denied_usd": usd(totals.denied_nanos),
    }


def _held_up(held_up: "HeldUp") -> "JsonValue":
    is_cap = held_up.windows > 0
    return {
        "account": held_up.account,
        "window": held_up.what if is_cap else None,
        "cap_usd": usd(held_up.most) if is_cap else None,
        "limit": None if is_cap else held_up.what,
        "most": None if is_cap else held_up.most,
        "enforced": held_up.enforced,
        "calls": held_up.calls,
        "never_fit": held_up.never_fit,
        "cost_usd": usd(held_up.cost_nanos),
        "longest_wait_ms": held_up.longest_ms,
        "first": _call(held_up.first),
        "windows": held_up.windows,
        "first_windows": [_in_window(each) for each in held_up.by_window],
    }


def _in_window(found: "InWindow") -> "JsonValue":
    return {
        "began_at": utc(found.window.began_at_ms),
        "ends_at": utc(found.window.ends_at_ms),
        "calls": found.calls,
        "cost_usd": usd(found.cost_nanos),
        "first": _call(found.first),
    }


def _call(call: "Call") -> "JsonValue":
    return {"call_id": call.call_id, "granted_at": utc(call.granted_at_ms), "cost_usd": usd(call.cost_nanos)}
