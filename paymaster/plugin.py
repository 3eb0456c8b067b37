"""What a Temporal client or worker needs to speak Paymaster's messages."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from temporalio.client import Client, ClientConfig
from temporalio.common import HeaderCodecBehavior
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.plugin import SimplePlugin
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker import Interceptor, ReplayerConfig, WorkerConfig, WorkflowInterceptorClassInput

from paymaster.asked_ledger import NamesLedger, TellsLedger, ledger_of_client
from paymaster.keys.ring import key_source
from paymaster.messages.temporal_names import STORAGES_FUNCTION, is_own_task_queue
from paymaster.passed_through import failure_types, with_sandbox
from paymaster.run_headers import RunHeaders
from paymaster.security.composition import ComposedConverter, composed
from paymaster.security.encryption import PayloadEncryption
from paymaster.security.payloads import PaymasterPayloadConverter
from paymaster.security.team_codec import team_codec
from paymaster.security.team_storage import storage_names, team_storage
from paymaster.settings import ConfigurationError, Settings, load_settings_if_any
from paymaster.settings.kinds import check_ledger_name


class _TellsStorages(Interceptor):
    """Lets an agent's workflow know from which external storages it reads."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> None:
        input.unsafe_extern_functions[STORAGES_FUNCTION] = lambda: ",".join(self._names)


class PaymasterPlugin(SimplePlugin, NamesLedger):
    """Give it to `Client.connect(plugins=[PaymasterPlugin()])`; workers of that client have it too.

    It encrypts payloads where that is configured, keeps known keys out of failures, and lets workflow code import
    `paymaster`, and the SDKs over it, without the sandbox's copy. What `run_budget` says reaches the activities and
    child workflows that are started within. What the client has stays: payload converter, codec, failure converter and
    external storage, also those of other plugins, before or after this one. A client that has no payload converter of
    its own gets Pydantic's.
    """

    def __init__(self, settings: Settings | None = None, *, ledger: str | None = None) -> None:
        """`settings` None: those of this process, from PAYMASTER_CONFIG, paymaster.toml and PAYMASTER__… variables, as
        far as there are any. Only `ledger.name`, `encryption`, `payloads` and `keys` matter here.

        `ledger`: the name of the ledger in which calls are made. Default: `ledger.name` of the settings.

        Raises ConfigurationError; connecting raises KeyUnavailable when a key for the encryption is not there.
        """
        settings = load_settings_if_any() if settings is None else settings
        NamesLedger.__init__(self, settings.ledger.name if ledger is None else _checked(ledger))
        self._encryption = PayloadEncryption(settings.encryption.keys, partial(key_source, settings))
        self._codec = None if settings.encryption.codec is None else team_codec(settings.encryption.codec)
        self._storage = None if settings.payloads.storage is None else team_storage(settings.payloads.storage)
        super().__init__("paymaster", workflow_runner=with_sandbox)

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Also has a mistake in a request, and an SDK's failed request, fail the agent that does not catch it: its task
        would be tried again for ever. Not where Paymaster's own workflows run: there it would be an error of ours, and
        nothing may be lost.

        Raises ConfigurationError where another plugin has taken the encryption out of the client, and where the client
        asks another ledger.
        """
        config = super().configure_worker(config)
        client = config.get("client")
        if client is not None and any(plugin is self for plugin in client.config()["plugins"]):
            self._check(client.data_converter)
        elif client is not None and ledger_of_client(client) != self.ledger:
            self._check_other(client)
        config["interceptors"] = [*config.get("interceptors", ()), TellsLedger(self.ledger)]
        names = () if client is None else storage_names(client.data_converter)
        if names:
            config["interceptors"] = [*config.get("interceptors", ()), _TellsStorages(names)]
        if not is_own_task_queue(config.get("task_queue") or ""):
            config["interceptors"] = [*config.get("interceptors", ()), RunHeaders()]
            types = config.get("workflow_failure_exception_types", ())
            config["workflow_failure_exception_types"] = [*types, *failure_types()]
        return config

    async def connect_service_client(
        self, config: ConnectConfig, next: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> ServiceClient:
        """Also fetches the keys: a missing one is better noticed now than by the first payload."""
        await self._encryption.load()
        return await super().connect_service_client(config, next)

    def configure_client(self, config: ClientConfig) -> ClientConfig:
        """Also has headers encoded where there is something to encode them with, which the SDK leaves as they are.

        Raises ConfigurationError where a later plugin would take the encryption out again.
        """
        config = super().configure_client(config)
        plugins = list(config.get("plugins", ()))
        place = next((place for place, plugin in enumerate(plugins) if plugin is self), len(plugins))
        before = config.get("data_converter", DataConverter.default)
        config["data_converter"] = self._on_top_of(before, plugins[place + 1 :])
        if self._encodes:
            config["header_codec_behavior"] = HeaderCodecBehavior.CODEC
        return config

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Replays decode what clients encode. The later plugins are not known here: give it as the last one."""
        config = super().configure_replayer(config)
        config["data_converter"] = self._on_top_of(config.get("data_converter", DataConverter.default), [])
        if self._encodes:
            config["header_codec_behavior"] = HeaderCodecBehavior.CODEC
        config["interceptors"] = [*config.get("interceptors", ()), TellsLedger(self.ledger)]
        if names := storage_names(config["data_converter"]):
            config["interceptors"] = [*config.get("interceptors", ()), _TellsStorages(names)]
        return config

    @property
    def _encodes(self) -> bool:
        return self._encryption.encrypts or self._codec is not None

    def _on_top_of(self, before: DataConverter, later: Sequence[object]) -> DataConverter:
        """That converter with ours on top. Pydantic's payload converter, unless there is one or a later plugin has one:
        such plugins refuse or leave alone what is not the SDK's own."""
        converter = composed(before, self._encryption, self._codec, self._storage)
        foreseen = _changed_by(later, converter)
        self._check(foreseen)
        if foreseen.payload_converter_class is DefaultPayloadConverter:
            return replace(converter, payload_converter_class=PaymasterPayloadConverter)
        return converter

    def _check_other(self, client: Client) -> None:
        """Raises ConfigurationError where a client names another ledger by a plugin of its own."""
        if any(isinstance(plugin, NamesLedger) for plugin in client.config()["plugins"]):
            raise ConfigurationError(
                [
                    f"ledger: the client's PaymasterPlugin names {ledger_of_client(client)!r}, the worker's "
                    f"{self.ledger!r}; a worker with the client's plugin needs none of its own"
                ]
            )

    def _check(self, converter: DataConverter) -> None:
        encryption = converter.encryption if isinstance(converter, ComposedConverter) else None
        if self._encodes and (encryption is None or encryption.encrypts < self._encryption.encrypts):
            raise ConfigurationError(
                [
                    "encryption: another plugin puts a data converter of its own in the place of the one that "
                    "encrypts, and prompts would be readable in Temporal; give PaymasterPlugin as the last plugin"
                ]
            )


def _checked(ledger: str) -> str:
    """Raises ConfigurationError."""
    try:
        return check_ledger_name(ledger)
    except ValueError as error:
        raise ConfigurationError([f"ledger: {error}"]) from None


def _changed_by(plugins: Sequence[object], converter: DataConverter) -> DataConverter:
    """What these plugins make of a converter, as far as they say it the SDK's way."""
    for plugin in plugins:
        change = plugin.data_converter if isinstance(plugin, SimplePlugin) else None
        if change is not None:
            converter = change(converter) if callable(change) else change
    return converter
