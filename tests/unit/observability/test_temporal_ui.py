"""What the Temporal UI shows: no more than a server takes, and nothing that others named does anything."""

import re
from typing import Any, Literal

import pytest

from paymaster import LLMRequest
from paymaster.messages import (
    AccountStatus,
    DeskStatus,
    Grant,
    Parked,
    RetrySettings,
    ServiceStatus,
    WaitingCall,
    Window,
    WindowStatus,
)
from paymaster.observability.search_attributes import BUDGET, COST_USD, MODEL, OUTCOME, RUN, SERVICE, call_attributes
from paymaster.observability.temporal_ui import call_details, call_summary, ledger_details, state_of_call, summary
from paymaster.values.money import NANOS_MAX, Price

HOSTILE = "a|b\n| c | [x](https://evil.example) <img src=x> `*_~ \x00\x1b"
GRANT = Grant(
    hold_id="run/1",
    budget="acme",
    service="openai",
    model="gpt",
    price=Price(input_nanos=1, output_nanos=1, source="test"),
    max_output_tokens=1,
    bound_nanos=1_500_000_000,
    granted_at_ms=0,
    expires_at_ms=1,
    epoch="e",
    timeout_ms=1,
    retry=RetrySettings(),
    max_retry_after_ms=1,
    max_unconfirmed=1,
)


def window(name: Window, cap: int | None, posted: int, pending: int = 0) -> WindowStatus:
    return WindowStatus(window=name, cap_nanos=cap, posted_nanos=posted, pending_nanos=pending, ends_at_ms=None)


def service(
    name: str, breaker: Literal["closed", "open"] = "closed", until_ms: int | None = None, by: str | None = None
) -> ServiceStatus:
    return ServiceStatus(
        service=name, breaker=breaker, failures=3, open_until_ms=None, paused_until_ms=until_ms, paused_by=by
    )


def status(**fields: Any) -> DeskStatus:
    usual: dict[str, Any] = {"accounts": (), "holds": 2, "parked": 1, "outbox": 0, "unconfirmed": 4}
    return DeskStatus(ledger="default", epoch="e", config_digest="d", **(usual | fields))


def rows(markdown: str) -> list[list[str]]:
    """The cells of all tables' lines."""
    blocks = markdown.split("```")[1::2]
    return [re.split(r" {2,}", line) for block in blocks for line in block.strip("\n").splitlines()]


def test_a_summary_is_one_line_and_no_longer_than_a_server_takes() -> None:
    assert summary("a\n b\t c") == "a b c"
    long = summary("ü" * 5_000)
    assert len(long.encode()) <= 200
    assert long.endswith("ü…")


def test_a_calls_details_name_its_route_budget_and_metadata_and_nothing_of_its_prompt() -> None:
    request = LLMRequest(
        route="writer", budget="acme/x_y", prompt="SECRET", system="SECRET", metadata={"team": "a", HOSTILE: HOSTILE}
    )
    assert call_summary(request) == "writer for acme/x_y"
    details = call_details(request)
    assert "SECRET" not in details
    assert rows(details)[:2] == [["route", "writer"], ["budget", "acme/x_y"]]
    assert details.count("```") == 2, "and what others named stays between them"
    assert len(details.splitlines()) == 6
    assert len(call_details(request.model_copy(update={"metadata": {"k": "v" * 100_000}})).encode()) <= 8_000


def test_a_call_says_what_it_waits_for() -> None:
    parked = Parked(hold_id="run/1", deadline_at_ms=1_772_323_200_000, detail="acme has a cap")
    waiting = dict(rows(state_of_call(parked, GRANT, 0, 0, [])))
    assert waiting["now"] == "parked until 2026-03-01 00:00 UTC at most"
    assert waiting["why at first"] == "acme has a cap"
    assert "paymaster calls show" in waiting["why now"]
    sending = state_of_call(None, GRANT, 1, 123_000, ["local/small"])
    assert "waits for openai/gpt; costs at most $1.50" in sending
    assert ["cost", "$0.000123"] in rows(sending)
    assert ["failed at", "local/small"] in rows(sending)
    short = GRANT.model_copy(update={"money_short": True})
    assert "waits for openai/gpt, because the money is short; costs" in state_of_call(None, short, 1, 0, [])


def test_the_ledger_shows_the_fullest_windows_parked_calls_and_what_is_wrong_with_services() -> None:
    half = AccountStatus(
        account="budget:half", parked=1, windows=(window("day", 100, 40, 10), window("total", None, 5))
    )
    over = AccountStatus(account="service:over", parked=0, windows=(window("hour", 10, 11),))
    blocked = AccountStatus(account="budget:zero", parked=0, windows=(window("day", 0, 0),))
    waiting = WaitingCall(workflow_id="call/1", budget="half", parked_at_ms=0, deadline_at_ms=0, detail=HOSTILE)
    shown = ledger_details(
        status(
            accounts=(half, over, blocked),
            waiting=(waiting,),
            services=(
                service("ok"),
                service("down", "open"),
                service("held", by="ada: bill"),
                service("l", until_ms=1),
            ),
        )
    )
    table = rows(shown)
    assert [row[:3] for row in table[1:5]] == [
        ["service:over", "hour", "██████████ 110%"],
        ["budget:zero", "day", "██████████ 100%"],
        ["budget:half", "day", "█████░░░░░ 50%"],
        ["budget:half", "total", "$0.000000005"],
    ]
    assert "**2** in flight, **1** parked, **4** unconfirmed" in shown
    assert table[6][:3] == ["call/1", "half", "1970-01-01 00:00 UTC"]
    assert shown.count("```") == 6, "what it waits for stays in its block"
    assert [row[1] for row in table[8:]] == [
        "open for calls",
        "breaker open, 3 failures in a row",
        "paused by ada: bill",
        "paused until 1970-01-01 00:00 UTC",
    ]


def test_the_columns_of_a_table_line_up() -> None:
    """The UI shows blocks of code as they are, a `$` too."""
    accounts = [
        AccountStatus(account=name, parked=0, windows=(window("day", 10**cap, 1),))
        for name, cap in (("budget:a", 9), ("budget:acme/content", 12))
    ]
    block = ledger_details(status(accounts=tuple(accounts))).split("```")[1].strip().splitlines()
    assert {line.index("day") for line in block[1:]} == {block[0].index("window")}
    assert [line[block[0].index("cap") :].split()[0] for line in block[1:]] == ["$1.00", "$1,000.00"]


def test_the_ledgers_details_stay_short_with_thousands_of_accounts_and_huge_numbers() -> None:
    many = tuple(
        AccountStatus(account=f"budget:{n}", parked=0, windows=(window("day", 1, NANOS_MAX),)) for n in range(1_000)
    )
    shown = ledger_details(status(accounts=many))
    assert len(shown) < 20_000
    assert "There are more" in shown
    assert "budget" in ledger_details(status()) or "account" in ledger_details(status())


def test_attributes_are_what_a_server_can_keep() -> None:
    updates = {
        update.key.name: update.value
        for update in call_attributes("b" * 300, "completed", GRANT, 100_000_001, "pr-17/critic")
    }
    assert updates == {
        BUDGET.name: "b" * 255,
        OUTCOME.name: "completed",
        COST_USD.name: 0.100000001,
        SERVICE.name: "openai",
        MODEL.name: "gpt",
        RUN.name: "pr-17/critic",
    }
    assert {update.key.name for update in call_attributes("b", "denied", None, 0, None)} == {
        BUDGET.name,
        OUTCOME.name,
        COST_USD.name,
    }
    hostile = call_attributes("a\x00\ud800b", "denied", None, NANOS_MAX, None)
    assert hostile[0].value == "a\ufffd\ufffdb"


@pytest.mark.parametrize("cost_nanos", [0, NANOS_MAX])
def test_a_cost_is_a_number(cost_nanos: int) -> None:
    assert call_attributes("b", "denied", None, cost_nanos, None)[2].value == cost_nanos / 1e9
