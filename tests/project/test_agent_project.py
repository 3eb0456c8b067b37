"""docs/testing-agents.md, as a project of its own: the core of the wheel, the extra `testing`, and nothing else."""

import json
import re
import sysconfig
from pathlib import Path

import pytest
from page_snippets import snippets
from wheel import build_wheel, install, outcome

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def python(module_folder: Path) -> Path:
    return await install(module_folder, await build_wheel(module_folder), "[testing]")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of the page: each of its snippets begins with its name."""
    for name, content in snippets("testing-agents.md").items():
        (tmp_path / name).write_text(content)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    return tmp_path


async def test_it_type_checks_strictly(python: Path, project: Path) -> None:
    """But for a request that lacks its budget, which shows that the wheel's types are seen."""
    (project / "wrong.py").write_text('from paymaster import LLMRequest\nLLMRequest(route="writer", prompt="Hello")\n')
    pyright = Path(sysconfig.get_path("scripts")) / "pyright"
    _, found, _ = await outcome([pyright, "--pythonpath", python], project)
    assert re.search(r"wrong\.py:2:1 - error: .*\(reportCallIssue\)\n1 error, 0 warnings", found), found


async def test_its_tests_pass(python: Path, project: Path) -> None:
    _, _, said = await outcome([python, "test_agent.py"], project)
    # What may come behind it is of CPython 3.11, which at its end does not always outlive a thread of Temporal's SDK.
    assert re.search(r"Ran 4 tests in .*\n\nOK\n", said), said
