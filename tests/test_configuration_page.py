"""docs/configuration.md is what the settings say, and says it of every key."""

import subprocess
from collections.abc import Iterator
from typing import get_args

from paymaster_process import PAYMASTER, ROOT
from pydantic import BaseModel

from paymaster.settings import Settings

PAGE = ROOT / "docs" / "configuration.md"


def test_the_page_is_current() -> None:
    printed = subprocess.run([PAYMASTER, "config", "docs"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert PAGE.read_text() == printed.stdout, "run: paymaster config docs > docs/configuration.md"


def keys(table: type[BaseModel]) -> Iterator[str]:
    for name, field in table.model_fields.items():
        if table is not Settings:
            yield name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind)


def test_every_key_is_on_the_page_with_what_it_means() -> None:
    page = PAGE.read_text()
    for name in keys(Settings):
        lines = [line for line in page.splitlines() if line.startswith((f"- `{name}`:", f"- `{name}` (table):"))]
        assert lines, name
        for line in lines:
            assert len(line.partition(": ")[2]) > 20, line
    for name in Settings.model_fields:
        assert f"[{name}" in page, name
