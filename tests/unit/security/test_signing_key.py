"""Signing keys of admins: their files, and that a signature is good for one command to one ledger only."""

import json
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from paymaster.admission.signatures import is_genuine
from paymaster.messages import AccountConfig, Configure, DeskConfig, RaiseCap, SetCap
from paymaster.security.signing_key import KeyFileUnusable, SigningKey
from paymaster.settings import ConfigurationError, Settings, load_settings
from paymaster.values.packed import pack, unpack

CHANGE = RaiseCap(account="budget:acme", window="day", by="5", reason="launch", who="alice@laptop")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.create(tmp_path_factory.mktemp("keys") / "alice.pem")


def signed(key: SigningKey) -> RaiseCap:
    return key.sign("raise_cap", CHANGE, by="alice", ledger="default", epoch="run-1")


def genuine(public: str, command: RaiseCap, action: str = "raise_cap", ledger: str = "default", epoch: str = "run-1"):
    assert command.signature is not None
    return is_genuine(public, action, command, command.signature, ledger=ledger, epoch=epoch)


def test_a_signature_is_genuine_for_exactly_what_was_signed(key: SigningKey, tmp_path: Path) -> None:
    """Another field, action, ledger, epoch, signer, id, time or key, and it is not."""
    command = signed(key)
    assert genuine(key.public, command)
    assert genuine(key.public, RaiseCap.model_validate_json(command.model_dump_json())), "it travels as JSON"
    assert command.signature is not None
    for change in (
        {"account": "budget:acme2"},
        {"account": "service:acme"},
        {"window": "month"},
        {"by": "5.0"},
        {"by": "50"},
        {"until_window_end": True},
        {"reason": ""},
        {"who": "mallory"},
        {"signature": command.signature.model_copy(update={"by": "bob"})},
        {"signature": command.signature.model_copy(update={"id": "another"})},
        {"signature": command.signature.model_copy(update={"expires_at_ms": command.signature.expires_at_ms + 1})},
        {"signature": command.signature.model_copy(update={"value": "A" * 88})},
        {"signature": command.signature.model_copy(update={"value": "not base64"})},
        {"signature": command.signature.model_copy(update={"value": ""})},
    ):
        assert not genuine(key.public, command.model_copy(update=change)), change
    assert not genuine(key.public, command, action="set_cap")
    assert not genuine(key.public, command, ledger="other")
    assert not genuine(key.public, command, epoch="run-2")
    assert not genuine(SigningKey.create(tmp_path / "other.pem").public, command)
    assert not genuine("no key", command)


def test_a_raise_is_no_set_and_each_signature_has_its_own_id(key: SigningKey) -> None:
    """Even where the fields are the same: the action is signed too."""
    set_cap = SetCap(account="budget:acme", window="day", to="5")
    signature = key.sign("set_cap", set_cap, by="alice", ledger="default", epoch="run-1").signature
    assert signature is not None
    assert not is_genuine(key.public, "raise_cap", CHANGE, signature, ledger="default", epoch="run-1")
    first, second = signed(key).signature, signed(key).signature
    assert first is not None
    assert second is not None
    assert first.id != second.id


def test_a_signed_configuration_is_signed_as_a_whole(key: SigningKey) -> None:
    """Not only its digest, which is what its sender says."""
    change = Configure(config=DeskConfig(digest="d", max_parked=7))
    signature = key.sign("configure", change, by="alice", ledger="default", epoch="run-1").signature
    assert signature is not None
    assert is_genuine(key.public, "configure", change, signature, ledger="default", epoch="run-1")
    for changed in (
        Configure(config=DeskConfig(digest="d", max_parked=8)),
        Configure(config=DeskConfig(digest="d", max_parked=7), force=True),
    ):
        assert not is_genuine(key.public, "configure", changed, signature, ledger="default", epoch="run-1")


def test_a_signature_does_not_depend_on_how_a_configuration_is_sent(key: SigningKey) -> None:
    """A large one is compressed on its way, and zlib may do that differently elsewhere."""
    budgets = {f"acme/{number}": AccountConfig(caps_nanos={"day": number}) for number in range(10_000)}
    change = Configure(config=DeskConfig(digest="d", budgets=budgets))
    sent = key.sign("configure", change, by="alice", ledger="default", epoch="run-1").model_dump_json()
    assert "packed" in sent
    arrived = Configure.model_validate_json(sent)
    assert arrived.signature is not None
    assert is_genuine(key.public, "configure", arrived, arrived.signature, ledger="default", epoch="run-1")
    document = json.loads(sent)
    repacked = pack(unpack(document["config"]["packed"], 10_000_000), level=1)
    again = Configure.model_validate(document | {"config": {"packed": repacked}})
    assert is_genuine(key.public, "configure", again, arrived.signature, ledger="default", epoch="run-1")


def test_a_key_file_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    """The rules of `ssh` hold; and neither the object nor an error shows the key."""
    file = tmp_path / "alice.pem"
    key = SigningKey.create(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert SigningKey.read(file).public == key.public
    assert repr(key) == f"SigningKey(public={key.public!r})"
    with pytest.raises(KeyFileUnusable, match="exists already"):
        SigningKey.create(file)
    with pytest.raises(KeyFileUnusable, match="cannot be written: No such file"):
        SigningKey.create(tmp_path / "nowhere" / "alice.pem")
    file.chmod(0o640)
    with pytest.raises(KeyFileUnusable, match=r"read by others; run `chmod 600 .*alice.pem`"):
        SigningKey.read(file)


def test_a_file_that_holds_no_key_of_ours_says_what_to_do(tmp_path: Path) -> None:
    """Missing, no PEM, another kind of key, or one with a passphrase."""
    with pytest.raises(KeyFileUnusable, match="cannot be read: No such file"):
        SigningKey.read(tmp_path / "missing.pem")
    (tmp_path / "text").write_text("hello")
    run = ["openssl", "genpkey", "-out"]
    subprocess.run([*run, tmp_path / "rsa", "-algorithm", "RSA"], check=True, capture_output=True)
    locked = [*run, tmp_path / "locked", "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret"]
    subprocess.run(locked, check=True, capture_output=True)
    for name in ("text", "rsa", "locked"):
        (tmp_path / name).chmod(0o600)
        with pytest.raises(KeyFileUnusable, match="is not an Ed25519 key in PEM without a passphrase"):
            SigningKey.read(tmp_path / name)
    subprocess.run([*run, tmp_path / "good", "-algorithm", "ed25519"], check=True, capture_output=True)
    (tmp_path / "good").chmod(0o600)
    assert len(SigningKey.read(tmp_path / "good").public) == 44, "openssl's own are as good"


# ---------------------------------------------------------------- configuration


def load(tmp_path: Path, table: str) -> Settings:
    (tmp_path / "paymaster.toml").write_text(f"[admin]\n{table}")
    return load_settings(tmp_path / "paymaster.toml", environ={})


def test_public_keys_are_in_the_configuration_by_name(key: SigningKey, tmp_path: Path) -> None:
    settings = load(tmp_path, f'require_signature = true\n[admin.keys]\n"alice@acme.com" = {json.dumps(key.public)}')
    assert settings.admin.require_signature
    assert settings.admin.keys == {"alice@acme.com": key.public}
    assert load(tmp_path, "").admin.require_signature is False


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("require_signature = true", "admin.keys: require_signature = true, and nobody could sign; `paymaster admin"),
        ('keys = { alice = "c2hvcnQ=" }', "admin.keys.alice: not a public key: write the line that"),
        ('keys = { alice = "-----BEGIN PRIVATE KEY-----" }', "admin.keys.alice: not a public key: write the line"),
        ('keys = { "al ice" = "x" }', "not a name"),
        ("require_signatures = true", "admin.require_signatures: unknown key; did you mean require_signature?"),
    ],
)
def test_a_wrong_table_says_what_to_write_and_shows_nothing(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, table)
    assert says in str(raised.value)
    assert "BEGIN PRIVATE" not in str(raised.value)


def test_a_signature_has_no_field_that_nobody_knows() -> None:
    """Nothing is guessed and nothing dropped, as in the commands themselves."""
    with pytest.raises(ValidationError):
        RaiseCap.model_validate(
            {
                "account": "a",
                "window": "day",
                "by": "1",
                "signature": {"by": "a", "id": "1", "expires_at_ms": 1, "v": ""},
            }
        )
