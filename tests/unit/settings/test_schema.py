"""The JSON schema of `paymaster.toml` accepts what the settings accept, and refuses typical mistakes as they do."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, ValidationError
from paymaster_process import ROOT

from paymaster.settings import ConfigurationError, load_settings

SCHEMA: Any = json.loads(files("paymaster.settings").joinpath("paymaster.schema.json").read_text())
JUDGE = Draft7Validator(SCHEMA)

RIGHT = """
[services.openai]
api = "openai"
base_url = "https://api.openai.com/v1"
key = "openai-api-key"
timeout = "90s"
cap_usd = { day = "5.00", month = 100 }
[services.openai.models."gpt-5"]
max_output_tokens = 4096
price = { input = "0.20", output = "1.6" }
[routes]
writer = ["openai/gpt-5"]
[routes.careful]
candidates = [["openai/gpt-5", "openai/gpt-5-mini"], "openai/gpt-4"]
weights = { "openai/gpt-5" = 2 }
when_short = { below = 0.1, candidates = ["openai/gpt-5-nano"] }
[budgets."acme/content"]
cap_usd = { total = "0" }
alert_at = [0.5, 1]
"""

MISTAKES = {
    "unknown_table": ("[routes]", "[route]"),
    "unknown_key": ("timeout =", "time_out ="),
    "number_for_duration": ('timeout = "90s"', "timeout = 90"),
    "duration_without_unit": ('timeout = "90s"', 'timeout = "90"'),
    "duration_in_words": ('timeout = "90s"', 'timeout = "a minute"'),
    "float_for_money": ('day = "5.00"', "day = 5.1"),
    "money_with_sign": ('day = "5.00"', 'day = "$5"'),
    "negative_money": ('day = "5.00"', 'day = "-5"'),
    "unknown_window": ("day =", "year ="),
    "unknown_api": ('api = "openai"', 'api = "open-ai"'),
    "name_in_capitals": ("services.openai]", "services.OpenAI]"),
    "missing_address": ('base_url = "https://api.openai.com/v1"', ""),
    "space_in_key_name": ('"openai-api-key"', '"openai api key"'),
    "candidate_without_model": ('"openai/gpt-5"]', '"openai"]'),
    "text_for_route": ('writer = ["openai/gpt-5"]', 'writer = "openai/gpt-5"'),
    "list_in_a_pool": ('"openai/gpt-5-mini"]', '["openai/gpt-5-mini"]]'),
    "weight_of_nothing": ("= 2 }", "= 0 }"),
    "percent_below": ("below = 0.1", "below = 10"),
    "short_without_candidates": (', candidates = ["openai/gpt-5-nano"]', ""),
    "tokens_as_words": ("max_output_tokens = 4096", 'max_output_tokens = "many"'),
    "no_tokens": ("max_output_tokens = 4096", "max_output_tokens = 0"),
    "alert_above_one": ("[0.5, 1]", "[0.5, 80]"),
    "space_in_budget": ('budgets."acme/content"', 'budgets."acme content"'),
    "price_without_output": (', output = "1.6"', ""),
}


FILLED_IN = {"{ledger}": "demo", "{route}": '["local/smollm2-135m"]', "{cap}": "0.01"}
"""What paymaster/cli/demo.py fills into its configuration."""


def problems(text: str) -> list[ValidationError]:
    return list(JUDGE.iter_errors(tomllib.loads(text)))


def configurations() -> Iterator[Any]:
    for folder in ("paymaster/cli", "deploy", "tests/released/configurations"):
        for file in sorted((ROOT / folder).glob("*.toml")):
            text = file.read_text()
            for blank, value in FILLED_IN.items():
                text = text.replace(blank, value)
            yield pytest.param(text, id=f"{folder}/{file.name}")


def excerpts() -> Iterator[Any]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(blocks):
            if "[profile" not in block:  # Temporal's own file
                yield pytest.param(block, id=f"{page.name}-{number}")


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", list(configurations()))
def test_every_configuration_is_valid(text: str) -> None:
    assert not problems(text)


@pytest.mark.parametrize("text", list(excerpts()))
def test_every_excerpt_in_the_docs_is_valid(text: str) -> None:
    """But for what it leaves out."""
    assert not [error for error in problems(text) if error.validator != "required" and error.instance != "…"]


def test_a_right_file_passes_both(tmp_path: Path) -> None:
    file = tmp_path / "paymaster.toml"
    file.write_text(RIGHT)
    load_settings(file, environ={})
    assert not problems(RIGHT)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_both(mistake: str, tmp_path: Path) -> None:
    right, wrong = MISTAKES[mistake]
    assert RIGHT.count(right) == 1
    text = RIGHT.replace(right, wrong)
    file = tmp_path / "paymaster.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError):
        load_settings(file, environ={})
    assert problems(text)
