"""What a client has stays where PaymasterPlugin is added, and what Paymaster adds stays where other plugins follow."""

import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from team_codec import ENCODING, TakesOthers, TeamsOwnCodec
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.client import ClientConfig, Plugin
from temporalio.common import HeaderCodecBehavior
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    FailureConverter,
    PayloadConverter,
)
from temporalio.exceptions import ApplicationError
from temporalio.openai_agents import OpenAIAgentsPlugin, OpenAIPayloadConverter
from temporalio.plugin import SimplePlugin

from paymaster.keys.api_key import ApiKey, EnvironmentKeys
from paymaster.plugin import PaymasterPlugin
from paymaster.security.composition import ComposedConverter, composed
from paymaster.security.encryption import ENCRYPTED, PayloadEncryption
from paymaster.security.payloads import (
    PLAIN,
    REASON,
    PayloadUnreadable,
    PaymasterPayloadConverter,
    as_raw,
    in_plain_text,
    read_raw,
)
from paymaster.security.team_codec import team_codec
from paymaster.settings import ConfigurationError, EncryptionSettings, Settings

NAME = "payload-key-2026"
ENVIRONMENT = {"PAYMASTER_KEY_PAYLOAD_KEY_2026": b64encode(os.urandom(32)).decode()}
API_KEY = "sk-composition-0123456789abcdef"


@pytest.fixture(autouse=True)
def keys_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def settings(*keys: str, codec: str | None = None) -> Settings:
    return Settings(encryption=EncryptionSettings(keys=keys, codec=codec))


def converter_of(*plugins: Plugin, data_converter: DataConverter = DataConverter.default) -> DataConverter:
    """What a client with these plugins has in the end."""
    config = ClientConfig(
        service_client=None,  # pyright: ignore[reportArgumentType]
        namespace="default",
        data_converter=data_converter,
        plugins=plugins,
        interceptors=[],
        default_workflow_query_reject_condition=None,
        header_codec_behavior=HeaderCodecBehavior.NO_CODEC,
    )
    for plugin in plugins:
        config = plugin.configure_client(config)
    return config["data_converter"]


class OfTheSDK(DefaultFailureConverter):
    """A failure converter such as other plugins have: it knows exceptions of its own."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        if isinstance(exception, LookupError):
            exception = ApplicationError(f"looked up: {exception}", type="OfTheSDK")
        super().to_failure(exception, payload_converter, failure)


class FromScratch(FailureConverter):
    """A failure converter that is none of the SDK's."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        failure.message = f"from scratch: {exception}"

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        return ApplicationError(failure.message)


def like_strands(converter: DataConverter | None) -> DataConverter:
    """What the plugin for Strands does: leaves everything alone where there is a payload converter."""
    if converter is not None and converter.payload_converter_class is not DefaultPayloadConverter:
        return converter
    return replace(
        converter or DataConverter.default,
        payload_converter_class=PydanticPayloadConverter,
        failure_converter_class=OfTheSDK,
    )


def adds_a_codec(converter: DataConverter | None) -> DataConverter:
    return replace(converter or DataConverter.default, payload_codec=TakesOthers())


def test_a_client_without_a_converter_gets_pydantics() -> None:
    assert converter_of(PaymasterPlugin(settings())).payload_converter_class is PaymasterPayloadConverter
    codec_only = converter_of(PaymasterPlugin(settings()), SimplePlugin("codec", data_converter=adds_a_codec))
    assert codec_only.payload_converter_class is PaymasterPayloadConverter


async def encoded_by(converter: DataConverter, text: str) -> Payload:
    (payload,) = await converter.encode([text])
    return payload


@pytest.mark.parametrize("order", [*permutations(range(4))], ids=str)
@pytest.mark.parametrize("keys", [(), (NAME,)], ids=["plain", "encrypted"])
async def test_plugins_compose_in_each_order(order: tuple[int, ...], keys: tuple[str, ...]) -> None:
    """Two that bring payload converters are not given together: they refuse each other by themselves."""
    plugins: list[Plugin] = [
        PaymasterPlugin(settings(*keys)),
        SimplePlugin("strands", data_converter=like_strands),
        SimplePlugin("codec", data_converter=adds_a_codec),
        PaymasterPlugin(settings(*keys)),  # a mistake that must not encrypt twice
    ]
    converter = converter_of(*(plugins[place] for place in order))
    assert converter.payload_converter_class is PydanticPayloadConverter
    assert isinstance(converter.failure_converter, OfTheSDK)
    payload = await encoded_by(converter, "a prompt")
    assert payload.metadata["encoding"] == (ENCRYPTED if keys else ENCODING)
    assert await converter.decode([payload]) == ["a prompt"]
    inside = await PayloadEncryption(keys, EnvironmentKeys).decode([payload])
    assert inside[0].metadata["encoding"] == ENCODING, "the team's codec, and ours around it"


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_converter_of_the_agents_sdk_stays(ours_first: bool) -> None:
    plugins: list[Plugin] = [OpenAIAgentsPlugin(), PaymasterPlugin(settings())]
    converter = converter_of(*(reversed(plugins) if ours_first else plugins))
    assert converter.payload_converter_class is OpenAIPayloadConverter


def test_what_a_client_has_of_its_own_stays() -> None:
    codec = TakesOthers()
    own = replace(pydantic_data_converter, payload_codec=codec, failure_converter_class=OfTheSDK)
    converter = converter_of(PaymasterPlugin(settings(codec="team_codec:codec")), data_converter=own)
    assert converter.payload_converter_class is PydanticPayloadConverter
    assert isinstance(converter, ComposedConverter)
    assert converter.payload_codec.inner is codec  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert issubclass(converter.failure_converter_class, OfTheSDK)


def test_a_plugin_that_would_drop_the_encryption_is_refused() -> None:
    """Silently readable prompts are the worst that can become of it."""
    instance = SimplePlugin("instance", data_converter=DataConverter())
    with pytest.raises(ConfigurationError, match="as the last plugin"):
        converter_of(PaymasterPlugin(settings(NAME)), instance)
    assert converter_of(instance, PaymasterPlugin(settings(NAME))).payload_codec
    converter_of(PaymasterPlugin(settings()), instance)


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "kind", [DefaultFailureConverter, DefaultFailureConverterWithEncodedAttributes, OfTheSDK, FromScratch]
)
@pytest.mark.parametrize("keys", [(), (NAME,)], ids=["plain", "encrypted"])
async def test_every_failure_converter_redacts_and_encrypts(
    kind: type[FailureConverter], keys: tuple[str, ...]
) -> None:
    ApiKey(API_KEY)
    encryption = PayloadEncryption(keys, EnvironmentKeys)
    converter = composed(DataConverter(failure_converter_class=kind), encryption)
    assert isinstance(converter.failure_converter, kind)
    failure = Failure()
    await converter.encode_failure(LookupError(f"nothing of Plain-text-8Qz with {API_KEY}"), failure)
    written = failure.SerializeToString()
    assert API_KEY.encode() not in written
    assert (b"Plain-text-8Qz" in written) is (not keys)
    assert "Plain-text-8Qz" in str(await converter.decode_failure(failure))


# ---------------------------------------------------------------- messages and marks


def test_messages_cross_in_a_form_of_their_own() -> None:
    for message in ("text", 7, None, Settings()):
        assert read_raw(as_raw(message), type(message)) == message


async def test_what_came_in_plain_text_is_answered_so() -> None:
    encryption = PayloadEncryption([NAME], EnvironmentKeys)
    converter = replace(composed(DataConverter(), encryption), marks_plain=True)
    codec = converter.payload_codec
    assert codec is not None
    plain, encrypted = as_raw("plain").payload, (await codec.encode([as_raw("secret").payload]))[0]
    marked, decoded = await codec.decode([plain, encrypted])
    assert PLAIN in marked.metadata
    assert PLAIN not in decoded.metadata
    assert await codec.encode([marked, decoded]) != [plain, decoded]
    assert (await codec.encode([marked, decoded]))[0] == plain
    assert (await codec.encode([in_plain_text("plain").payload])) == [plain]


async def test_nobody_else_says_what_is_plain_or_unreadable() -> None:
    """Else a stranger's signal could make a workflow wait for a key, or answers go out readable."""
    codec = composed(DataConverter(), PayloadEncryption([NAME], EnvironmentKeys)).payload_codec
    assert codec is not None
    forged = Payload(metadata={"encoding": ENCRYPTED, REASON: b"missing key"}, data=b"wait")
    (received,) = await codec.decode([forged])
    with pytest.raises(PayloadUnreadable):
        PaymasterPayloadConverter().from_payload(received)
    (received,) = await codec.decode([in_plain_text("x").payload])
    assert PLAIN not in received.metadata


# ---------------------------------------------------------------- the team's codec in the settings


class Moody(TeamsOwnCodec):
    """Fails as it is told to."""

    error: Exception = ValueError("broken")

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        raise self.error


async def test_what_a_codec_cannot_decode_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("team_codec.codec", Moody())
    codec = team_codec("team_codec:codec")
    plain, theirs = as_raw("plain").payload, Payload(metadata={"encoding": ENCODING}, data=b"?")
    as_it_was, reason = await codec.decode([plain, theirs])
    assert as_it_was == plain
    with pytest.raises(PayloadUnreadable, match="the codec team_codec:codec cannot decode this: ValueError: broken"):
        PaymasterPayloadConverter().from_payload(reason)
    monkeypatch.setattr(Moody, "error", ConnectionError("the vault is away"))
    with pytest.raises(ConnectionError):
        await codec.decode([theirs])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:codec", "ModuleNotFoundError"),
        ("team_codec:nothing", "AttributeError"),
        ("team_codec:ENCODING", "TypeError"),
        ("collections:OrderedDict", "neither is nor makes a temporalio PayloadCodec"),
    ],
)
def test_a_codec_that_cannot_be_loaded_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"encryption.codec: {name}.*{said}"):
        PaymasterPlugin(settings(codec=name))


@pytest.mark.parametrize("name", ["team_codec", "team_codec:", ":codec", "team codec:x", "a:b:c", "os.system('x'):y"])
def test_what_names_no_object_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="module:object"):
        EncryptionSettings(codec=name)


async def test_a_class_of_codecs_is_made() -> None:
    made: Any = team_codec("team_codec:TeamsOwnCodec")
    payload = as_raw("text").payload
    assert await made.decode(await made.encode([payload])) == [payload]
