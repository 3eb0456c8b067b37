"""Payload encryption: what is encrypted comes back whole or not at all, and every failure says what to do."""

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.client import Client
from temporalio.common import HeaderCodecBehavior, RawValue
from temporalio.exceptions import ApplicationError

from paymaster.keys.api_key import EnvironmentKeys, KeyUnavailable
from paymaster.messages import LLMRequest
from paymaster.plugin import PaymasterPlugin
from paymaster.security.composition import ComposedCodec, data_converter
from paymaster.security.encryption import ENCRYPTED, PayloadEncryption
from paymaster.security.payloads import PayloadUnreadable
from paymaster.settings import ConfigurationError, EncryptionSettings, Settings, load_settings

OLD, NEW = "payload-key-2025", "payload-key-2026"
VALUES = {OLD: b64encode(bytes(range(32))).decode(), NEW: b64encode(os.urandom(32)).decode()}
PROMPT = "The moon pulls on the sea"
REQUEST = LLMRequest(route="writer", budget="acme", prompt=PROMPT)
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=REQUEST.model_dump_json().encode())


def encryption(*names: str, values: Mapping[str, str] = VALUES) -> PayloadEncryption:
    variables = {f"PAYMASTER_KEY_{name.upper().replace('-', '_')}": value for name, value in values.items()}
    return PayloadEncryption(names, lambda: EnvironmentKeys(variables))


async def encrypted(*names: str) -> Payload:
    (payload,) = await encryption(*names).encode([PLAIN])
    return payload


@settings(deadline=None)
@given(st.lists(st.tuples(st.dictionaries(st.text(), st.binary()), st.binary(max_size=5_000)), max_size=4))
async def test_what_was_encrypted_comes_back_whole(contents: list[tuple[dict[str, bytes], bytes]]) -> None:
    payloads = [Payload(metadata=metadata, data=data) for metadata, data in contents]
    codec = encryption(NEW)
    hidden = await codec.encode(payloads)
    assert [payload.metadata["encoding"] for payload in hidden] == [ENCRYPTED] * len(payloads)
    assert await codec.decode(hidden) == payloads


async def test_nothing_of_the_content_and_nothing_of_the_key_is_readable() -> None:
    first, second = await encrypted(NEW), await encrypted(NEW)
    for word in (b"pulls", b"writer", b"acme", b"json/plain"):
        assert word in PLAIN.SerializeToString()
        assert word not in first.SerializeToString()
    assert VALUES[NEW].encode()[:8] not in first.SerializeToString()
    assert first.data[:28] != second.data[:28], "the same salt and nonce twice"
    assert first.data != second.data


async def test_the_first_key_encrypts_and_all_of_them_decrypt() -> None:
    """Rotation: the new key is first added behind the old one everywhere, then put first; the old one stays."""
    of_old = await encrypted(OLD)
    only_old, both_old_first, both = encryption(OLD), encryption(OLD, NEW), encryption(NEW, OLD)
    of_new = (await both.encode([PLAIN]))[0]
    assert of_new.metadata["encryption-key-id"] == NEW.encode()
    for codec in (both_old_first, both):
        assert await codec.decode([of_old, of_new]) == [PLAIN, PLAIN]
    assert (await both_old_first.encode([PLAIN]))[0].metadata["encryption-key-id"] == OLD.encode()
    with pytest.raises(KeyUnavailable, match=f"{NEW}.*add it to that list"):
        await data_converter(only_old).decode([of_new])


async def test_plain_payloads_are_taken_as_they_are() -> None:
    """A signal from the Temporal UI, and histories from before the encryption was turned on."""
    by_hand = Payload(metadata={"encoding": b"json/plain"}, data=b'{"account":"budget:acme"}')
    assert await encryption(NEW).decode([by_hand, await encrypted(NEW), Payload()]) == [by_hand, PLAIN, Payload()]


async def test_without_keys_nothing_is_encrypted_and_what_is_says_what_to_do() -> None:
    codec = encryption()
    assert await codec.encode([PLAIN]) == [PLAIN]
    with pytest.raises(KeyUnavailable, match=rf"{NEW}.*\[encryption\] keys.*PAYMASTER__ENCRYPTION__KEYS"):
        await data_converter(codec).decode([await encrypted(NEW)])


@pytest.mark.parametrize(
    "value", ["hunter2", b64encode(b"x" * 31).decode(), b64encode(b"x" * 33).decode(), "é" * 44, "!" * 44, "0" * 64]
)
async def test_a_key_that_is_not_32_bytes_in_base64_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(KeyUnavailable, match=NEW) as refused:
        await encryption(NEW, values={NEW: value}).load()
    assert value not in str(refused.value)


async def test_a_key_that_is_not_there_is_named_with_the_variable_to_set() -> None:
    for use in (encryption(NEW, values={}).load(), encryption(NEW, values={}).encode([PLAIN])):
        with pytest.raises(KeyUnavailable, match=f"{NEW}.*PAYMASTER_KEY_PAYLOAD_KEY_2026"):
            await use


# ---------------------------------------------------------------- attacks


async def test_no_byte_can_be_changed_and_none_cut_off() -> None:
    codec, good = encryption(NEW, OLD), await encrypted(NEW)
    await codec.load()
    broken = [good.data[:at] + bytes([good.data[at] ^ 1]) + good.data[at + 1 :] for at in range(len(good.data))]
    broken += [good.data[:length] for length in range(len(good.data))] + [good.data + b"\0", good.data * 2]
    for data in broken:
        with pytest.raises(PayloadUnreadable, match=NEW):
            codec.decrypt(Payload(metadata=good.metadata, data=data))


async def test_a_payload_cannot_be_passed_off_as_another_keys() -> None:
    """Neither by the name of another key that is in use, nor with its check too, nor without any."""
    codec, good, other = encryption(NEW, OLD), await encrypted(NEW), await encrypted(OLD)
    await codec.load()
    swapped = {**good.metadata, "encryption-key-id": OLD.encode()}
    for metadata in (swapped, {**swapped, "encryption-key-check": other.metadata["encryption-key-check"]}):
        with pytest.raises(PayloadUnreadable, match=OLD):
            codec.decrypt(Payload(metadata=metadata, data=good.data))
    for name in ({}, {"encryption-key-id": b"\xff\xfe"}, {"encryption-key-id": b"openai-api-key"}):
        foreign = Payload(metadata={"encoding": ENCRYPTED, **name}, data=good.data)
        assert codec.decrypt(foreign) == foreign, "without the check it is not of this codec"
        with pytest.raises(KeyUnavailable):
            codec.decrypt(Payload(metadata={**foreign.metadata, "encryption-key-check": b"0"}, data=good.data))


async def test_another_value_under_the_same_name_is_told_from_a_broken_payload() -> None:
    """What a vault's "new version" of a secret does."""
    codec = encryption(NEW, values={NEW: b64encode(os.urandom(32)).decode()})
    await codec.load()
    with pytest.raises(PayloadUnreadable, match=f"another key that was called '{NEW}'.*a name of its own"):
        codec.decrypt(await encrypted(NEW))


async def test_what_cannot_be_decrypted_fails_who_reads_it_and_nobody_else() -> None:
    """An error while decoding would fail every task of the workflow, and with the ledger all calls would stop."""
    broken = await encrypted(NEW)
    broken.data = broken.data[:-1]
    converter = data_converter(encryption(NEW))
    assert await converter.decode([await encrypted(NEW)], [LLMRequest]) == [REQUEST]
    for hint in (LLMRequest, dict, None):
        with pytest.raises(PayloadUnreadable, match="changed or cut"):
            await converter.decode([broken], [hint] if hint else None)
    (raw,) = await converter.decode([broken], [RawValue])
    assert "changed or cut" in raw.payload.data.decode()


# ---------------------------------------------------------------- failures, headers, the plugin


async def failure_of(converter_of: PayloadEncryption) -> Failure:
    converter, failure = data_converter(converter_of), Failure()
    try:
        try:
            raise ValueError(f"cannot say {PROMPT}")
        except ValueError as cause:
            raise ApplicationError(f"the provider repeats: {PROMPT}", {"prompt": PROMPT}, type="NotBilled") from cause
    except ApplicationError as error:
        await converter.encode_failure(error, failure)
    return failure


async def test_messages_and_stack_traces_of_failures_are_encrypted_with_their_causes() -> None:
    failure = await failure_of(encryption(NEW))
    stored = failure.SerializeToString()
    assert PROMPT.encode() not in stored
    assert b"failure_of" not in stored, "the stack trace is readable"
    assert failure.application_failure_info.type == "NotBilled"  # what retry policies look at
    error = await data_converter(encryption(NEW)).decode_failure(failure)
    assert PROMPT in str(error)
    assert PROMPT in str(error.__cause__)


async def test_without_encryption_failures_stay_readable() -> None:
    assert PROMPT in (await failure_of(encryption())).message


async def test_an_agents_plugin_takes_the_encryption_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any file, from paymaster.toml, and from settings made in code; by default there is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAYMASTER_CONFIG", raising=False)
    assert not names_in(PaymasterPlugin())
    monkeypatch.setenv("PAYMASTER__ENCRYPTION__KEYS", f'["{NEW}"]')
    assert names_in(PaymasterPlugin())
    monkeypatch.delenv("PAYMASTER__ENCRYPTION__KEYS")
    (tmp_path / "paymaster.toml").write_text(f'[encryption]\nkeys = ["{NEW}"]\n')
    assert names_in(PaymasterPlugin())
    assert not names_in(PaymasterPlugin(Settings()))
    monkeypatch.setenv("PAYMASTER_CONFIG", str(tmp_path / "other.toml"))
    with pytest.raises(ConfigurationError, match=r"other\.toml"):
        PaymasterPlugin()


def names_in(plugin: PaymasterPlugin) -> bool:
    converter = plugin.configure_client({})["data_converter"]  # pyright: ignore[reportArgumentType]
    assert isinstance(converter.payload_codec, ComposedCodec)
    return converter.payload_codec.encryption.encrypts


async def test_a_missing_key_is_noticed_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAYMASTER_KEY_PAYLOAD_KEY_2026", raising=False)
    plugin = PaymasterPlugin(Settings(encryption=EncryptionSettings(keys=(NEW,))))
    with pytest.raises(KeyUnavailable, match="PAYMASTER_KEY_PAYLOAD_KEY_2026"):
        await Client.connect("127.0.0.1:1", plugins=[plugin])


def test_headers_are_encoded_where_payloads_are() -> None:
    encrypting = PaymasterPlugin(Settings(encryption=EncryptionSettings(keys=(NEW,))))
    for plugin, behavior in ((PaymasterPlugin(Settings()), None), (encrypting, HeaderCodecBehavior.CODEC)):
        for configured in (plugin.configure_client({}), plugin.configure_replayer({})):  # pyright: ignore[reportArgumentType]
            assert configured.get("header_codec_behavior") is behavior


@pytest.mark.parametrize(
    ("keys", "fix"),
    [
        (f'["{NEW}", "{NEW}"]', "twice"),
        ('["sk-live-0123456789abcdefghijklmn"]', "only the NAME of a key"),
        (f'"{NEW}"', "must be a list"),
    ],
)
def test_a_wrong_list_of_keys_is_refused_with_its_fix(tmp_path: Path, keys: str, fix: str) -> None:
    file = tmp_path / "paymaster.toml"
    file.write_text(f"[encryption]\nkeys = {keys}\n")
    with pytest.raises(ConfigurationError, match=rf"encryption\.keys.*{fix}"):
        load_settings(file, environ={})
