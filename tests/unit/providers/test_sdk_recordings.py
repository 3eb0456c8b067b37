"""What public SDKs recorded with their providers goes through a wire call unchanged, bound and paid as it should be.

The recordings are not part of this project: `PAYMASTER_SDK_RECORDINGS` names a folder of cassettes, and
`PAYMASTER_CLI_REQUESTS` one of requests that command-line agents sent.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judged_recordings import bounded, counted, judge, paid
from openai_encodings import kept_encodings
from sdk_recordings import counts_and_bills, folder_of_recordings, interactions, read_file

from paymaster.messages.wire import Wire
from paymaster.wire.dialects import dialect_of, measured

FOLDER = folder_of_recordings()
FILES = [] if FOLDER is None else sorted(FOLDER.rglob("*.yaml"))
AGENTS = os.environ.get("PAYMASTER_CLI_REQUESTS")
LEAVE = ("tools.web_search",)
"""What the requests of command-line agents may need."""


@pytest.fixture(scope="module", autouse=True)
def encodings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(kept_encodings(tmp_path_factory.mktemp("encodings"))))
        yield


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_a_recording_is_passed_on_given_back_and_paid(file: Path) -> None:
    for interaction in read_file(file):
        verdict = judge(interaction)
        # What the provider itself refused, or a stored prompt that names the model, may be no body to us.
        stored = b'"prompt":{' in interaction.wire.body
        assert verdict.refused in (None, "no price") or interaction.status >= 400 or stored, verdict
        if verdict.refused not in (None, "no price"):
            continue
        assert verdict.changed == []
        assert verdict.given_back.partition(":")[0] in ("same", "without the usage", "nothing")
        assert not paid(verdict).startswith(("below", "above,")), verdict
        assert bounded(verdict) != "too low", verdict
        assert counted(verdict) != "too low", verdict


@pytest.mark.skipif(FOLDER is None, reason="PAYMASTER_SDK_RECORDINGS does not name a folder of cassettes")
def test_there_are_enough_recordings() -> None:
    assert FOLDER is not None
    found = [(each.file.relative_to(FOLDER).parts[0], each.dialect) for each in interactions(FOLDER)]
    assert len(found) >= 300
    assert len({repository for repository, _ in found}) >= 3
    assert {dialect for _, dialect in found} >= {"openai", "openai-responses", "anthropic", "gemini"}


@pytest.mark.skipif(FOLDER is None, reason="PAYMASTER_SDK_RECORDINGS does not name a folder of cassettes")
def test_what_counters_said_is_what_was_billed() -> None:
    """Where a recording has both: a provider's own counter, and then the same request."""
    assert FOLDER is not None
    pairs = list(counts_and_bills(FOLDER))
    assert len({host for host, _, _ in pairs}) >= 4
    assert [pair for pair in pairs if pair[1] != pair[2]] == []


def requests_of_agents() -> Iterator[tuple[str, Any]]:
    for file in sorted(Path(AGENTS).glob("*.json")) if AGENTS else ():
        request = json.loads(file.read_text())
        if request["method"] == "POST" and dialect_of(request["path"]) is not None:
            yield file.stem, request


@pytest.mark.parametrize("name", [name for name, _ in requests_of_agents()])
def test_command_line_agents_need_no_more_than_they_say(name: str) -> None:
    request = dict(requests_of_agents())[name]
    found = dialect_of(request["path"])
    assert found is not None
    asked = measured(Wire(dialect=found[0], path=found[1], body=json.dumps(request["body"]).encode()))
    assert set(asked.needs) <= set(LEAVE)
    assert asked.model == request["body"]["model"]
    assert asked.streams is request["body"].get("stream", False)
