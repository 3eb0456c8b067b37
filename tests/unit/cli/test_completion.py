"""What a shell offers where an account is to be typed."""

from pathlib import Path

import pytest

from paymaster.cli.completion import accounts

FILE = """
[services.openai]
api = "openai"
base_url = "http://127.0.0.1:1/v1"
models."m" = { price = { input = "0", output = "0" } }

[routes]
writer = ["openai/m"]

[budgets."acme/content"]
[budgets."acme/users/*"]
"""


def test_budgets_and_services_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that begin so; without a configuration nothing, and no error in the middle of a line."""
    file = tmp_path / "paymaster.toml"
    monkeypatch.setenv("PAYMASTER_CONFIG", str(file))
    assert accounts("") == []
    file.write_text(FILE)
    assert accounts("") == ["acme/content", "service:openai"]
    assert accounts("acme/c") == ["acme/content"]
    assert accounts("x") == []
