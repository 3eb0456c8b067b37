"""What a Temporal client or worker needs to speak Paymaster's messages."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from pydantic import ValidationError
from temporalio.client import ClientConfig
from temporalio.common import HeaderCodecBehavior
from temporalio.plugin import SimplePlugin
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker import ReplayerConfig, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from paymaster.keys.ring import key_source
from paymaster.messages import ACTIVITIES_TASK_QUEUE, CALLS_TASK_QUEUE, LEDGER_TASK_QUEUE
from paymaster.security.encryption import PayloadEncryption, data_converter
from paymaster.settings import Settings, load_settings_if_any


def _with_paymaster_passed_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    """Paymaster's own modules are deterministic: importing them anew for each workflow run would only cost time."""
    if runner is None:
        runner = SandboxedWorkflowRunner()
    if isinstance(runner, SandboxedWorkflowRunner):
        return replace(runner, restrictions=runner.restrictions.with_passthrough_modules("paymaster"))
    return runner


class PaymasterPlugin(SimplePlugin):
    """Give it to `Client.connect(plugins=[PaymasterPlugin()])`; workers of that client have it too.

    It sets the Pydantic data converter, encrypts payloads where that is configured, keeps known keys out of failures,
    and lets workflow code import `paymaster` without the sandbox's copy.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """`settings` None: those of this process, from PAYMASTER_CONFIG, paymaster.toml and PAYMASTER__… variables, as
        far as there are any. Only `encryption` and `keys` matter here.

        Raises ConfigurationError; connecting raises KeyUnavailable when a key for the encryption is not there.
        """
        settings = load_settings_if_any() if settings is None else settings
        self._encryption = PayloadEncryption(settings.encryption.keys, partial(key_source, settings))
        super().__init__(
            "paymaster",
            data_converter=data_converter(self._encryption),
            workflow_runner=_with_paymaster_passed_through,
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Also has a mistake in a request fail the agent that made it, whose task would be tried again for ever. Not
        where Paymaster's own workflows run: there it would be an error of ours, and nothing may be lost."""
        config = super().configure_worker(config)
        if config.get("task_queue") not in (CALLS_TASK_QUEUE, LEDGER_TASK_QUEUE, ACTIVITIES_TASK_QUEUE):
            types = config.get("workflow_failure_exception_types", ())
            config["workflow_failure_exception_types"] = [*types, ValidationError]
        return config

    async def connect_service_client(
        self, config: ConnectConfig, next: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> ServiceClient:
        """Also fetches the keys: a missing one is better noticed now than by the first payload."""
        await self._encryption.load()
        return await super().connect_service_client(config, next)

    def configure_client(self, config: ClientConfig) -> ClientConfig:
        """Also has headers encoded, which the SDK otherwise leaves as they are."""
        config["header_codec_behavior"] = HeaderCodecBehavior.CODEC
        return super().configure_client(config)

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Replays have headers encoded too."""
        config["header_codec_behavior"] = HeaderCodecBehavior.CODEC
        return super().configure_replayer(config)
