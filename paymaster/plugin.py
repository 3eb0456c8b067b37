"""What a Temporal client or worker needs to speak Paymaster's messages."""

from dataclasses import replace

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.plugin import SimplePlugin
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from paymaster.security.failures import RedactingFailureConverter


def _with_paymaster_passed_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    """Paymaster's own modules are deterministic: importing them anew for each workflow run would only cost time."""
    if runner is None:
        runner = SandboxedWorkflowRunner()
    if isinstance(runner, SandboxedWorkflowRunner):
        return replace(runner, restrictions=runner.restrictions.with_passthrough_modules("paymaster"))
    return runner


class PaymasterPlugin(SimplePlugin):
    """Give it to `Client.connect(plugins=[PaymasterPlugin()])`; workers of that client have it too.

    It sets the Pydantic data converter, keeps known keys out of failures, and lets workflow code import `paymaster`
    without the sandbox's copy.
    """

    def __init__(self) -> None:
        super().__init__(
            "paymaster",
            data_converter=replace(pydantic_data_converter, failure_converter_class=RedactingFailureConverter),
            workflow_runner=_with_paymaster_passed_through,
        )
