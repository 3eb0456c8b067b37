"""The configuration: read as written, refused with every problem and its fix, and no secret shown."""

import copy
import logging
import pickle
import pprint
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paymaster_process import ROOT
from pydantic import BaseModel, ValidationError
from rich.pretty import pretty_repr

from paymaster.settings import (
    Api,
    BudgetSettings,
    ConfigurationError,
    LedgerSettings,
    LogSettings,
    ServiceSettings,
    Settings,
    TelemetrySettings,
    WorkerSettings,
    format_duration,
    load_settings,
    parse_duration,
    split_candidate,
)
from paymaster.values.money import Price

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FULL = """
[ledger]
name = "default"
on_exhausted = "wait"
wait_at_most = "24h"
hold_expires_after = "15m"
max_parked = 2000

[services.openai]
api = "openai"
base_url = "https://api.openai.com/v1"
key = "openai-api-key"
requests_per_minute = 500
tokens_per_minute = 200_000
max_concurrent = 50
timeout = "120s"
cap_usd = { day = "50", month = "800" }
alert_at = [0.5, 0.8, 0.95]
retry = { initial_interval = "1s", backoff_coefficient = 2.0, maximum_interval = "30s", maximum_attempts = 5 }
breaker = { failures = 5, cooldown = "30s" }

[services.openai.models."gpt-5.6-luna"]
max_output_tokens = 4096
price = { input = "0.20", cached_input = "0.02", output = "1.20" }
prices = [{ input = "0.10", output = "1.20", until = 2026-01-01 }]

[services.local]
api = "openai"
base_url = "http://127.0.0.1:8080/v1"

[routes]
writer = ["openai/gpt-5.6-luna", "local/smollm2-135m"]

[budgets."acme/content"]
cap_usd = { day = "20" }
alert_at = [0.5, 0.8, 0.95]

[keys]
source = "env"

[alerts]
webhook_url = "https://hooks.example.com/services/T0/B0"

[database]
url = "postgresql+asyncpg://paymaster@localhost/paymaster"
"""
AZURE = '[services.azure]\napi = "azure-openai"\nbase_url = "https://x.openai.azure.com/openai/v1"\n'
LOCAL = '[services.local]\napi = "openai"\nbase_url = "http://localhost:8080/v1"\n'
BEDROCK = '[services.bedrock]\napi = "bedrock"\nbase_url = "https://bedrock.example"\n'
OPENAI = '[services.openai]\napi = "openai"\nbase_url = "https://api.openai.com/v1"\n'
POOL = LOCAL + '[routes.writer]\ncandidates = [["local/x", "local/y"], "local/z"]\n'
MANY = [f"local/m{number}" for number in range(50)]
SENTINEL = "hunter2SENTINEL"
DATED = "services.openai.models.x.prices[0]"


def dated(*times: str) -> str:
    """Prices of a model, each with these times; the number of the price is what a million tokens cost."""
    prices = (f'{{ {time}{", " if time else ""}input = "{n}", output = "{n}" }}' for n, time in enumerate(times, 1))
    return f"[services.openai.models.x]\nprices = [{', '.join(prices)}]"


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "paymaster.toml"
    file.write_text(text)
    return load_settings(file, environ=environ)


def problems_of(tmp_path: Path, text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, **environ)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def only_problem(tmp_path: Path, text: str, **environ: str) -> str:
    (problem,) = problems_of(tmp_path, text, **environ)
    return problem


# ---------------------------------------------------------------- what a file means


def test_a_full_file_reads_as_it_is_written(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL)
    openai = settings.services["openai"]
    assert openai.cap_usd == {"day": 50_000_000_000, "month": 800_000_000_000}
    assert openai.timeout == timedelta(seconds=120)
    assert openai.retry.maximum_attempts == 5
    assert (openai.requests_per_minute, openai.tokens_per_minute, openai.max_concurrent) == (500, 200_000, 50)
    assert settings.budgets["acme/content"].cap_usd == {"day": 20_000_000_000}
    assert settings.routes["writer"].candidates == (("openai/gpt-5.6-luna",), ("local/smollm2-135m",))
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgresql+asyncpg://paymaster@localhost/paymaster"


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Some editors on Windows save it, with their ends of lines."""
    assert load(tmp_path, "\ufeff" + OPENAI.replace("\n", "\r\n")) == load(tmp_path, OPENAI)


def test_what_is_not_written_has_the_documented_default(tmp_path: Path) -> None:
    """The file that spells every documented default is the same as one that leaves them out."""
    spelled = OPENAI + (
        'timeout = "120s"\nerrors_billed = false\nmax_unconfirmed = 1\nmax_retry_after = "60s"\nallow_http = false\n'
        "cap_usd = {}\nalert_at = [0.5, 0.8, 0.95]\nmodels = {}\n"
        'retry = { initial_interval = "1s", backoff_coefficient = 2.0, maximum_interval = "30s", '
        "maximum_attempts = 5 }\n"
        'breaker = { failures = 5, cooldown = "30s" }\n'
        '[ledger]\nname = "default"\non_exhausted = "wait"\nwait_at_most = "24h"\nhold_expires_after = "15m"\n'
        'max_parked = 2000\n[keys]\nsource = "env"\n'
    )
    assert load(tmp_path, spelled) == load(tmp_path, OPENAI)
    openai = load(tmp_path, OPENAI).services["openai"]
    assert openai.key is None
    assert (openai.requests_per_minute, openai.tokens_per_minute, openai.max_concurrent) == (None, None, None)


def test_a_price_is_exact_and_knows_its_source(tmp_path: Path) -> None:
    model = load(tmp_path, FULL).services["openai"].models["gpt-5.6-luna"]
    assert model.price_at(NOON, "paymaster.toml") == Price(
        input_nanos=200_000_000, output_nanos=1_200_000_000, cached_input_nanos=20_000_000, source="paymaster.toml"
    )


def test_a_model_without_a_price_of_its_own_gets_none_and_not_zero(tmp_path: Path) -> None:
    model = load(tmp_path, OPENAI + "models.x = { max_output_tokens = 5 }").services["openai"].models["x"]
    assert model.price_at(NOON, "paymaster.toml") is None


def test_a_price_begins_and_ends_to_the_moment(tmp_path: Path) -> None:
    text = dated("until = 2026-12-01", "from = 2026-12-01, until = 2026-12-24T18:00:00+01:00", 'from = "2027-01-01"')
    model = load(tmp_path, OPENAI + text + '\nprice = { input = "9", output = "9" }').services["openai"].models["x"]
    moments = {
        "2020-01-01T00:00:00Z": 1,
        "2026-11-30T23:59:59.999999Z": 1,
        "2026-12-01T00:00:00Z": 2,
        "2026-12-24T16:59:59Z": 2,
        "2026-12-24T17:00:00Z": 9,
        "2026-12-31T23:59:59Z": 9,
        "2027-01-01T00:00:00Z": 3,
    }
    for moment, usd in moments.items():
        price = model.price_at(datetime.fromisoformat(moment), "f")
        assert price == Price(input_nanos=usd * 10**9, output_nanos=usd * 10**9, source="f"), moment


def test_a_factor_is_held_exactly(tmp_path: Path) -> None:
    """No rounding, and 1 where none is written."""
    written = {"0.85": "0.85", "1.000000001": "1.000000001", "100": "100"}
    for text, factor in written.items():
        assert load(tmp_path, OPENAI + f'price_factor = "{text}"').services["openai"].price_factor == Decimal(factor)
    assert load(tmp_path, OPENAI).services["openai"].price_factor == 1


def test_thresholds_are_sorted_and_each_is_there_once(tmp_path: Path) -> None:
    openai = load(tmp_path, OPENAI + "alert_at = [1, 0.5, 0.8, 0.5]").services["openai"]
    assert openai.alert_at == (0.5, 0.8, 1.0)


def test_a_cap_of_zero_is_a_cap(tmp_path: Path) -> None:
    """Zero blocks; it is not the same as no cap."""
    assert load(tmp_path, OPENAI + 'cap_usd = { day = "0" }').services["openai"].cap_usd == {"day": 0}


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL)
    for table, field in [
        (settings, "ledger"),
        (settings.ledger, "name"),
        (settings.services["openai"], "timeout"),
        (settings.database, "url"),
    ]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(table, field, None)


def test_every_setting_says_what_it_means() -> None:
    """Documentation is made of these descriptions; a setting without one would have none."""
    tables: list[type[BaseModel]] = [
        LedgerSettings,
        ServiceSettings,
        BudgetSettings,
        WorkerSettings,
        LogSettings,
        TelemetrySettings,
    ]
    for table in tables:
        for name, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{name}"
            assert "efault" in field.description or name == "retry" or name == "breaker", f"{table.__name__}.{name}"


@given(st.integers(min_value=1, max_value=366 * 24 * 3600 * 1000))
def test_a_duration_reads_as_it_was_written(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("366d", 31_622_400)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "0s", "-1s", "1.5s", "1 s", "5M", "5min", "s", "367d", "9" * 12 + "d", "9" * 40 + "s", "٣s"]
)
def test_what_is_no_duration_is_refused_as_such(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_a_candidate_is_split_at_its_first_slash() -> None:
    """Hugging Face's names of models have slashes of their own."""
    assert split_candidate("local/org/model") == ("local", "org/model")


def test_a_json_dump_can_be_loaded_again(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL.split("[alerts]")[0])
    assert Settings(**settings.model_dump(mode="json", exclude={"alerts", "database"})) == settings


@pytest.mark.parametrize(
    ("written", "held"),
    [
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://api.openai.com", "https://api.openai.com"),
        ("http://localhost:8080/v1//", "http://localhost:8080/v1"),
        ("http://127.8.0.1/v1", "http://127.8.0.1/v1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_a_base_url_is_held_without_a_slash_at_its_end(tmp_path: Path, written: str, held: str) -> None:
    text = f'[services.x]\napi = "openai"\nbase_url = "{written}"\n'
    assert load(tmp_path, text).services["x"].base_url == held


def test_http_leaves_this_machine_only_when_allowed(tmp_path: Path) -> None:
    """Wherever the permission is written in the table, before the address or behind it."""
    url, allowed = 'base_url = "http://gateway.internal/v1"\n', "allow_http = true\n"
    for table in (url + allowed, allowed + url):
        settings = load(tmp_path, '[services.x]\napi = "openai"\n' + table)
        assert settings.services["x"].base_url == "http://gateway.internal/v1"


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql", "postgres"])
def test_a_database_url_gets_the_driver_that_we_use(tmp_path: Path, scheme: str) -> None:
    """Hosting services hand out `postgres://`; the driver is no choice of theirs."""
    url = load(tmp_path, f'[database]\nurl = "{scheme}://u:p%40@h:5432/d?x=1"').database.url
    assert url is not None
    assert url.get_secret_value() == "postgresql+asyncpg://u:p%40@h:5432/d?x=1"


# ---------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        # unknown keys, at every depth
        ("[service.x]", "service", "did you mean services?"),
        ("[xyz]", "xyz", "unknown key; known here: admin, alerts, approvals, azure, budgets, codec, console, "),
        ("_env_file = 'x'", "_env_file", "unknown key"),
        ('[ledger]\nwait_atmost = "1h"', "ledger.wait_atmost", "did you mean wait_at_most?"),
        (OPENAI + "requests_per_minut = 5", "services.openai.requests_per_minut", "did you mean requests_per_minute?"),
        (OPENAI + f'api_key = "{SENTINEL}"', "services.openai.api_key", "did you mean key?"),
        (OPENAI + "retry = { attempts = 5 }", "services.openai.retry.attempts", "did you mean maximum_attempts?"),
        (OPENAI + "breaker = { failure = 5 }", "services.openai.breaker.failure", "did you mean failures?"),
        (OPENAI + "models.x = { pric = {} }", "services.openai.models.x.pric", "did you mean price?"),
        (
            OPENAI + 'models."gpt-5.6" = { price = { input = "1", output = "1", cached = "1" } }',
            'services.openai.models."gpt-5.6".price.cached',
            "did you mean cached_input?",
        ),
        ('[budgets."a/b"]\ncap = { day = "1" }', 'budgets."a/b".cap', "did you mean cap_usd?"),
        ("[keys]\nsources = 'env'", "keys.sources", "did you mean source?"),
        ("[alerts]\nwebhook = 'x'", "alerts.webhook", "did you mean webhook_url?"),
        (f"[database]\nuri = '{SENTINEL}'", "database.uri", "did you mean url?"),
        # a table that is named like one of its keys is still a name
        ('[services.timeout]\napi = "openai"\nbase_url = "https://x"\nkeyy = "k"', "services.timeout.keyy", "key?"),
        # missing and of the wrong kind
        ('[services.x]\nbase_url = "https://x"', "services.x.api", "missing; set it"),
        ('[services.x]\napi = "openai"', "services.x.base_url", "missing; set it"),
        ('ledger = "default"', "ledger", "must be a table"),
        ("services = []", "services", "must be a table"),
        ('[budgets.acme]\ncap_usd = "5"', "budgets.acme.cap_usd", 'must be a table, like { day = "5" }'),
        ('[budgets.acme]\nper_run = "2"', "budgets.acme.per_run", "must be a table, like { usd ="),
        (f"database = 'postgresql://u:{SENTINEL}@h/d'", "database", "must be a table"),
        (LOCAL + '[routes]\nwriter = "local/x"', "routes.writer", 'must be a list of "service/model"'),
        ("[ledger]\nmax_parked = true", "ledger.max_parked", "must be a number, not true or false"),
        ("[ledger]\nmax_parked = 0", "ledger.max_parked", "greater than or equal to 1"),
        (OPENAI + "max_concurrent = 0", "services.openai.max_concurrent", "greater than or equal to 1"),
        (OPENAI + "requests_per_minute = 1.5", "services.openai.requests_per_minute", "must be a valid integer"),
        (OPENAI + "retry = { backoff_coefficient = nan }", "services.openai.retry.backoff_coefficient", "equal to 1"),
        (OPENAI + "retry = { backoff_coefficient = inf }", "services.openai.retry.backoff_coefficient", "equal to 100"),
        (OPENAI + "alert_at = [nan]", "services.openai.alert_at[0]", "greater than 0"),
        (OPENAI + "retry = { backoff_coefficient = 0.5 }", "services.openai.retry.backoff_coefficient", "equal to 1"),
        (OPENAI + "retry = { maximum_attempts = 0 }", "services.openai.retry.maximum_attempts", "equal to 1"),
        (OPENAI + "max_unconfirmed = -1", "services.openai.max_unconfirmed", "equal to 0"),
        (OPENAI + "alert_at = [0]", "services.openai.alert_at[0]", "greater than 0"),
        (OPENAI + "alert_at = [0.5, 1.1]", "services.openai.alert_at[1]", "less than or equal to 1"),
        (OPENAI + f"alert_at = {[n / 100 for n in range(1, 22)]}", "services.openai.alert_at", "may be 20"),
        (LOCAL + f"[routes]\nr = {[f'local/m{n}' for n in range(51)]}", "routes.r", "51 candidates and may have 50"),
        (OPENAI + "alert_at = [true]", "services.openai.alert_at[0]", "must be a number"),
        # names
        ('[ledger]\nname = "Default"', "ledger.name", 'write 1 to 64 of a-z, 0-9 and "-"'),
        ('[services.Bad_Name]\napi = "openai"\nbase_url = "https://x"', "services.Bad_Name", "write 1 to 64"),
        ('[services.-x]\napi = "openai"\nbase_url = "https://x"', "services.-x", 'the first one not "-"'),
        (LOCAL + '[routes]\n"a b" = ["local/x"]', 'routes."a b"', "write 1 to 64"),
        (OPENAI + 'models." x" = {}', 'services.openai.models." x"', "as the service's API names it"),
        ('[budgets."acme//x"]', 'budgets."acme//x"', "segment"),
        # values that only some are supported of
        ('[services.x]\napi = "cohere"\nbase_url = "https://x"', "services.x.api", "not supported; write 'openai'"),
        (f'[console.keys.ada]\nrole = "admin"\nkey_sha256 = "{"AB" * 32}"', "console.keys.ada.key_sha256", "64 digits"),
        ('[keys]\nsource = "vault"', "keys.source", "not supported; write 'env', 'file' or 'azure-key-vault'"),
        ('[ledger]\non_exhausted = "park"', "ledger.on_exhausted", "write 'wait' or 'fail'"),
        (OPENAI + 'cap_usd = { year = "5" }', "services.openai.cap_usd.year", "'7d' or '30d'"),
        # money and durations
        (OPENAI + "cap_usd = { day = 0.2 }", "services.openai.cap_usd.day", 'write the amount as text, like "0.20"'),
        (OPENAI + 'cap_usd = { day = "-1" }', "services.openai.cap_usd.day", "negative"),
        (OPENAI + 'cap_usd = { day = "$5" }', "services.openai.cap_usd.day", 'write it like "12.50"'),
        ('[budgets.a]\ncap_usd = { day = "" }', "budgets.a.cap_usd.day", 'write it like "12.50"'),
        (
            OPENAI + 'models.x.price = { input = 0.2, output = "1" }',
            "services.openai.models.x.price.input",
            'write the amount as text, like "0.20"',
        ),
        (OPENAI + 'models.x.price = { input = "1" }', "services.openai.models.x.price.output", "missing; set it"),
        (OPENAI + "timeout = 120", "services.openai.timeout", 'write a duration as text with its unit, like "30s"'),
        (OPENAI + 'timeout = "120"', "services.openai.timeout", 'like "500ms", "30s" or "24h"'),
        ('[ledger]\nwait_at_most = "0s"', "ledger.wait_at_most", "more than zero"),
        # addresses
        (OPENAI.replace("https", "ftp"), "services.openai.base_url", 'write one like "https://api.openai.com/v1"'),
        (OPENAI.replace("api.openai.com", ""), "services.openai.base_url", "not an http(s) URL"),
        (OPENAI.replace(".com", ".com:x"), "services.openai.base_url", "not a URL"),
        (OPENAI.replace("https", "http"), "services.openai.base_url", "write https://, or set allow_http = true"),
        (OPENAI.replace("api.", f"u:{SENTINEL}@api."), "services.openai.base_url", "remove them"),
        (OPENAI.replace("/v1", f"/v1?key={SENTINEL}"), "services.openai.base_url", "NAME of a key in `key`"),
        (OPENAI.replace("/v1", "/v 1"), "services.openai.base_url", "percent-encoded"),
        ('[alerts]\nwebhook_url = "http://hooks.example.com/x"', "alerts.webhook_url", "write https://"),
        ('[alerts]\nwebhook_format = "irc"', "alerts.webhook_format", "'json', 'slack' or 'teams'"),
        (f'[database]\nurl = "mysql://u:{SENTINEL}@h/d"', "database.url", "postgresql+asyncpg://user:password@host"),
        (f'[database]\nurl = "{SENTINEL}"', "database.url", "postgresql+asyncpg://user:password@host"),
        (f"[database]\nurl = ['{SENTINEL}']", "database.url", "must be a valid string"),
        # keys
        (OPENAI + f'key = "sk-{SENTINEL}"', "services.openai.key", "put the key into the environment variable"),
        (
            OPENAI + f'key = "{SENTINEL.lower()}0123456789"',
            "services.openai.key",
            "only the NAME of a key belongs here",
        ),
        (OPENAI + f'key = "{SENTINEL}"', "services.openai.key", "write lower-case words"),
        # the worker
        ('[worker]\nhealth_address = "8000"', "worker.health_address", 'like "127.0.0.1:8000"'),
        ('[worker]\nhealth_address = "127.0.0.1:99999"', "worker.health_address", 'like "127.0.0.1:8000"'),
        ('[worker]\ndeployment = "paymaster"', "worker", "set both, or neither"),
        ('[worker]\nbuild_id = "1"', "worker", "set both, or neither"),
        ('[logs]\nformat = "xml"', "logs.format", "write 'auto', 'json' or 'console'"),
        ('[keys]\nsource = "azure-key-vault"', "keys.vault_url", 'source = "azure-key-vault" needs it'),
        ('[keys]\nsource = "file"', "keys.folder", 'source = "file" needs it'),
        ('[keys]\nvault_url = "http://127.0.0.1"', "keys.vault_url", "write https:// and the host alone"),
        ('[keys]\nvault_url = "https://x.vault.azure.net/secrets/a"', "keys.vault_url", "the host alone"),
        (f'[azure]\nclient_secret = "{SENTINEL}"', "azure.client_secret", "only for credential"),
        (f'[azure]\ntenant_id = "{SENTINEL} x"', "azure.tenant_id", "should match pattern"),
        (OPENAI + 'auth = "google"', "services.openai.auth", 'only api = "vertex-gemini"'),
        (OPENAI + 'auth = "aws"', "services.openai.auth", 'only api = "bedrock"'),
        (OPENAI + 'region = "us-east-1"', "services.openai.region", 'only for auth = "aws"'),
        (BEDROCK + 'auth = "aws"', "services.bedrock.region", "missing"),
        (OPENAI + 'auth = "entra"', "services.openai.auth", 'only api = "azure-openai"'),
        (AZURE + 'auth = "entra"\nkey = "x"', "services.azure.key", "take one of them out"),
        (AZURE + 'entra_scope = "https://x/.default"', "services.azure.entra_scope", 'only for auth = "entra"'),
        (AZURE + 'auth = "entra"\nentra_scope = "x"', "services.azure.entra_scope", "write it like"),
        # prices
        (OPENAI + "price_factor = 0.85", "services.openai.price_factor", 'write it as text, like "0.85"'),
        (OPENAI + 'price_factor = "0"', "services.openai.price_factor", "more than 0"),
        (OPENAI + 'price_factor = "100.1"', "services.openai.price_factor", "at most 100"),
        (OPENAI + 'price_factor = "1e-1"', "services.openai.price_factor", "not a factor"),
        (OPENAI + dated("from = 2026-12-01T00:00:00"), DATED + ".from", "the time's zone is missing"),
        (OPENAI + dated('from = "tomorrow"'), DATED + ".from", "write 2026-12-01 (from midnight UTC on)"),
        (OPENAI + dated("from = 1764547200"), DATED + ".from", "write 2026-12-01 (from midnight UTC on)"),
        (
            OPENAI + dated("since = 2026-12-01, until = 2027-01-01"),
            DATED + ".since",
            "known here: cache_write, cached_input, from, ",
        ),
        (OPENAI + dated("from = 2026-12-01, untl = 2027-01-01"), DATED + ".untl", "did you mean until?"),
        (OPENAI + dated(""), DATED, "neither `from` nor `until` is set"),
        (OPENAI + dated("from = 2026-12-01, until = 2026-12-01"), DATED, "`from` is not before `until`"),
        (OPENAI + dated("from = 2026-12-01", "from = 2027-01-01"), DATED[:-3], "prices 1 and 2 hold at the same time"),
        (OPENAI + dated("until = 2027-01-02", "until = 2027-01-01"), DATED[:-3], "hold at the same time"),
        # routes
        (LOCAL + "[routes]\nwriter = []", "routes.writer", 'name at least one "service/model"'),
        (LOCAL + '[routes]\nwriter = ["local"]', "routes.writer", 'write "service/model"'),
        (LOCAL + '[routes]\nwriter = ["local/"]', "routes.writer", 'write "service/model"'),
        (LOCAL + '[routes]\nwriter = ["local/x", "local/x"]', "routes.writer", "in the route twice"),
        (LOCAL + '[routes]\nwriter = ["local/x", "locl/x"]', "routes.writer[1]", "did you mean local?"),
        (LOCAL + '[routes]\nwriter = ["anthropic/x"]', "routes.writer[0]", "add a table [services.anthropic]"),
        (LOCAL + '[routes]\nwriter = ["local/x", ["local/y", "locl/z"]]', "routes.writer[1][1]", "did you mean local?"),
        (LOCAL + '[routes]\nwriter = [["local/x"], "local/x"]', "routes.writer", "in the route twice"),
        (LOCAL + '[routes]\nwriter = [[], "local/x"]', "routes.writer", "a list in it is; name at least one"),
        (LOCAL + '[routes]\nwriter = [["local/x", ["local/y"]]]', "routes.writer", "a candidate is text, like"),
        (LOCAL + "[routes.writer]\nweights = {}", "routes.writer.candidates", "missing; set it"),
        (POOL + "weight = {}", "routes.writer.weight", "did you mean weights?"),
        (POOL + 'weights = { "local/x" = 0 }', 'routes.writer.weights."local/x"', "greater than or equal to 1"),
        (POOL + 'weights = { "local/xx" = 2 }', 'routes.writer.weights."local/xx"', "did you mean local/x?"),
        (POOL + 'weights = { "local/z" = 2 }', 'routes.writer.weights."local/z"', "shares the load with none"),
        (POOL + "when_short = { below = 0.1 }", "routes.writer.when_short.candidates", "missing; set it"),
        (
            POOL + "when_short = { below = 20, candidates = ['local/z'] }",
            "routes.writer.when_short.below",
            "equal to 1",
        ),
        (
            POOL + "when_short = { below = 0.1234567, candidates = ['local/z'] }",
            "routes.writer.when_short.below",
            "six",
        ),
        (POOL + "when_short = { candidates = ['loca/z'] }", "routes.writer.when_short.candidates[0]", "mean local?"),
        (POOL + f"when_short = {{ candidates = {MANY} }}", "routes.writer", "53 candidates and may have 50"),
    ],
)
def test_a_mistake_is_refused_at_its_place_and_with_its_fix(tmp_path: Path, text: str, path: str, fix: str) -> None:
    """One mistake is one problem: it begins with the key's path, says the fix, and repeats no secret."""
    problem = only_problem(tmp_path, text)
    assert problem.startswith(f"{path}: ")
    assert fix in problem
    assert "SENTINEL" not in problem.upper()


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Nobody has to start five times to find five mistakes: in tables, between them and in the environment."""
    text = (
        '[ledger]\nmax_parked = 0\n[services.x]\napi = "openai"\nbase_url = "nowhere"\ntimeout = 5\n'
        '[routes]\nwriter = ["y/m"]\n[keys]\nsource = "files"\n'
    )
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, PAYMASTER__NONSENSE="1", PAYMASTER__BUDGETS="{")
    paths = {problem.split(": ")[0] for problem in caught.value.problems}
    assert paths == {
        "PAYMASTER__BUDGETS",
        "ledger.max_parked",
        "services.x.base_url",
        "services.x.timeout",
        "routes.writer[0]",
        "keys.source",
        "nonsense",
    }
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'paymaster.toml'}: 7 problems\n")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_a_route_to_a_broken_service_is_no_second_problem(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, OPENAI + 'timeout = 5\n[routes]\nwriter = ["openai/x"]')
    assert problem.startswith("services.openai.timeout")


@pytest.mark.parametrize(
    ("hold", "service", "worst"),
    [
        # 5 x 120 s and 4 x 60 s, each of these a fifth longer by chance
        ("888s", "", "888s"),
        # one attempt waits for nothing
        ("120s", "retry = { maximum_attempts = 1 }", "2m"),
        # our own longest wait counts when it is longer than a server's
        ("300s", 'timeout = "30s"\nretry = { maximum_interval = "200s", maximum_attempts = 2 }', "5m"),
        ("96s", 'timeout = "30s"\nmax_retry_after = "30s"\nretry = { maximum_attempts = 2 }', "96s"),
    ],
)
def test_a_hold_outlives_the_worst_case_of_its_retries(tmp_path: Path, hold: str, service: str, worst: str) -> None:
    """A hold as long as the worst case is too short, a millisecond more is enough, and the message says the number."""
    problem = only_problem(tmp_path, f'[ledger]\nhold_expires_after = "{hold}"\n{OPENAI}{service}')
    assert problem.startswith("services.openai: ")
    assert f"can take {worst} " in problem
    assert "ledger.hold_expires_after" in problem
    longer = format_duration(parse_duration(hold) + timedelta(milliseconds=1))
    load(tmp_path, f'[ledger]\nhold_expires_after = "{longer}"\n{OPENAI}{service}')


def test_a_route_has_pools_weights_and_candidates_for_when_money_is_short(tmp_path: Path) -> None:
    route = load(
        tmp_path, POOL + 'weights = { "local/x" = 3 }\nwhen_short = { below = 0.3, candidates = ["local/z"] }'
    ).routes["writer"]
    assert route.candidates == (("local/x", "local/y"), ("local/z",))
    assert route.weights == {"local/x": 3}
    assert route.when_short is not None
    assert (route.when_short.below, route.cheaper) == (0.3, (("local/z",),))
    assert route.names == ("local/x", "local/y", "local/z")
    route = load(tmp_path, LOCAL, PAYMASTER__ROUTES='{"writer": [["local/x", "local/y"]]}').routes["writer"]
    assert route.candidates == (("local/x", "local/y"),)


def test_an_endpoint_names_routes_that_are_there(tmp_path: Path) -> None:
    endpoint = '[nexus.endpoints.content]\nbudget = "acme/content"\nroutes = ["writer", "writers"]\n'
    problem = only_problem(tmp_path, f'{OPENAI}[routes]\nwriter = ["openai/x"]\n{endpoint}')
    assert problem == "nexus.endpoints.content.routes[1]: there is no route 'writers'; did you mean writer?"


@pytest.mark.parametrize("name", ["a", "a_b", "1a", "a-", "a/b"])
def test_an_endpoint_has_a_name_of_temporals(tmp_path: Path, name: str) -> None:
    problem = only_problem(tmp_path, f'[nexus.endpoints."{name}"]\nbudget = "acme"\n')
    assert "not a Nexus endpoint's name" in problem


def test_no_endpoint_gives_its_calls_the_ids_of_purchases(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, '[nexus.endpoints.purchase]\nbudget = "acme"\n')
    assert "the ids of its calls would begin as those of purchases do" in problem
    load(tmp_path, '[nexus.endpoints.purchases]\nbudget = "acme"\n')


def test_settings_made_in_code_are_checked_like_those_of_a_file() -> None:
    with pytest.raises(ValidationError, match="there is no service 'x'"):
        Settings.model_validate({"routes": {"writer": ["x/y"]}})
    with pytest.raises(ValidationError, match="hold_expires_after is 5m"):
        Settings(
            ledger=LedgerSettings(hold_expires_after=timedelta(minutes=5)),
            services={"x": ServiceSettings(api="openai", base_url="https://x")},
        )


def test_settings_made_in_code_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER", '{"name": "from-the-environment"}')
    monkeypatch.setenv("PAYMASTER__LEDGER__NAME", "from-the-environment")
    assert Settings().ledger.name == "default"


# ---------------------------------------------------------------- the file


def test_toml_that_cannot_be_read_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"paymaster\.toml: not valid TOML: .*line 2, column 8"):
        load(tmp_path, "[ledger]\nname = default\n")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"[ledger]\nname = '\xff'", "not UTF-8 at byte 17"), (b"x = " + b"1" * 5000, "not valid TOML: .*digits")],
)
def test_a_file_of_another_kind_is_a_problem_and_no_crash(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "paymaster.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem):
        load_settings(file, environ={})


def test_a_path_may_be_text(tmp_path: Path) -> None:
    file = tmp_path / "paymaster.toml"
    file.write_text(LOCAL)
    assert load_settings(str(file), environ={}).services.keys() == {"local"}
    with pytest.raises(ConfigurationError, match=r"there is no file elsewhere\.toml"):
        load_settings("elsewhere.toml", environ={})


def test_the_file_is_the_argument_then_the_variable_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("argument", "variable", "paymaster"):
        (tmp_path / f"{name}.toml").write_text(f'[ledger]\nname = "{name}"')
    monkeypatch.chdir(tmp_path)
    environ = {"PAYMASTER_CONFIG": str(tmp_path / "variable.toml")}
    assert load_settings(tmp_path / "argument.toml", environ=environ).ledger.name == "argument"
    assert load_settings(environ=environ).ledger.name == "variable"
    assert load_settings(environ={"PAYMASTER_CONFIG": ""}).ledger.name == "paymaster"
    monkeypatch.setenv("PAYMASTER_CONFIG", str(tmp_path / "variable.toml"))
    assert load_settings().ledger.name == "variable"


def test_a_named_file_that_is_not_there_is_an_error_even_beside_a_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paymaster.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"there is no file other\.toml"):
        load_settings(Path("other.toml"), environ={})
    with pytest.raises(ConfigurationError, match=r"PAYMASTER_CONFIG names other\.toml"):
        load_settings(environ={"PAYMASTER_CONFIG": "other.toml"})


def test_without_any_file_the_error_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in the message is a configuration that works."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={})
    message = str(caught.value)
    assert "there is no paymaster.toml" in message
    assert "--config FILE or PAYMASTER_CONFIG=FILE" in message
    example = message[message.index("[services") : message.index("or name")]
    assert load(tmp_path, example).routes["writer"].names == ("local/the-model",)


# ---------------------------------------------------------------- the environment


def test_a_variable_overrides_one_key_and_leaves_the_rest_of_its_table(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        FULL,
        PAYMASTER__DATABASE__URL="postgresql://elsewhere/d",
        PAYMASTER__SERVICES__OPENAI__BASE_URL="https://gateway.example.com/v1/",
        PAYMASTER__SERVICES__OPENAI__CAP_USD__DAY="5",
        PAYMASTER__SERVICES__OPENAI__RETRY__MAXIMUM_ATTEMPTS="2",
        PAYMASTER__SERVICES__OPENAI__ERRORS_BILLED="true",
        PAYMASTER__LEDGER__ON_EXHAUSTED="fail",
    )
    openai = settings.services["openai"]
    assert openai.base_url == "https://gateway.example.com/v1"
    assert openai.cap_usd == {"day": 5_000_000_000, "month": 800_000_000_000}
    assert (openai.retry.maximum_attempts, openai.retry.maximum_interval) == (2, timedelta(seconds=30))
    assert openai.errors_billed is True
    assert openai.key == "openai-api-key"
    assert settings.ledger.on_exhausted == "fail"
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgresql+asyncpg://elsewhere/d"


def test_an_amount_from_the_environment_is_exact(tmp_path: Path) -> None:
    """0.07 as a float would not be."""
    settings = load(tmp_path, OPENAI, PAYMASTER__SERVICES__OPENAI__CAP_USD__DAY="0.07")
    assert settings.services["openai"].cap_usd == {"day": 70_000_000}


def test_variables_alone_can_add_a_service(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "",
        PAYMASTER__SERVICES__MY_PROXY__API="openai",
        PAYMASTER__SERVICES__MY_PROXY__BASE_URL="http://localhost:1/v1",
        PAYMASTER__ROUTES__LONG_FORM='["my-proxy/m"]',
    )
    assert settings.services["my-proxy"].base_url == "http://localhost:1/v1"
    assert settings.routes["long-form"].names == ("my-proxy/m",)


def test_names_of_models_and_budgets_are_taken_as_they_are_written(tmp_path: Path) -> None:
    """They may be case-sensitive; Docker and Kubernetes allow such variables, and JSON carries them from a shell."""
    environ = {
        "PAYMASTER__SERVICES__OPENAI__MODELS__Org/Model-1.5__MAX_OUTPUT_TOKENS": "7",
        "PAYMASTER__BUDGETS__Acme_x/content__CAP_USD__DAY": "5",
    }
    settings = load(tmp_path, OPENAI, **environ)
    assert settings.services["openai"].models["Org/Model-1.5"].max_output_tokens == 7
    assert settings.budgets["Acme_x/content"].cap_usd == {"day": 5_000_000_000}


def test_json_is_merged_like_tables_and_null_takes_a_key_away(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        FULL,
        PAYMASTER__BUDGETS='{"acme/content": {"cap_usd": {"month": "5"}}, "acme": {}}',
        PAYMASTER__SERVICES__OPENAI='{"key": null}',
        PAYMASTER__SERVICES__OPENAI__TIMEOUT="60s",
        PAYMASTER__SERVICES__OPENAI__ALERT_AT="[0.9]",
    )
    assert settings.budgets["acme/content"].cap_usd == {"day": 20_000_000_000, "month": 5_000_000_000}
    assert settings.budgets["acme"] == BudgetSettings()
    openai = settings.services["openai"]
    assert (openai.key, openai.timeout, openai.alert_at) == (None, timedelta(seconds=60), (0.9,))


@pytest.mark.parametrize(
    ("environ", "path", "problem"),
    [
        ({"PAYMASTER__X": "1"}, "x", "unknown key"),
        ({"PAYMASTER__X": "{}"}, "x", "unknown key"),
        ({"PAYMASTER__DATABASE_URL": "x"}, "database_url", "did you mean database?"),
        ({"PAYMASTER__LEDGER__NAM": "x"}, "ledger.nam", "did you mean name?"),
        ({"PAYMASTER__SERVICES__LOCAL__KEY": ""}, "services.local.key", "not the name of a key"),
        ({"PAYMASTER__SERVICES__LOCAL__CAP_USD__DAY": ""}, "services.local.cap_usd.day", "not an amount"),
        ({"PAYMASTER__LEDGER": "x"}, "ledger", "must be a table"),
        ({"PAYMASTER__ROUTES__WRITER": "local/x"}, "routes.writer", "must be a list"),
        ({"PAYMASTER__ROUTES__WRITER": '["locl/x"]'}, "routes.writer[0]", "did you mean local?"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, environ: dict[str, str], path: str, problem: str
) -> None:
    found = only_problem(tmp_path, LOCAL, **environ)
    assert found.startswith(f"{path}: ")
    assert problem in found
    assert found.endswith(f"(see {next(iter(environ))})")


def test_a_service_that_is_misspelled_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    """It makes a service of which the rest is missing; without the variable's name one would search the file."""
    problems = problems_of(tmp_path, LOCAL, PAYMASTER__SERVICES__LOCL__TIMEOUT="60s")
    assert len(problems) == 2
    for problem in problems:
        assert problem.endswith("missing; set it (see PAYMASTER__SERVICES__LOCL__TIMEOUT)")


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"PAYMASTER__": "1"}, "PAYMASTER__: a part of the name is empty"),
        ({"PAYMASTER__LEDGER____NAME": "1"}, "PAYMASTER__LEDGER____NAME: a part of the name is empty"),
        ({"PAYMASTER__LEDGER": f'{{"name": {SENTINEL}'}, "PAYMASTER__LEDGER: not valid JSON"),
        (
            {"PAYMASTER__ledger__name": "a", "PAYMASTER__LEDGER__NAME": "b"},
            "PAYMASTER__ledger__name: another variable sets ledger.name too",
        ),
        (
            {"PAYMASTER__LEDGER": '{"name": "a"}', "PAYMASTER__LEDGER__NAME": "b"},
            "PAYMASTER__LEDGER__NAME: another variable sets ledger.name too",
        ),
        (
            {"PAYMASTER__LEDGER__NAME": "a", "PAYMASTER__LEDGER__NAME__X": "b"},
            "PAYMASTER__LEDGER__NAME__X: another variable sets ledger.name.x too",
        ),
    ],
)
def test_variables_that_cannot_be_understood_are_refused(tmp_path: Path, environ: dict[str, str], problem: str) -> None:
    found = only_problem(tmp_path, LOCAL, **environ)
    assert found.startswith(problem)
    assert "SENTINEL" not in found


def test_the_other_variables_of_paymaster_are_no_settings(tmp_path: Path) -> None:
    """Also those that Kubernetes makes up for a service called `paymaster-database`."""
    settings = load(
        tmp_path,
        LOCAL,
        PAYMASTER_CONFIG="x",
        PAYMASTER_KEY_OPENAI_API_KEY="k",
        PAYMASTER_KEY__X="k",
        PAYMASTER_DATABASE_PORT="tcp://10.0.0.1:5432",
    )
    assert settings == load(tmp_path, LOCAL)


# ---------------------------------------------------------------- secrets


SECRETS = f"""
[database]
url = "postgresql+asyncpg://user:{SENTINEL}@localhost/paymaster"
[alerts]
webhook_url = "https://hooks.example.com/{SENTINEL}"
"""


def traceback_with_locals(error: BaseException) -> str:
    """What an error reporter shows of the code below the test: the test's own frame holds the secret on purpose."""
    assert error.__traceback__ is not None
    below = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, below, capture_locals=True).format())


WAYS_OF_SHOWING: dict[str, Callable[[Settings], object]] = {
    "str": str,
    "repr": repr,
    "format": lambda settings: f"{settings} {settings.database.url} {settings.alerts.webhook_url!r:>90}",
    "pprint": pprint.pformat,
    "rich": pretty_repr,
    "dump": lambda settings: settings.model_dump(),
    "JSON dump": lambda settings: settings.model_dump_json(),
    "deep copy": copy.deepcopy,
    "vars": lambda settings: (vars(settings), vars(settings.database), vars(settings.alerts)),
    **{f"pickle {number}": partial(pickle.dumps, protocol=number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
    **{
        f"pickle {number} of the URL alone": lambda settings, number=number: pickle.dumps(settings.database.url, number)
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", WAYS_OF_SHOWING)
def test_no_way_of_showing_settings_gives_a_secret(tmp_path: Path, way: str) -> None:
    settings = load(tmp_path, SECRETS)
    assert settings.database.url is not None
    assert SENTINEL in settings.database.url.get_secret_value()
    try:
        shown = WAYS_OF_SHOWING[way](settings)
        seen = f"{shown} {shown!r}"
    except Exception as error:
        seen = traceback_with_locals(error)
    assert SENTINEL not in seen


@pytest.mark.parametrize(
    "text",
    [
        SECRETS.replace("postgresql+asyncpg", "mysql"),
        SECRETS.replace("https://hooks.example.com", "http://hooks.example.com"),
        SECRETS + "[ledger]\nmax_parked = 0",
        SECRETS + "[nonsense]",
        SECRETS.replace("url =", "ur ="),
        SECRETS + "[ledger",
        SECRETS.replace('paymaster"\n', "paymaster\n"),
    ],
)
def test_no_error_about_settings_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Neither the message nor the locals of its traceback nor another error behind it."""
    file = tmp_path / "paymaster.toml"
    file.write_text(text)
    monkeypatch.setenv("PAYMASTER__ALERTS__NONSENSE", SENTINEL)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SENTINEL not in f"{error} {error!r} {error.args} {pickle.dumps(error)}"
    assert SENTINEL not in traceback_with_locals(error)


def test_an_error_of_settings_made_in_code_holds_no_secret() -> None:
    values: dict[str, Any] = {"database": {"url": f"mysql://{SENTINEL}@h/d", SENTINEL[:3]: SENTINEL}}
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    assert SENTINEL not in f"{caught.value} {caught.value!r}"


def test_debug_logging_of_pydantic_settings_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PYDANTIC_SETTINGS_DEBUG makes that library log every value that it read."""
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        load(tmp_path, SECRETS)
    assert SENTINEL not in caplog.text


# ---------------------------------------------------------------- the package


def test_settings_need_neither_workflows_nor_activities() -> None:
    """The wheel has neither."""
    code = "import sys, paymaster.settings; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    packages = {module.split(".")[0] for module in run.stdout.split()}
    assert "paymaster" in packages
    assert packages.isdisjoint({"workflows", "activities", "worker"})


def test_the_examples_in_the_page_on_services_are_valid_together(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "services.md").read_text()
    first, pools, weights, prices, retries = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    factor, models = prices.split("[services.openai]\n")[1].split("\n\n", 1)
    settings = load(
        tmp_path, first.replace("[services.openai]\n", f"{retries}\n{factor}\n", 1) + models + pools + weights
    )
    assert settings.routes["editor"].candidates == settings.routes["writer"].candidates
    assert {service.api for service in settings.services.values()} == set(get_args(Api))
