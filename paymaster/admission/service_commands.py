"""Services that admins pause, and let go on."""

from paymaster.admission import alert_texts
from paymaster.admission.authority import signed
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import Gate
from paymaster.admission.outbox import Outbox
from paymaster.admission.parking import Parking
from paymaster.admission.state import DeskState
from paymaster.messages import PauseService, ResumeService, ServiceState
from paymaster.messages.temporal_names import PAUSE_SERVICE, RESUME_SERVICE
from paymaster.values.cut import cut
from paymaster.values.limits import PAUSED_BY_BYTES_MAX


class ServiceCommands:
    def __init__(self, state: DeskState, ledger: Ledger, outbox: Outbox, parking: Parking) -> None:
        self._state, self._ledger, self._outbox, self._parking = state, ledger, outbox, parking

    def pause(self, change: PauseService) -> ServiceState:
        """Sends nothing more to a service; takes back what was granted and not sent. Raises ValueError for no such."""
        change = signed(self._state, PAUSE_SERVICE.name, change)
        gate = self._gate(change.service)
        gate.paused_by = cut(alert_texts.by_whom(change), PAUSED_BY_BYTES_MAX)
        self._ledger.mark([f"service:{change.service}"])
        self._tell(change.service, alert_texts.service_paused(change))
        for hold in self._ledger.pending.values():
            if hold.grant.service == change.service:
                self._outbox.withdraw(hold, f"{change.service} was paused by {gate.paused_by}")
        return ServiceState(service=change.service, paused=True, paused_by=gate.paused_by)

    def resume(self, change: ResumeService) -> ServiceState:
        """Ends an admin's pause, and also a pause of the service's own and an open breaker."""
        change = signed(self._state, RESUME_SERVICE.name, change)
        gate = self._gate(change.service)
        paused_by, margin_percent = gate.paused_by, gate.counted_margin_percent
        gate.open_up()
        if gate.counted_margin_percent != margin_percent:  # who waits with a count needs less than it was filed with
            self._parking.file_again()
        self._tell(change.service, alert_texts.service_resumed(change, paused_by))
        self._ledger.mark([f"service:{change.service}"])
        self._state.freed.add(f"service:{change.service}")
        return ServiceState(service=change.service, paused=False, paused_by=paused_by)

    def _tell(self, service: str, text: str) -> None:
        if self._state.rules >= 2:
            self._outbox.alert(self._state.now_ms, "service_changed", text, f"service:{service}")

    def _gate(self, service: str) -> Gate:
        gates = self._state.gates
        if service not in gates:
            raise ValueError(f"there is no service {service!r}; there are: {', '.join(sorted(gates))}")
        return gates[service]
