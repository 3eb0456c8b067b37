"""What workers see in the stored rows, as alerts: each once, with what to type."""

from desk_kit import DAY, HOUR, MINUTE, NOON, Site, at, candidate, capped, config

from paymaster.messages import AccountConfig, Window
from paymaster.messages.spending import Foreseen, SpentOn, Unusual
from paymaster.values.limits import NAME_CHARACTERS_MAX


def foresee(site: Site, window: Window = "day", account: str = "budget:acme", *, by_pattern: bool = False) -> None:
    used_up_at_ms = at(2027, 3, 10, 16, 40)
    foreseen = Foreseen(account=account, window=window, used_up_at_ms=used_up_at_ms, by_pattern=by_pattern)
    site.desk.tell_of(foreseen, site.now_ms)


def spend(site: Site, usd: int) -> None:
    site.settle(site.granted(candidate(usd=usd)), usd)


def test_a_forecast_is_told_once_a_window_with_a_command() -> None:
    site = Site(config(budgets={"acme": capped(day=10)}))
    spend(site, 4)
    foresee(site)
    foresee(site, by_pattern=True)
    site.cut()
    foresee(site)
    [alert] = site.alerts("forecast")
    assert (alert.account, alert.window, alert.text) == (
        "budget:acme",
        "day",
        "acme: at this rate its day cap is used up by 2027-03-10 16:40 UTC, before it ends at 2027-03-11 00:00 UTC; "
        "$4.00 of $10.00 are spent. More: `paymaster budget raise acme --window day --by USD --reason …`",
    )
    site.wait_until(NOON + DAY)
    foresee(site, by_pattern=True)
    assert "acme: as it was spent in the last four weeks its day cap" in site.alerts("forecast")[-1].text
    assert len(site.alerts("forecast")) == 2


def test_a_raise_lets_a_forecast_be_told_again() -> None:
    """It was another cap that would have been used up."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    foresee(site)
    site.raise_cap("1")
    foresee(site)
    assert len(site.alerts("forecast")) == 2


def test_a_rolling_window_has_one_forecast_a_day() -> None:
    """A part of it ends each hour, and all of it never."""
    site = Site(config(budgets={"acme": AccountConfig(caps_nanos={"24h": 10**10}, alert_at=())}))
    for _ in range(5):
        foresee(site, "24h")
        site.wait_until(site.now_ms + HOUR)
    [alert] = site.alerts("forecast")
    assert "before it ends" not in alert.text
    site.wait_until(NOON + DAY)
    foresee(site, "24h")
    assert len(site.alerts("forecast")) == 2


def test_nothing_is_foreseen_of_what_is_not_there_or_used_up() -> None:
    site = Site(config(budgets={"acme": capped(day=4)}))
    foresee(site, account="budget:else")
    foresee(site, "month")
    spend(site, 4)
    foresee(site)
    assert site.alerts("forecast") == []


def unusual(account: str, *spent_on: SpentOn) -> Unusual:
    return Unusual(account=account, nanos=12_345_000_000, usual_nanos=1_100_000_000, spent_on=spent_on)


def test_an_anomaly_is_told_once_an_hour_with_what_is_spent_on() -> None:
    site = Site()
    on = (SpentOn(what="model", name="s/m", nanos=11_200_000_000), SpentOn(what="run", name="nightly", nanos=10**9))
    for minutes in (0, 5, 59, 60):
        site.wait_until(NOON + minutes * MINUTE)
        site.desk.tell_of(unusual("budget:acme", *on), site.now_ms)
        site.cut()
    alerts = site.alerts("anomaly")
    assert [alert.at_ms for alert in alerts] == [NOON, NOON + HOUR]
    assert alerts[0].text == (
        "acme spent $12.34 in the last hour; at this time of the week $1.10 are usual. Mostly: model s/m ($11.20), run "
        "nightly ($1.00). `paymaster usage --budget acme --since 1h --by model,run` has more"
    )


def test_an_anomaly_says_what_ends_it() -> None:
    site = Site()
    for account in ("run:nightly/a", "service:s"):
        site.desk.tell_of(unusual(account), site.now_ms)
    ends = [alert.text.partition(" are usual. ")[2] for alert in site.alerts("anomaly")]
    assert ends == [
        "`paymaster runs end nightly/a --reason …` ends it",
        "`paymaster services pause s --reason …` sends nothing more to it",
    ]


def test_a_ledger_of_the_first_rules_tells_of_neither() -> None:
    """A worker of 0.1.0 may have to store it."""
    site = Site(rules=1)
    foresee(site)
    site.desk.tell_of(unusual("budget:" + "x" * NAME_CHARACTERS_MAX), site.now_ms)
    assert site.alerts() == []
