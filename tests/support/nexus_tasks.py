"""What the SDK gives to a Nexus operation, for tests without a server."""

from nexusrpc.handler import OperationTaskCancellation


class NeverCancelled(OperationTaskCancellation):
    """A task that runs to its end."""

    def is_cancelled(self) -> bool:
        return False

    def cancellation_reason(self) -> str | None:
        return None

    def wait_until_cancelled_sync(self, timeout: float | None = None) -> bool:
        return False

    async def wait_until_cancelled(self) -> None:
        raise NotImplementedError
