"""Links into the Temporal UI, where the configuration says where people open it."""

from urllib.parse import quote, urlencode

_PARKED = "`PaymasterOutcome`='parked' AND `ExecutionStatus`='Running'"


class TemporalLinks:
    def __init__(self, base_url: str | None, namespace: str) -> None:
        """`base_url` None: there are no links."""
        self._namespace = None if base_url is None else f"{base_url}/namespaces/{quote(namespace, safe='')}"

    def workflow(self, workflow_id: str) -> str | None:
        return None if self._namespace is None else f"{self._namespace}/workflows/{quote(workflow_id, safe='')}"

    def parked(self) -> str | None:
        """All calls that run and had to wait."""
        return None if self._namespace is None else f"{self._namespace}/workflows?{urlencode({'query': _PARKED})}"
