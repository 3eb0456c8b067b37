"""The activity that asks the ledger what is left."""

from collections.abc import Sequence

import pytest
from desk_kit import NOON, USD, Site, config
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.standing import StandingActivities
from paymaster.ledger.group_commit import GroupCommit
from paymaster.ledger.handle import Ledger
from paymaster.messages import Answer, Command, Standing, StandingRequest
from paymaster.security.payloads import as_raw, read_raw


class OfDesk(Ledger):
    """A ledger that is a desk in this process, and the commands that came to it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.came: list[Command] = []
        self.rules_asked = 0

    async def rules(self) -> int:
        self.rules_asked += 1
        return self._site.desk.state.rules

    async def commit(self, commands: Sequence[Command]) -> Sequence[Answer]:
        self.came += commands
        return [self._site.desk.handle(command, NOON) for command in commands]


def activities_of(ledger: OfDesk) -> StandingActivities:
    return StandingActivities(ledger, GroupCommit[Command, Answer](ledger.commit, size_of=lambda command: 1))


async def asked(activities: StandingActivities, *budgets: str) -> Standing:
    message = as_raw(StandingRequest(budgets=budgets))
    answer: RawValue = await ActivityEnvironment().run(activities.standing, message)
    return read_raw(answer, Standing)


async def test_the_rules_are_asked_for_once() -> None:
    ledger = OfDesk(Site())
    activities = activities_of(ledger)
    for _ in range(3):
        assert (await asked(activities, "acme")).left_nanos == 10 * USD
    assert (ledger.rules_asked, len(ledger.came)) == (1, 3)


async def test_a_ledger_by_the_rules_of_0_1_0_is_not_asked() -> None:
    """Its next worker may be of that version, which could not read the question in the history."""
    ledger = OfDesk(Site(rules=1))
    with pytest.raises(ApplicationError, match="`paymaster upgrade`") as raised:
        await asked(activities_of(ledger), "acme")
    assert (ledger.came, raised.value.type, raised.value.non_retryable) == ([], "StandingUnknown", True)


async def test_what_may_be_known_in_a_moment_is_asked_again() -> None:
    site = Site(config(), load=False)
    with pytest.raises(ApplicationError, match="is being loaded") as raised:
        await asked(activities_of(OfDesk(site)), "acme")
    assert not raised.value.non_retryable


async def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(activities_of(OfDesk(Site())).standing, as_raw("acme"))
    assert raised.value.non_retryable
