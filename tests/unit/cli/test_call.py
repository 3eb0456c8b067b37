"""What `paymaster call` says of an answer on stderr."""

import pytest

from paymaster.cli.call import summary
from paymaster.messages import LLMResult, Outcome


@pytest.mark.parametrize(("reason", "cut"), [("length", True), ("stop", False), (None, False)])
def test_an_answer_that_was_cut_is_marked(reason: str | None, *, cut: bool) -> None:
    result = LLMResult(outcome=Outcome.COMPLETED, call_id="c", service="s", model="m", finish_reason=reason)
    assert ("cut: it has the most tokens" in summary(result)) == cut
