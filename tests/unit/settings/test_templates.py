"""Templates in the configuration file."""

from pathlib import Path

import pytest

from paymaster.settings import ConfigurationError, load_settings
from paymaster.settings.desk_config import desk_config

FILE = """
[budgets."acme/users/*"]
cap_usd = { day = "1" }
[budgets."acme/loud/*"]
cap_usd = { day = "1" }
alert_at = [0.8]
[budgets."*"]
max_concurrent = 3
"""


def configured(folder: Path, text: str) -> Path:
    (folder / "paymaster.toml").write_text(text)
    return folder / "paymaster.toml"


def test_a_template_is_a_table_of_budgets(tmp_path: Path) -> None:
    budgets = desk_config(load_settings(configured(tmp_path, FILE))).budgets
    assert budgets["acme/users/*"].caps_nanos == {"day": 1_000_000_000}
    assert budgets["*"].max_concurrent == 3


def test_its_thresholds_are_told_only_where_it_names_them(tmp_path: Path) -> None:
    budgets = desk_config(load_settings(configured(tmp_path, FILE))).budgets
    assert {path: budget.alert_at for path, budget in budgets.items()} == {
        "*": (),
        "acme/loud/*": (0.8,),
        "acme/users/*": (),
    }


def test_the_star_is_a_whole_last_segment(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"acme/\*/chat"):
        load_settings(configured(tmp_path, '[budgets."acme/*/chat"]'))
