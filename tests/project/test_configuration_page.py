"""docs/configuration.md and the JSON schema are what the settings say, and say it of every key."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from paymaster_process import PAYMASTER, ROOT
from pydantic import BaseModel

from paymaster.settings import Settings

PAGE = ROOT / "docs" / "configuration.md"


SCHEMA = ROOT / "paymaster" / "settings" / "paymaster.schema.json"


@pytest.mark.parametrize(("command", "file"), [("docs", PAGE), ("schema", SCHEMA)])
def test_page_and_schema_are_current(command: str, file: Path) -> None:
    printed = subprocess.run([PAYMASTER, "config", command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert file.read_text() == printed.stdout, "run: make settings"


def keys(table: type[BaseModel]) -> Iterator[str]:
    for name, field in table.model_fields.items():
        if table is not Settings:
            yield field.alias or name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind)


def test_every_key_is_on_the_page_with_what_it_means() -> None:
    page = PAGE.read_text()
    for name in keys(Settings):
        begins = tuple(f"- `{name}`{kind}:" for kind in ("", " (table)", " (tables)"))
        lines = [line for line in page.splitlines() if line.startswith(begins)]
        assert lines, name
        for line in lines:
            assert len(line.partition(": ")[2]) > 20, line
    for name in Settings.model_fields:
        assert f"[{name}" in page, name


def test_every_key_is_explained_in_the_schema() -> None:
    document = json.loads(SCHEMA.read_text())
    for table, definition in document["definitions"].items():
        assert len(definition["description"]) > 10, table
        for name, key in definition["properties"].items():
            assert len(key["description"]) > 20, (table, name)
