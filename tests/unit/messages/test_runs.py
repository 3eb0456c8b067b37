"""What a run may cost: as it is written, as the desk reads it, and what makes no sense."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from call_messages import GRANT, RESERVE
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paymaster.messages import AccountConfig, DeskConfig, LLMRequest, RunLimits, RunPart, RunTerms
from paymaster.messages.bounds import check_command, check_config, check_grant
from paymaster.values.money import NANOS_MAX, nanos_to_usd

LIMITS = RunLimits(usd="0.50")


def request(**fields: Any) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "prompt": "Hello"} | fields)


def test_limits_are_read_as_they_are_written() -> None:
    assert LIMITS.terms() == RunTerms(usd_nanos=500_000_000)
    assert RunLimits(calls=20, lasts="2h").terms() == RunTerms(calls=20, lasts_ms=7_200_000)
    assert RunLimits(usd=Decimal(2), lasts=timedelta(seconds=1)).terms() == RunTerms(
        usd_nanos=2 * 10**9, lasts_ms=1_000
    )


@given(
    nanos=st.none() | st.integers(0, NANOS_MAX),
    calls=st.integers(1, 10**18),
    lasts=st.none() | st.integers(1, 366 * 86_400_000),
)
def test_a_request_with_limits_comes_back_from_json(nanos: int | None, calls: int, lasts: int | None) -> None:
    limits = RunLimits(
        usd=None if nanos is None else nanos_to_usd(nanos),
        calls=calls,
        lasts=None if lasts is None else timedelta(milliseconds=lasts),
    )
    asked = request(run="pr-17", run_limits=limits, run_parts=(RunPart(name="researcher", limits=limits),))
    again = LLMRequest.model_validate_json(asked.model_dump_json())
    assert again == asked
    assert again.run_parts[0].limits.terms() == RunTerms(usd_nanos=nanos, calls=calls, lasts_ms=lasts)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({}, "name usd, calls or lasts"),
        ({"usd": 0.5}, "not exact"),
        ({"usd": "-1"}, "negative"),
        ({"usd": "1", "call": 5}, "call"),
        ({"calls": 0}, "calls"),
        ({"lasts": "2 hours"}, "not a duration"),
        ({"lasts": "1000d"}, "out of range"),
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        RunLimits.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": ""},
        {"run": "a/b"},
        {"run": "x" * 201},
        {"run": "x" * 200, "run_parts": [{"name": "a", "limits": {"calls": 1}}]},
        {"run_parts": [{"name": "a b", "limits": {"calls": 1}}]},
        {"run_parts": [{"name": "a", "limits": {"calls": 1}}] * 16},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_run_that_cannot_be_named_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="run"):
        request(**wrong)


def test_another_run_asks_for_the_same_thing() -> None:
    """So that a call id gives the stored answer to it too."""
    named = request(run="pr-17", run_limits=LIMITS, run_parts=(RunPart(name="researcher", limits=LIMITS),))
    assert named.digest() == request().digest()


@pytest.mark.parametrize(
    ("forged", "problem"),
    [
        ({"run": "a b"}, "run"),
        ({"run_terms": (None,)}, "run_terms"),
        ({"run": "a", "run_terms": (None, None)}, "run_terms"),
        ({"run": "a", "run_terms": (RunTerms(usd_nanos=-1),)}, "usd_nanos"),
        ({"run": "a", "run_terms": (RunTerms(calls=10**19),)}, "calls"),
        ({"run": "a", "run_terms": (RunTerms(lasts_ms=0),)}, "lasts_ms"),
    ],
    ids=str,
)
def test_a_reserve_with_a_forged_run_is_refused(forged: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_command(RESERVE.model_copy(update=forged))


def test_other_messages_with_a_forged_run_are_refused_too() -> None:
    check_command(RESERVE.model_copy(update={"run": "a/b", "run_terms": (None, RunTerms(usd_nanos=0))}))
    with pytest.raises(ValueError, match="run"):
        check_grant(GRANT.model_copy(update={"run": "a//b"}))
    config = DeskConfig(digest="d", budgets={"acme": AccountConfig(per_run=RunTerms(calls=-1))})
    with pytest.raises(ValueError, match="budget acme: per_run: calls"):
        check_config(config)
