"""Numbers and names that nobody can mean are refused at the door, with the field; what a configuration says is not."""

from collections.abc import Callable
from typing import Any

import pytest
from call_messages import CALL, GRANT, RESERVE
from records import ATTEMPT, PRICE, record

from paymaster.messages import (
    AccountConfig,
    AdminConfig,
    AttemptReport,
    Candidate,
    CommandBatch,
    DeskConfig,
    RetrySettings,
    ServiceConfig,
    Settle,
    StoredRows,
    Void,
)
from paymaster.messages.bounds import (
    check_batch,
    check_command,
    check_config,
    check_foreseen,
    check_grant,
    check_record,
    check_report,
    check_stored_rows,
    check_unusual,
)
from paymaster.messages.spending import Foreseen, SpentOn, Unusual
from paymaster.settings import Settings
from paymaster.settings.desk_config import desk_config
from paymaster.values.cost_lines import CostLine
from paymaster.values.limits import (
    BATCH_ITEMS_MAX,
    CANDIDATES_MAX,
    COST_LINES_MAX,
    COUNT_MAX,
    DURATION_MS_MAX,
    NAME_CHARACTERS_MAX,
    SERVICES_MAX,
    TIME_MS_MAX,
)
from paymaster.values.money import NANOS_MAX, PriceTier

SENSELESS = (-(10**15), 10**18 + 1, 10**400, -1)
CONFIG = DeskConfig(digest="d", budgets={"acme": AccountConfig()}, services={"openai": ServiceConfig()})


def service(**fields: Any) -> DeskConfig:
    return CONFIG.model_copy(update={"services": {"openai": ServiceConfig(**fields)}})


def budget(**fields: Any) -> DeskConfig:
    return CONFIG.model_copy(update={"budgets": {"acme": AccountConfig(**fields)}})


def retry(**fields: Any) -> DeskConfig:
    return service(retry=RetrySettings(**fields))


def config(**fields: Any) -> DeskConfig:
    return CONFIG.model_copy(update=fields)


@pytest.mark.parametrize("value", SENSELESS)
@pytest.mark.parametrize(
    ("build", "field"),
    [
        (config, "hold_expires_after_ms"),
        (config, "max_parked"),
        (budget, "requests_per_minute"),
        (budget, "tokens_per_minute"),
        (budget, "max_concurrent"),
        (service, "breaker_failures"),
        (service, "breaker_cooldown_ms"),
        (service, "timeout_ms"),
        (service, "max_retry_after_ms"),
        (service, "max_unconfirmed"),
        (retry, "initial_interval_ms"),
        (retry, "maximum_interval_ms"),
        (retry, "maximum_attempts"),
    ],
)
def test_a_number_of_a_configuration_that_makes_no_sense_is_refused(
    build: Callable[..., DeskConfig], field: str, value: int
) -> None:
    with pytest.raises(ValueError, match=field):
        check_config(build(**{field: value}))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (budget(caps_nanos={"day": -1}), "budget acme: cap of the day"),
        (budget(caps_nanos={"day": NANOS_MAX + 1}), "cap of the day"),
        (budget(alert_at=(float("nan"),)), "alert_at"),
        (budget(alert_at=(0.5,) * (SERVICES_MAX + 1)), "alert_at"),
        (retry(backoff_coefficient=float("inf")), "backoff_coefficient"),
        (config(digest="d" * 1_000), "digest"),
        (config(budgets={"a" * 10_000: AccountConfig()}), "path"),
        (config(services={"a" * 10_000: ServiceConfig()}), "name"),
        (config(services={str(n): ServiceConfig() for n in range(SERVICES_MAX + 1)}), "services"),
        (config(admin=AdminConfig(keys={"ada": "k" * 10_000})), "key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_of_a_configuration_too(wrong: DeskConfig, field: str) -> None:
    with pytest.raises(ValueError, match=field) as refused:
        check_config(wrong)
    assert len(str(refused.value)) < 500


def test_what_a_configuration_file_can_say_is_within() -> None:
    """The longest durations and the largest numbers."""
    check_config(desk_config(Settings()))
    settings = Settings.model_validate(
        {
            "ledger": {"hold_expires_after": "366d", "max_parked": 10**15, "wait_at_most": "366d"},
            "services": {
                "a": {
                    "api": "openai",
                    "base_url": "https://api.example.com/v1",
                    "key": "a-key",
                    "timeout": "1d",
                    "max_retry_after": "1d",
                    "max_unconfirmed": 100,
                    "requests_per_minute": 10**15,
                    "retry": {"maximum_attempts": 100, "backoff_coefficient": 100, "initial_interval": "1ms"},
                    "breaker": {"failures": 10**15, "cooldown": "366d"},
                }
            },
            "budgets": {"b" * 200: {"cap_usd": {"day": "99999999999.999999999"}, "alert_at": [1.0]}},
        }
    )
    check_config(desk_config(settings))


COMMANDS: list[tuple[Any, str]] = [
    (RESERVE.model_copy(update={"hold_id": "h" * 1_000}), "hold_id"),
    (RESERVE.model_copy(update={"deadline_at_ms": 10**18}), "deadline_at_ms"),
    (RESERVE.model_copy(update={"asked_at_ms": -(10**15)}), "asked_at_ms"),
    (RESERVE.model_copy(update={"priority": 10**9}), "priority"),
    (RESERVE.model_copy(update={"input_bytes": -1}), "input_bytes"),
    (RESERVE.model_copy(update={"budget": "b" * 10_000}), "budget"),
    (RESERVE.model_copy(update={"call": CALL.model_copy(update={"workflow_id": "w" * 10_000})}), "workflow_id"),
    (RESERVE.model_copy(update={"candidates": RESERVE.candidates * 2_000}), "candidates"),
    (
        RESERVE.model_copy(
            update={"candidates": (Candidate(service="a", model="m", max_output_tokens=-5, price=PRICE),)}
        ),
        "max_output_tokens",
    ),
    (
        RESERVE.model_copy(
            update={
                "candidates": (
                    Candidate(
                        service="a",
                        model="m",
                        max_output_tokens=5,
                        price=PRICE.model_copy(update={"input_nanos": -1}),
                    ),
                )
            }
        ),
        "input_nanos",
    ),
    (Settle(hold_id="h", cost_nanos=10**60), "cost_nanos"),
    (Settle(hold_id="h", cost_nanos=1, tokens=-(10**15)), "tokens"),
    (Settle(hold_id="h", cost_nanos=1, failures=10**20), "failures"),
    (Settle(hold_id="h", cost_nanos=1, epoch="e" * 1_000), "epoch"),
    (Void(hold_id="h" * 1_000_000), "hold_id"),
]


@pytest.mark.parametrize(("command", "field"), COMMANDS, ids=[f"{command.kind} {field}" for command, field in COMMANDS])
def test_a_command_that_makes_no_sense_is_refused_with_the_field(command: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field) as refused:
        check_command(command)
    assert len(str(refused.value)) < 500


def test_a_route_with_too_many_candidates_is_refused_in_words() -> None:
    """Fifty of a long name, and of a price with tiers as the longest known one has, are within."""
    tier = PriceTier(input_nanos=10**12, output_nanos=10**12, cached_input_nanos=10**11, above_input_tokens=200_000)
    price = PRICE.model_copy(update={"tiers": (tier, tier), "source": "the configuration of this worker"})
    one = Candidate(service="s" * 64, model="m" * 100, max_output_tokens=100_000, price=price, context_tokens=10**6)
    check_command(RESERVE.model_copy(update={"candidates": (one,) * 50}))
    with pytest.raises(ValueError, match=r"the number of candidates is 51 and may be from 0 to 50"):
        check_command(RESERVE.model_copy(update={"candidates": (one,) * 51}))
    long = one.model_copy(update={"refused": "b" * 500, "price": price.model_copy(update={"tiers": (tier,) * 20})})
    with pytest.raises(ValueError, match=r"its 50 candidates, has 1.* may have 65,536: give its route fewer"):
        check_command(RESERVE.model_copy(update={"candidates": (long,) * 50}))


def test_an_update_of_too_many_candidates_is_refused_in_words() -> None:
    """What our own senders make is within: so many calls, each with so many candidates."""
    ours = RESERVE.model_copy(update={"candidates": RESERVE.candidates[:1] * CANDIDATES_MAX})
    check_batch(CommandBatch(commands=(ours,) * BATCH_ITEMS_MAX))
    with pytest.raises(ValueError, match=r"10001 candidates .* may be 10000: send them in several"):
        check_batch(CommandBatch(commands=(ours,) * BATCH_ITEMS_MAX + (RESERVE,)))
    with pytest.raises(ValueError, match=r"1001 commands .* may be 1000: send them in several"):
        check_batch(CommandBatch(commands=(Void(hold_id="h"),) * 1_001))


def test_commands_as_they_are_sent_are_within() -> None:
    check_command(RESERVE)
    check_command(Settle(hold_id="h", cost_nanos=NANOS_MAX, tokens=COUNT_MAX, confirmed=False))
    check_command(Void(hold_id="run-1/1"))
    check_grant(GRANT)
    check_report(AttemptReport(hold_id="", service="openai", pause_ms=DURATION_MS_MAX))


@pytest.mark.parametrize("pause_ms", SENSELESS)
def test_a_reported_pause_that_makes_no_sense_is_refused(pause_ms: int) -> None:
    with pytest.raises(ValueError, match="pause_ms"):
        check_report(AttemptReport(hold_id="", service="openai", pause_ms=pause_ms))


@pytest.mark.parametrize("at_ms", SENSELESS)
def test_what_is_foreseen_or_unusual_has_bounds(at_ms: int) -> None:
    with pytest.raises(ValueError, match="used_up_at_ms"):
        check_foreseen(Foreseen(account="budget:a", window="day", used_up_at_ms=at_ms, by_pattern=False))
    fine = Unusual(account="budget:a", nanos=NANOS_MAX, usual_nanos=0)
    check_unusual(fine)
    part = SpentOn(what="run", name="r" * (NAME_CHARACTERS_MAX + 1), nanos=1)
    for change in ({"nanos": -1}, {"usual_nanos": -1}, {"account": part.name}, {"spent_on": (part,)}):
        with pytest.raises(ValueError, match="may"):
            check_unusual(fine.model_copy(update=change))


@pytest.mark.parametrize(
    "forged",
    [
        {"timeout_ms": 10**18},
        {"timeout_ms": -(10**15)},
        {"expires_at_ms": 10**18},
        {"expires_at_ms": -(10**15)},
        {"granted_at_ms": TIME_MS_MAX + 1, "expires_at_ms": TIME_MS_MAX + 2},
        {"max_output_tokens": 0},
        {"retry": RetrySettings(maximum_interval_ms=10**18)},
    ],
    ids=str,
)
def test_a_forged_grant_is_refused(forged: dict[str, Any]) -> None:
    """A call would compute durations with it, and its task fail for ever."""
    with pytest.raises(ValueError, match="and may be from"):
        check_grant(GRANT.model_copy(update=forged))


@pytest.mark.parametrize("at_ms", [-1, 10**17, 10**400])
def test_no_time_of_rows_is_beyond_what_can_be_told(at_ms: int) -> None:
    with pytest.raises(ValueError, match="latest_granted_ms"):
        check_stored_rows(StoredRows(latest_granted_ms=at_ms))


@pytest.mark.parametrize(
    ("forged", "field"),
    [
        ({"quantity": -1}, "the quantity of a line"),
        ({"cost_nanos": 10**60}, "the cost of a line"),
        ({"unit_price_nanos": -1}, "unit_price_nanos"),
        ({"kind": "k" * 10_000}, "a name"),
        ({"model": "m" * 10_000}, "a name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_forged_line_of_a_cost_is_refused(forged: dict[str, Any], field: str) -> None:
    line = CostLine(kind="input", quantity=7, unit_price_nanos=1, cost_nanos=1, model="m")
    attempt = ATTEMPT.model_copy(update={"paid_for": (line,) * COST_LINES_MAX})
    check_record(record(1).model_copy(update={"attempts": (attempt,)}))
    attempt = attempt.model_copy(update={"paid_for": (line.model_copy(update=forged),)})
    with pytest.raises(ValueError, match=field):
        check_record(record(1).model_copy(update={"attempts": (attempt,)}))
    attempt = attempt.model_copy(update={"paid_for": (line,) * (COST_LINES_MAX + 1)})
    with pytest.raises(ValueError, match="the number of lines of a cost is 41 and may be from 0 to 40"):
        check_record(record(1).model_copy(update={"attempts": (attempt,)}))
