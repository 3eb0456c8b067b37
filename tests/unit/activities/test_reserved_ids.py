"""Under which ids a hold is asked of the ledger: not under those of others, and not again under one that is paid."""

import asyncio
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.reserve import ReserveActivities
from paymaster.messages import CallRef, Denied, Reserve, ReserveRequest
from paymaster.settings import Settings


class Ledger:
    """Says of each question that it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def submit(self, command: Reserve) -> Denied:
        self.asked.append(command.call.workflow_id)
        return Denied(hold_id=command.hold_id, reason="asked", detail="")


class Used:
    """Stands for ids that were all used before."""

    def __init__(self) -> None:
        self.looked_up: list[str] = []

    async def was_used(self, call: CallRef) -> bool:
        self.looked_up.append(call.workflow_id)
        return True


def settings() -> Settings:
    service = {"api": "openai", "base_url": "https://api.openai.com/v1"}
    return Settings.model_validate({"services": {"openai": service}, "routes": {"writer": ["openai/gpt-5"]}})


def answer_to(workflow_id: str, used: Used, *, buys: bool, may_be_reused: bool = False) -> Denied:
    """What the workflow gets, after the ledger was asked for nothing but what it answers."""
    ledger, nobody = Ledger(), None
    request = ReserveRequest(
        hold_id="run/1",
        call=CallRef(workflow_id=workflow_id, run_id="run"),
        route="search" if buys else "writer",
        budget="acme",
        input_bytes=0,
        max_output_tokens=None,
        on_exhausted=None,
        wait_at_most_ms=None,
        started_at_ms=0,
        asked_at_ms=0,
        priority=0,
        may_be_reused=may_be_reused,
        up_to_nanos=5 if buys else None,
    )
    stand_ins: tuple[Any, ...] = (ledger, nobody, nobody, used)
    reserve = ReserveActivities(settings(), *stand_ins).reserve
    answer = asyncio.run(ActivityEnvironment().run(reserve, request)).answer
    assert isinstance(answer, Denied)
    assert ledger.asked == ([workflow_id] if answer.reason == "asked" else [])
    return answer


@pytest.mark.parametrize(("workflow_id", "buys"), [("call/one", False), ("purchase/one~g2", True)])
def test_what_was_paid_for_is_not_asked_of_the_ledger(workflow_id: str, *, buys: bool) -> None:
    used = Used()
    denied = answer_to(workflow_id, used, buys=buys, may_be_reused=True)
    assert denied.reason == "call_id_reused"
    assert ("'purchase/one' was paid for before" if buys else "call id 'one' was used before") in denied.detail
    assert used.looked_up == [workflow_id]


@pytest.mark.parametrize(("workflow_id", "buys"), [("call/one", False), ("purchase@acme/one", True)])
def test_an_id_that_is_new_is_not_looked_up(workflow_id: str, *, buys: bool) -> None:
    used = Used()
    assert answer_to(workflow_id, used, buys=buys).reason == "asked"
    assert used.looked_up == []


@pytest.mark.parametrize("workflow_id", ["call/purchase/one", "call@acme/purchase/one~g2", "purchase/one"])
def test_no_call_has_the_rows_of_a_purchase(workflow_id: str) -> None:
    """However it was started, and whatever it says of its id."""
    denied = answer_to(workflow_id, Used(), buys=False)
    assert denied.reason == "bad_call_id"
    assert "call id 'purchase/one' begins as those of purchases do" in denied.detail


@pytest.mark.parametrize("workflow_id", ["call/one", "one", "purchases/one"])
def test_no_purchase_has_the_rows_of_a_call(workflow_id: str) -> None:
    denied = answer_to(workflow_id, Used(), buys=True)
    assert denied.reason == "bad_call_id"
    assert "has to begin with 'purchase/'" in denied.detail
