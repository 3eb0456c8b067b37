"""Whoever gives an admin's command again with the same id gets the answer that it got, and nothing is done twice."""

import json
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from desk_kit import NOON, USD, Site, capped, config

from paymaster.admission.answers import digest_of
from paymaster.admission.desk import Desk
from paymaster.admission.signed_commands import SignatureRefused
from paymaster.messages import AdminConfig, CapState, Configure, RaiseCap
from paymaster.security import signing_key
from paymaster.security.signing_key import SigningKey
from paymaster.values.limits import ANSWERS_BYTES_MAX, ANSWERS_MAX, REFUSAL_BYTES_MAX

RAISE = RaiseCap(account="budget:acme", window="day", by="5", reason="launch", who="ada")


def told(site: Site, command_id: str, change: RaiseCap = RAISE) -> CapState:
    """What the ledger's workflow does with an update of this id."""
    desk = site.desk
    act = lambda: desk.raise_cap(change, site.now_ms)  # noqa: E731
    return desk.answers.once(command_id, digest_of("raise_cap", change), CapState, act)


def cap(site: Site) -> int | None:
    return site.desk.ledger.accounts["budget:acme"].balances["day"].cap_nanos


def test_a_raise_given_again_is_applied_once_also_in_the_next_run() -> None:
    site = Site(config())
    first = told(site, "a")
    assert first.cap_nanos == cap(site) == 15 * USD
    assert told(site, "b").cap_nanos == 20 * USD
    assert told(site, "a") == first
    site.desk = Desk.load(site.desk.dump())
    assert told(site, "a") == first
    assert cap(site) == 20 * USD
    assert told(site, "c").cap_nanos == 25 * USD


def test_an_id_with_another_command_is_refused() -> None:
    site = Site(config())
    told(site, "a")
    with pytest.raises(ValueError, match="'a' was used before, for another command"):
        told(site, "a", RAISE.model_copy(update={"by": "6"}))
    assert cap(site) == 15 * USD


def test_what_was_refused_is_refused_with_the_same_words() -> None:
    """Also when it would be possible by now: the answer belongs to the command as it was given first."""
    site = Site(config(budgets={}))
    with pytest.raises(ValueError, match="there is no account") as first:
        told(site, "a")
    site.desk.configure(config("second", budgets={"acme": capped(day=10)}), site.now_ms)
    with pytest.raises(ValueError, match="there is no account") as again:
        told(site, "a")
    assert str(again.value) == str(first.value)
    assert cap(site) == 10 * USD


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKey:
    """Ada's, who signs at noon by the desk's clock."""
    monkeypatch.setattr(signing_key.time, "time", lambda: NOON / 1000)
    return SigningKey.create(tmp_path / "key")


def site_of(key: SigningKey) -> Site:
    """A desk that wants signatures of ada."""
    return Site(config().model_copy(update={"admin": AdminConfig(require_signature=True, keys={"ada": key.public})}))


def test_a_signed_command_given_again_is_not_taken_for_a_copy(key: SigningKey) -> None:
    """It gets its answer, or its refusal; under another id the same signature is a copy, and refused."""
    site = site_of(key)

    def signed(change: RaiseCap) -> RaiseCap:
        return key.sign("raise_cap", change, by="ada", ledger="test", epoch="this run")

    change, wrong = signed(RAISE), signed(RAISE.model_copy(update={"window": "hour"}))
    assert told(site, "a", change) == told(site, "a", change)
    for _ in range(2):
        with pytest.raises(ValueError, match="has no cap for 'hour'"):
            told(site, "b", wrong)
    with pytest.raises(SignatureRefused, match="was used before"):
        told(site, "c", change)
    assert told(site, "a", signed(RAISE)).cap_nanos == 15 * USD, "signed anew, it is still the same command"
    assert cap(site) == 15 * USD


def test_an_unsigned_command_crowds_out_no_answer(key: SigningKey) -> None:
    site = site_of(key)
    for number in range(10):
        with pytest.raises(SignatureRefused):
            told(site, f"mallory {number}")
    assert site.desk.state.answers == {}


def test_answers_are_bounded_in_number_and_bytes() -> None:
    site = Site(config())
    for number in range(ANSWERS_MAX + 10):
        told(site, f"{number}")
    answers = site.desk.state.answers
    assert len(answers) <= ANSWERS_MAX
    assert "0" not in answers
    assert f"{ANSWERS_MAX + 9}" in answers
    long = RAISE.model_copy(update={"account": "budget:" + "预" * 100, "reason": "預" * 1_000})
    for number in range(100):
        with pytest.raises(ValueError, match="there is no account"):
            told(site, f"{number:0900}", long)
        site.desk = Desk.load(site.desk.dump())
        sizes = [len(command_id) + answer.size() for command_id, answer in site.desk.state.answers.items()]
        assert sum(sizes) <= ANSWERS_BYTES_MAX
        assert max(sizes) <= REFUSAL_BYTES_MAX + 1_000


def test_the_rules_of_0_1_0_remember_nothing() -> None:
    """Its workers may go on with the run, and would carry the command out; its dumps have no answers, and load."""
    site = Site(config(), rules=1)
    told(site, "a")
    state = json.loads(zlib.decompress(b64decode(site.desk.dump())))
    assert state.pop("answers") == {}
    site.desk = Desk.load(b64encode(zlib.compress(json.dumps(state).encode())).decode())
    assert told(site, "a").cap_nanos == 20 * USD


def test_a_configuration_is_known_by_its_digest() -> None:
    one, same, other = (Configure(config=config(digest)) for digest in ("first", "first", "second"))
    assert digest_of("configure", one) == digest_of("configure", same) != digest_of("configure", other)
    assert digest_of("configure", one.model_copy(update={"force": True})) != digest_of("configure", one)
