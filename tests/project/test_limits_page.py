"""docs/limits.md has the constants of paymaster/values/limits.py, each once, with its figure."""

import ast
import re

from paymaster_process import ROOT

from paymaster.values import limits

ROWS = re.findall(r"^\| `([A-Z_]+)` \| ([0-9,.]+)", (ROOT / "docs" / "limits.md").read_text(), re.MULTILINE)
CONSTANTS = {name: value for name, value in vars(limits).items() if name.isupper()}


def test_the_page_has_every_constant_once_with_its_figure() -> None:
    assert len(ROWS) == len(dict(ROWS)) > 0
    assert dict(ROWS) == {name: f"{value:,}" for name, value in CONSTANTS.items()}


def test_each_constant_is_said_in_a_sentence_and_imports_nothing() -> None:
    body = ast.parse((ROOT / "paymaster" / "values" / "limits.py").read_text()).body[1:]
    assert len(body) == 2 * len(CONSTANTS)
    for constant, sentence in zip(body[::2], body[1::2], strict=True):
        assert isinstance(constant, ast.Assign)
        assert isinstance(sentence, ast.Expr)
        assert isinstance(sentence.value, ast.Constant)


def test_nothing_of_ours_reaches_what_temporal_takes() -> None:
    """Half a payload is left for what comes with a batch, and for its encryption."""
    assert max(limits.REQUEST_BYTES_MAX, limits.ANSWER_BYTES_MAX) < 0.95 * limits.TEMPORAL_PAYLOAD_BYTES
    assert limits.BATCH_BYTES_MAX <= limits.TEMPORAL_PAYLOAD_BYTES / 2
