"""What budgets say of runs, in the configuration file."""

from pathlib import Path

import pytest

from paymaster.admission.configuration import differences
from paymaster.admission.signed_commands import changes_money
from paymaster.messages import DeskConfig, RunawayTerms, RunTerms
from paymaster.settings import ConfigurationError, load_settings
from paymaster.settings.desk_config import desk_config

FILE = """
[budgets."acme/agents"]
per_run = { usd = "2.00", calls = 200, lasts = "2h" }
runaway = { identical_calls = 10, calls_per_minute = 60, usd_per_minute = "0.50" }
"""


def configured(folder: Path, text: str) -> DeskConfig:
    (folder / "paymaster.toml").write_text(text)
    return desk_config(load_settings(folder / "paymaster.toml"))


def test_a_budget_limits_its_runs(tmp_path: Path) -> None:
    budget = configured(tmp_path, FILE).budgets["acme/agents"]
    assert budget.per_run == RunTerms(usd_nanos=2_000_000_000, calls=200, lasts_ms=7_200_000)
    assert budget.runaway == RunawayTerms(identical_calls=10, calls_per_minute=60, usd_nanos_per_minute=500_000_000)


@pytest.mark.parametrize("table", ["per_run", "runaway"])
def test_a_table_that_limits_nothing_says_what_to_name(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigurationError, match="is set; set one, or take this out"):
        configured(tmp_path, f'[budgets."acme/agents"]\n{table} = {{}}')


def test_a_change_is_told_in_words_and_has_to_be_signed(tmp_path: Path) -> None:
    before, after = configured(tmp_path, '[budgets."acme/agents"]\n'), configured(tmp_path, FILE)
    assert changes_money(before, after)
    assert [each.text for each in differences(before, after)] == [
        "acme/agents per run no limit → $2.00, 200 calls, 2h",
        "acme/agents runaway no limit → identical_calls 10, calls_per_minute 60, usd_per_minute $0.50",
    ]
