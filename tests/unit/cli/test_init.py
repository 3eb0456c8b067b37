"""`paymaster init` and `paymaster config check`: a first configuration, and what is wrong in one."""

import ast
import json
from pathlib import Path

import pytest
from command_line import NOWHERE, Run, assert_ends_with_advice
from own_server import MODEL, own_server

from paymaster.settings import load_settings

KEY = "sk-test-0123456789abcdef"
NO_KEYS = dict.fromkeys(
    ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AZURE_OPENAI_API_KEY"), ""
)
AZURE = {
    "AZURE_OPENAI_API_KEY": KEY,
    "AZURE_OPENAI_ENDPOINT": "https://ours.openai.azure.com/",
    "AZURE_OPENAI_DEPLOYMENT": "gpt-5-mini",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one."""
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "candidates"),
    [
        ({}, ["local/smollm2-135m"]),
        ({"OPENAI_API_KEY": KEY}, ["openai/gpt-5.6-luna"]),
        ({"ANTHROPIC_API_KEY": KEY, "GEMINI_API_KEY": KEY}, ["anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash"]),
        (AZURE, ["azure/gpt-5-mini"]),
    ],
)
def test_the_file_is_for_the_keys_that_are_here(
    run: Run, folder: Path, environment: dict[str, str], candidates: list[str]
) -> None:
    written = run("init", **{**NO_KEYS, **environment})
    assert written.returncode == 0, written.stderr
    settings = load_settings(folder / "paymaster.toml", environ={})
    assert list(settings.routes["writer"].names) == candidates
    assert settings.budgets["dev"].cap_usd == {"day": 5_000_000_000}
    checked = run("config", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    everything = written.stdout + written.stderr + "".join(file.read_text() for file in folder.iterdir())
    assert KEY not in everything


def test_without_a_key_the_variables_are_named(run: Run) -> None:
    said = run("init", **NO_KEYS).stderr
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", *AZURE):
        assert variable in said


@pytest.mark.parametrize(("price", "is_said"), [("0,0", True), ("0.0,0", True), ("0,0.1", False), ("1,2", False)])
def test_that_no_cap_holds_free_calls_is_said(run: Run, folder: Path, price: str, is_said: bool) -> None:
    server = ("--base-url", "https://llm.invalid/v1", "--model", "ours", "--price", price)
    said = run("init", *server, **NO_KEYS).stderr
    assert ("calls of own/ours cost nothing, so no cap ever holds one: give --price" in said) is is_said
    assert ("no cap ever holds its calls" in (folder / "paymaster.toml").read_text()) is is_said


def test_what_azure_lacks_is_named(run: Run) -> None:
    said = run("init", **{**NO_KEYS, "AZURE_OPENAI_API_KEY": KEY}).stderr
    assert "with AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT too" in said
    unpriced = run("init", "--force", **{**NO_KEYS, **AZURE, "AZURE_OPENAI_DEPLOYMENT": "ours"}).stderr
    assert "no price is known of the deployment ours" in unpriced


@pytest.mark.parametrize("there", ["paymaster.toml", "my_agent.py"])
def test_nothing_is_replaced_without_force(run: Run, folder: Path, there: str) -> None:
    (folder / there).write_text("# mine\n")
    assert_ends_with_advice(run("init", **NO_KEYS), 2, there, "--force")
    assert [file.name for file in folder.iterdir()] == [there]
    assert (folder / there).read_text() == "# mine\n"
    assert run("init", "--force", **NO_KEYS).returncode == 0
    assert (folder / there).read_text() != "# mine\n"


def test_no_key_is_written_or_printed(run: Run, folder: Path) -> None:
    """Also where it stands in the endpoint, or is taken for the name of a model."""
    credentials = {"AZURE_OPENAI_ENDPOINT": f"https://ours:{KEY}@ours.openai.azure.com"}
    for environment in (credentials, {"AZURE_OPENAI_ENDPOINT": f"https://ours.openai.azure.com/?api-key={KEY}"}):
        refused = run("init", **{**NO_KEYS, **AZURE, **environment})
        assert_ends_with_advice(refused, 2, "services.azure.base_url: the URL h")
        assert KEY not in refused.stdout + refused.stderr
    asked = ("init", "--base-url", f"http://{NOWHERE}/v1", "--model", KEY)
    refused = run(*asked, **{**NO_KEYS, "OPENAI_API_KEY": KEY})
    assert_ends_with_advice(refused, 2, "a key would be in the file")
    assert KEY not in refused.stdout + refused.stderr
    assert list(folder.iterdir()) == []


def test_a_link_is_not_written_through(run: Run, folder: Path) -> None:
    (folder / "paymaster.toml").symlink_to(folder / "elsewhere.toml")
    assert_ends_with_advice(run("init", **NO_KEYS), 2, "paymaster.toml is here already")
    assert [file.name for file in folder.iterdir()] == ["paymaster.toml"]


def test_what_cannot_be_written_is_said(run: Run, folder: Path) -> None:
    (folder / "paymaster.toml").mkdir()
    refused = run("init", "--force", **{**NO_KEYS, "OPENAI_API_KEY": KEY})
    assert_ends_with_advice(refused, 2, "paymaster.toml cannot be written: Is a directory")


def test_the_agent_names_what_the_file_has(run: Run, folder: Path) -> None:
    run("init", **NO_KEYS)
    program = (folder / "my_agent.py").read_text()
    ast.parse(program)
    settings = load_settings(folder / "paymaster.toml", environ={})
    assert 'BUDGET = "dev/my-agent"' in program
    assert "dev" in settings.budgets
    assert 'route="writer"' in program
    assert "writer" in settings.routes


# ---------------------------------------------------------------- a server of one's own


def test_a_server_of_ones_own_is_asked_for_its_model(run: Run, folder: Path) -> None:
    with own_server() as url:
        written = run("init", **{**NO_KEYS, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY})
    assert written.returncode == 0, written.stderr
    settings = load_settings(folder / "paymaster.toml", environ={})
    assert list(settings.routes["writer"].names) == [f"own/{MODEL}"]
    assert settings.services["own"].base_url == url
    assert settings.services["own"].key == "openai-api-key"
    assert run("config", "check").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--base-url", f"http://{NOWHERE}/v1"], "name one with --model"),
        (["--base-url", "https://llm.invalid/v1", "--model", "ours"], 'give --price, "0,0" if it costs nothing'),
        (["--base-url", "https://llm.invalid/v1", "--model", "ours", "--price", "1"], 'write two amounts, "0.20,1.20"'),
        (["--base-url", "https://llm.invalid/v1", "--model", "ours", "--price", "a,b"], "services.own.models"),
        (["--base-url", "http://llm.invalid/v1", "--model", "ours", "--price", "1,2"], "allow_http"),
        (["--model", "ours"], "--base-url"),
    ],
)
def test_a_server_that_cannot_be_used_is_not_written(run: Run, folder: Path, arguments: list[str], advice: str) -> None:
    assert_ends_with_advice(run("init", *arguments, **NO_KEYS), 2, advice)
    assert not list(folder.iterdir())


# ---------------------------------------------------------------- config check

WRONG = """
[services.own]
api = "openapi"
base_url = "ftp://llm.invalid"
[routes]
writer = ["oven/ours"]
[budgets.acme]
cap_usd = { fortnight = "5" }
"""
UNUSABLE = """
[services.own]
api = "openai"
base_url = "https://llm.invalid/v1"
ca_bundle = "/nowhere.pem"
[routes]
writer = ["own/ours"]
"""


def test_check_says_all_that_is_wrong_at_once(run: Run, folder: Path) -> None:
    (folder / "wrong.toml").write_text(WRONG)
    checked = run("config", "check", "wrong.toml")
    assert (checked.returncode, checked.stderr) == (1, "")
    for place in ("services.own.api", "services.own.base_url", "budgets.acme.cap_usd", "routes.writer"):
        assert f"wrong.toml: {place}" in checked.stdout


def test_check_finds_what_cannot_be_used(run: Run, folder: Path) -> None:
    (folder / "paymaster.toml").write_text(UNUSABLE)
    checked = run("config", "check", "--json")
    assert checked.returncode == 1
    found = json.loads(checked.stdout)
    assert (found["file"], found["ok"]) == ("paymaster.toml", False)
    for name in ("authorities of own", "price own/ours", "budgets"):
        assert any(problem.startswith(f"{name}: ") for problem in found["problems"]), found


def test_check_names_the_model_that_was_meant(run: Run, folder: Path) -> None:
    priced = 'models."ours-1" = { price = { input = "1", output = "4" } }\n[routes]\nwriter = ["own/ours-2"]\n'
    (folder / "paymaster.toml").write_text(
        '[services.own]\napi = "openai"\nbase_url = "http://127.0.0.1:1/v1"\n' + priced
    )
    checked = run("config", "check")
    assert checked.returncode == 1
    assert "did you mean ours-1?" in checked.stdout


def test_check_without_a_file_says_how_to_get_one(run: Run) -> None:
    assert_ends_with_advice(run("config", "check"), 2, "there is no paymaster.toml: `paymaster init` writes one")
