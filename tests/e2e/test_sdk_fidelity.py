"""What public SDKs recorded with their providers, sent by them over PaymasterTransport to a provider that answers as it
was recorded: it gets the request to the byte, and the SDKs give the objects that they make of the recorded answer.

The recordings are not part of this project: `PAYMASTER_SDK_RECORDINGS` names a folder of cassettes.
"""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import pytest
from paymaster_process import PRICE, Databases, running_site, settled_books
from recorded_sdks import Arrived, AsRecorded, Recorded, ReplayingProvider, asked, without_usage
from sdk_recordings import Interaction, changes, folder_of_recordings, interactions, service_table
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack
from paymaster.values.limits import REQUEST_BYTES_MAX
from paymaster.wire.dialects import measured, sent_headers
from paymaster.wire.measured import BadBody, Measured

FOLDER = folder_of_recordings()
REPOSITORIES = [] if FOLDER is None else sorted(each.name for each in FOLDER.iterdir() if each.is_dir())
OF_A_KIND = 25
"""So many of each repository's interactions of a kind are asked."""
AT_ONCE = 24
BUDGET = "acme/recordings"
DEPLOYMENT = re.compile(".*/deployments/[^/]+")
"""Of Azure's paths: the model is set, and what stands before it is the address of the resource."""

Word = Literal["equal", "without the usage", "not sent", "changed", "another"]


class Outcome(NamedTuple):
    """What became of an interaction."""

    interaction: Interaction
    word: Word
    detail: str = ""

    @property
    def is_as_it_should_be(self) -> bool:
        """What the provider itself refused, or a stored prompt that names the model, may be no body to us; and without
        external storage a request may not be larger than Temporal carries."""
        wire = self.interaction.wire
        no_body = measured_or_none(self.interaction) is None
        refused = no_body and (self.interaction.status >= 400 or b'"prompt":{' in wire.body)
        may_stay = refused or len(wire.body) > REQUEST_BYTES_MAX
        return self.word in ("equal", "without the usage") or (self.word == "not sent" and may_stay)


def sample(folder: Path) -> list[Interaction]:
    """Of each dialect, whole and streamed, answered and refused, at most OF_A_KIND, from all over the folder."""
    kinds: defaultdict[tuple[str, bool, bool], list[Interaction]] = defaultdict(list)
    for each in interactions(folder):
        kinds[each.dialect, each.streamed, each.status < 400].append(each)
    return [each for found in kinds.values() for each in found[:: -(-len(found) // OF_A_KIND)]]


def measured_or_none(interaction: Interaction) -> Measured | None:
    try:
        return measured(interaction.wire)
    except BadBody:
        return None


def configuration(found: list[Interaction], provider: ReplayingProvider) -> dict[str, object]:
    """A service and a route for each interaction, with the recorded model."""
    services: dict[str, object] = {}
    routes: dict[str, object] = {}
    for number, each in enumerate(found):
        asks = measured_or_none(each)
        if asks is not None:
            table = service_table(each, provider.base_url(number) + urlsplit(each.base_url).path, asks)
            table["models"][asks.model]["price"] = PRICE
            services[f"s{number}"] = table | {"retry": {"initial_interval": "50ms", "maximum_attempts": 2}}
            routes[f"r{number}"] = [f"s{number}/{asks.model}"]
    budgets = {"acme": {"cap_usd": {"total": "1000000"}}}
    return {"services": services, "routes": routes, "budgets": budgets}


async def outcome(client: Client, provider: ReplayingProvider, number: int) -> Outcome:
    found = provider.found[number]
    expected = await asked(found, AsRecorded(found))
    got = await asked(found, Recorded(found, BUDGET, route=f"r{number}", client=client))
    arrived = provider.arrived.get(number)
    if arrived is None:
        return Outcome(found, "not sent", str(got))
    changed = [each for request in arrived for each in differences(found, request)]
    if changed:
        return Outcome(found, "changed", str(changed))
    if got == expected:
        return Outcome(found, "equal")
    if got == without_usage(found, expected):
        return Outcome(found, "without the usage")
    return Outcome(found, "another", f"{expected}\n{got}")


def differences(interaction: Interaction, request: Arrived) -> Iterator[str]:
    yield from changes(interaction, request.body)
    path, recorded = (DEPLOYMENT.sub("", urlsplit(each.path).path) for each in (request, interaction))
    if path != recorded:
        yield f"path {path} instead of {recorded}"
    given = sent_headers(interaction.dialect, interaction.wire.headers)
    yield from (f"header {name}" for name, value in given.items() if request.headers.get(name) != value.strip())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_what_was_recorded_arrives_and_comes_back(
    stack: EmbeddedStack, databases: Databases, tmp_path: Path, repository: str
) -> None:
    assert FOLDER is not None
    found = sample(FOLDER / repository)
    turns = asyncio.Semaphore(AT_ONCE)
    async with ReplayingProvider(found) as provider:
        tables = configuration(found, provider)
        async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables) as site:

            async def one(number: int) -> Outcome:
                async with turns:
                    return await outcome(site.client, provider, number)

            outcomes = await asyncio.gather(*(one(number) for number in range(len(found))))
            await settled_books(site)
    print_figures(outcomes)
    assert [each for each in outcomes if not each.is_as_it_should_be] == []


def print_figures(outcomes: list[Outcome]) -> None:
    counts = Counter((each.interaction.dialect, each.interaction.streamed, each.word) for each in outcomes)
    for (dialect, streamed, word), count in sorted(counts.items()):
        print(f"{count:6} {dialect} {'stream' if streamed else 'whole'}: {word}")
    for each in outcomes:
        if each.word != "equal":
            print(f"{each.interaction.file.name} {each.interaction.status}: {each.word} {each.detail[:2_000]}")


@pytest.mark.skipif(FOLDER is None, reason="PAYMASTER_SDK_RECORDINGS does not name a folder of cassettes")
def test_enough_of_the_recordings_are_sent() -> None:
    assert FOLDER is not None
    found = {repository: sample(FOLDER / repository) for repository in REPOSITORIES}
    sent = [each for of_repository in found.values() for each in of_repository]
    assert len(sent) >= 300
    assert sum(map(bool, found.values())) >= 3
    dialects = {"openai", "openai-responses", "anthropic", "gemini"}
    assert {each.dialect for each in sent if each.streamed} >= dialects
    assert {each.dialect for each in sent if not each.streamed} >= dialects
