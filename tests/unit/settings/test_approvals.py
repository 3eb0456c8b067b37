"""The tables of approvers: read exactly, compiled for the desk, and refused in words where they make no sense."""

from typing import Any

import pytest
from pydantic import ValidationError

from paymaster.messages import ApproverConfig
from paymaster.messages.bounds import check_config
from paymaster.settings import Settings
from paymaster.settings.desk_config import desk_config

ADA: dict[str, Any] = {"budgets": ["acme"], "usd_per_raise": "5", "usd_per_day": "20"}
KEY = "A" * 43 + "="
SIGNING = {"public_key": KEY, "signing_key": "approver-ada"}


def settings(require_signature: bool = False, **approvals: dict[str, Any]) -> Settings:
    admin = {"require_signature": require_signature, "keys": {"alice": KEY}}
    return Settings.model_validate({"admin": admin, "approvals": approvals})


def test_the_desk_gets_who_may_raise_and_not_how_they_are_known() -> None:
    more = {"slack_users": ["U012AB3CD"], "offers_usd": ["1", "2.50"]}
    found = desk_config(settings(ada=ADA | SIGNING | more, bob=ADA))
    check_config(found)
    nanos = 10**9
    of_bob = ApproverConfig(
        budgets=("acme",), per_raise_nanos=5 * nanos, per_day_nanos=20 * nanos, offers_nanos=(5 * nanos,)
    )
    of_ada = of_bob.model_copy(update={"offers_nanos": (nanos, 2_500_000_000), "key": KEY})
    assert found.approvers == {"ada": of_ada, "bob": of_bob}
    assert "approvers" not in desk_config(settings()).model_dump_json()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"budgets": []}, "budgets"),
        ({"budgets": ["acme/*"]}, "budgets"),
        ({"usd_per_raise": "21"}, "not more than usd_per_day"),
        ({"usd_per_raise": "0"}, "more than 0"),
        ({"usd_per_raise": 0.5}, "usd_per_raise"),
        ({"offers_usd": ["5.01"]}, "at most \\$5.00 a raise"),
        ({"offers_usd": ["1"] * 6}, "offers_usd"),
        ({"slack_users": ["ada"]}, "slack_users"),
        ({"public_key": KEY}, "belong together"),
    ],
    ids=str,
)
def test_a_table_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(ada=ADA | wrong)


def test_a_slack_user_presses_in_one_name() -> None:
    with pytest.raises(ValidationError, match="U012AB3CD is in the tables of several approvers"):
        settings(ada=ADA | {"slack_users": ["U012AB3CD"]}, bob=ADA | {"slack_users": ["U012AB3CD"]})


def test_where_signatures_are_required_each_approver_signs() -> None:
    with pytest.raises(ValidationError, match="nobody signs for this approver"):
        settings(require_signature=True, ada=ADA)
    settings(require_signature=True, ada=ADA | SIGNING)
