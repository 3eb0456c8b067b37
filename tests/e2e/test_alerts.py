"""Alerts and changes of caps: stored once, sent to the webhook once it takes them, and never in a call's way."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from counting_server import CountingServer, FakeService, Webhook
from paymaster_process import Databases, Site, configuration, results_of, running_site, settled_books, until
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import send_alerts
from activities.send_alerts import SendAlertsActivities
from paymaster import LLMRequest, Outcome
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Alert, Alerts, RaiseCap, SetCap
from paymaster.messages.spending import Foreseen, SpendingReport, Unusual
from paymaster.observability.alert_forms import AlertForm, document
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(90)
COST_NANOS = 1_500_000
"""Of every call: close to its bound, which is 1.6 million."""
CALLS, PAID = 40, 33
PHASES = ("refused", "error", "slow")
ALERT_AT = (0.5, 0.8, 0.95)


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    service = server.service("alerting")
    service.usage = lambda request: TokenUsage(input_tokens=1_100, output_tokens=100)
    return service


@pytest.fixture(scope="module")
async def webhook() -> AsyncIterator[Webhook]:
    async with Webhook() as webhook:
        yield webhook


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, webhook: Webhook, module_folder: Path
) -> AsyncIterator[Site]:
    half = {f"acme/{phase}-{n}": {"cap_usd": {"total": "0.003"}} for phase in PHASES for n in (1, 2)}
    tables = configuration(
        [service],
        budgets={
            "acme": {"cap_usd": {"total": "1"}, "alert_at": []},
            "acme/crossing": {"cap_usd": {"month": "0.05", "total": "0.05"}, "alert_at": list(ALERT_AT)},
            **half,
        },
        webhook_url=webhook.url,
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def ask(budget: str, number: int = 0) -> LLMRequest:
    prompt = f"question {number:04}"
    return LLMRequest(route="alerting", budget=f"acme/{budget}", prompt=prompt, on_exhausted="fail")


async def ids(site: Site) -> list[str]:
    """Of the stored alerts, as the webhook is told them."""
    return [f"{row['epoch']}/{row['sequence']}" for row in await site.alerts()]


async def until_all_sent(site: Site, webhook: Webhook) -> None:
    """Every stored alert reached the webhook, each exactly once."""

    async def all_there() -> bool:
        return set(webhook.ids) >= set(await ids(site))

    await until(all_there, "the webhook has all alerts")
    assert sorted(webhook.ids) == sorted(await ids(site))


async def test_each_threshold_alerts_once_for_each_window_while_the_calls_go_on(
    site: Site, service: FakeService, webhook: Webhook
) -> None:
    """40 calls at once against money for 33: three thresholds for each of two windows, in table, log and webhook."""
    await webhook.listen()
    calls = [await start(site.client, ask("crossing", number)) for number in range(CALLS)]
    outcomes = Counter(result.outcome for result in await results_of(calls))
    assert outcomes == {Outcome.COMPLETED: PAID, Outcome.DENIED: CALLS - PAID}
    await settled_books(site, service)

    rows = await site.alerts()
    assert {row["account"] for row in rows} == {"budget:acme/crossing"}
    told = Counter((row["window"], row["text"].partition(": ")[0]) for row in rows if row["what"] == "threshold")
    assert told == {
        (window, f"acme/crossing has spent {part:.0%} of its {window} cap"): 1
        for window in ("month", "total")
        for part in ALERT_AT
    }
    assert Counter(row["what"] for row in rows if row["what"] != "threshold") == {"exhausted": 1}
    await until_all_sent(site, webhook)
    texts = {row["text"] for row in rows}
    assert {document["text"].removeprefix("Paymaster: ") for document in webhook.took} == texts
    for alert in texts:
        assert alert in site.logs()


async def test_what_a_worker_sees_in_the_rows_is_stored_and_sent(site: Site, webhook: Webhook) -> None:
    """A forecast and an anomaly go the way of all alerts, each once, however often a worker says it."""
    await webhook.listen()
    at_ms = int(time.time() * 1_000) + 3_600_000
    foreseen = Foreseen(account="budget:acme", window="total", used_up_at_ms=at_ms, by_pattern=False)
    unusual = Unusual(account="service:alerting", nanos=5_000_000_000, usual_nanos=0)
    for _ in range(2):
        await site.ledger.report_spending(SpendingReport(foreseen=(foreseen,), unusual=(unusual,)))

    async def told() -> bool:
        return {row["what"] for row in await site.alerts()} >= {"forecast", "anomaly"}

    await until(told, "both are stored")
    counted = Counter(row["what"] for row in await site.alerts())
    assert (counted["forecast"], counted["anomaly"]) == (1, 1)
    await until_all_sent(site, webhook)
    assert any("at this rate its total cap is used up by" in document["text"] for document in webhook.took)


async def test_a_webhook_that_is_down_delays_no_call_and_loses_no_alert(
    site: Site, service: FakeService, webhook: Webhook
) -> None:
    """It refuses connections, then answers 500, then not in time; when it is back it gets every alert once."""
    before = len(await site.alerts())
    await until_all_sent(site, webhook)
    await webhook.refuse()
    took: list[float] = []

    async def two_calls(phase: str) -> None:
        for number in (1, 2):
            began = time.monotonic()
            result = await generate(site.client, ask(f"{phase}-{number}"))
            took.append(time.monotonic() - began)
            assert result.budget[0].crossed == (0.5,)

    await two_calls("refused")
    await until(lambda: "the webhook does not take alerts: ConnectError" in site.logs(), "the webhook was tried")
    webhook.status = 500
    await webhook.listen()
    await two_calls("error")
    await until(lambda: "the webhook does not take alerts: HTTP 500" in site.logs(), "the webhook was tried again")
    webhook.status, webhook.answers_after_s = 200, 60.0
    await two_calls("slow")
    await until(lambda: "the webhook does not take alerts: ReadTimeout" in site.logs(), "it was waited for")

    assert len(await site.alerts()) == before + 6
    assert len(webhook.took) == before
    assert (await site.ledger.status()).outbox == 0, "what the webhook does not take holds up the table"
    webhook.answers_after_s = 0.0
    await until_all_sent(site, webhook)
    assert len(webhook.took) == before + 6
    print(f"six calls while the webhook was down took {max(took):.2f} s at most")
    assert max(took) < 5.0
    await settled_books(site, service)


async def test_a_webhook_that_takes_long_for_each_alert_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The activity says what was taken before its own time is over; else the same ones would be sent for ever."""
    monkeypatch.setattr(send_alerts, "STOPS_AFTER_S", 0.3)
    alerts = [Alert(sequence=n, at_ms=0, what="overage", text=f"{n}") for n in range(1, 51)]
    async with Webhook() as webhook:
        await webhook.listen()
        webhook.answers_after_s = 0.2
        batch = Alerts(ledger="slow", epoch="slow", alerts=tuple(alerts))
        delivery = await ActivityEnvironment().run(SendAlertsActivities(webhook.url).send_alerts, batch)
    assert 1 <= len(delivery.delivered) <= 2
    assert webhook.ids == [f"slow/{sequence}" for sequence in delivery.delivered]


@pytest.mark.parametrize("form", get_args(AlertForm))
async def test_every_form_outlives_an_outage_and_waits_as_long_as_the_webhook_asks(form: AlertForm) -> None:
    """Nobody there, then 503, then 429 with Retry-After, then taken: all alerts, in the form asked for."""
    alerts = Alerts(
        ledger="forms",
        epoch="forms",
        alerts=tuple(Alert(sequence=n, at_ms=0, what="overage", text=f"alert {n}") for n in (1, 2)),
    )
    async with Webhook() as webhook:
        send = SendAlertsActivities(webhook.url, form).send_alerts

        async def refused() -> ApplicationError:
            with pytest.raises(ApplicationError) as caught:
                await ActivityEnvironment().run(send, alerts)
            assert webhook.url not in str(caught.value)
            return caught.value

        assert "ConnectError" in str(await refused())
        await webhook.listen()
        webhook.status = 503
        assert (await refused()).next_retry_delay is None
        webhook.status = 429
        for said, delay_s in {"7": 7, "86400": 60, "²": None, "Wed, 21 Oct 2026 07:28:00 GMT": None}.items():
            webhook.headers = {"Retry-After": said}
            delay = (await refused()).next_retry_delay
            assert delay == (None if delay_s is None else timedelta(seconds=delay_s))
        webhook.status, webhook.headers = (202 if form == "teams" else 200), {}
        assert (await ActivityEnvironment().run(send, alerts)).delivered == (1, 2)
    assert webhook.took == [document(form, alerts, alert) for alert in alerts.alerts]


async def test_each_change_of_a_cap_is_kept_with_who_why_from_and_to(site: Site) -> None:
    """By signal and by update, a raise and a set, on a budget with a cap and on one without."""
    raised = RaiseCap(account="budget:acme/crossing", window="month", by="0.25", reason="a fair", who="ada")
    await site.ledger.signal_raise_cap(raised)
    state = await site.ledger.raise_cap(raised.model_copy(update={"until_window_end": True, "who": "grace"}))
    assert state.cap_nanos == 550_000_000
    fresh = SetCap(account="budget:acme/uncapped", window="day", to="7.000000001", reason="start", who="ada")
    assert (await site.ledger.set_cap(fresh)).cap_nanos == 7_000_000_001
    await site.ledger.set_cap(SetCap(account="service:alerting", window="total", to="0", reason="stop", who="grace"))

    async def stored() -> bool:
        return len(await site.cap_changes()) == 4

    await until(stored, "the changes are stored")
    names = ("account", "window", "from_usd", "to_usd", "by_usd", "file_usd", "until_window_end", "who", "reason")
    found = [tuple(row[name] for name in names) for row in await site.cap_changes()]
    usd = {nanos: nanos_to_usd(nanos * 1_000_000) for nanos in (0, 50, 250, 300, 550)}
    account = "budget:acme/crossing"
    assert found == [
        (account, "month", usd[50], usd[300], usd[250], usd[50], False, "ada", "a fair"),
        (account, "month", usd[300], usd[550], usd[250], usd[50], True, "grace", "a fair"),
        ("budget:acme/uncapped", "day", None, nanos_to_usd(7_000_000_001), None, None, False, "ada", "start"),
        ("service:alerting", "total", None, usd[0], None, None, False, "grace", "stop"),
    ]
