"""What the desk has to say to others: signals to calls, and notices to the database, the log and the webhook.

Everything stays here until it is acknowledged, so that nothing is lost; whoever receives it twice can tell by its
sequence number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

from pydantic import BaseModel

from paymaster.admission.holds import Hold
from paymaster.messages import (
    Alert,
    AlertKind,
    CallMessage,
    CallRef,
    CapChange,
    ConfigChange,
    CountFirst,
    Denied,
    ExpiredHold,
    Granted,
    Notice,
    ParkedAnswer,
    RaiseOffer,
    Window,
    Withdrawn,
)
from paymaster.values.cut import cut
from paymaster.values.limits import (
    ALERT_TEXT_BYTES_MAX,
    ALERTS_BYTES_MAX,
    ALERTS_MAX,
    CONFIG_CHANGES_MAX,
    ONCE_MAX,
    REASON_BYTES_MAX,
    WHO_BYTES_MAX,
)

KINDS_OF_RULES_1 = frozenset[AlertKind](
    (
        "threshold",
        "exhausted",
        "parked",
        "overage",
        "unconfirmed",
        "unknown_hold",
        "breaker_opened",
        "breaker_closed",
        "refused_message",
        "no_price",
        "queue_full",
        "service_refuses",
        "key_source_down",
    )
)
"""Alerts that workers of 0.1.0 can read. Under rules 1 any other is a `refused_message`; its sentence says it all."""
OUTBOX_BATCH_MAX = 200
"""Items of the outbox in one delivery."""
DELIVERY_BYTES_MAX = 512 * 1024
"""All items of one delivery. A single item is far smaller."""
_ONCE_BYTES_MAX = 200
_ALERT_OVERHEAD_BYTES = 100
_OFFER_BYTES = 150

ItemT = TypeVar("ItemT", bound=BaseModel)


@dataclass(slots=True)
class OutboxState:
    sequence: int = 0
    messages: list[CallMessage] = field(default_factory=list[CallMessage])
    notices: list[Notice] = field(default_factory=list[Notice])
    sending: list[Alert] = field(default_factory=list[Alert])
    """Alerts that are stored already and wait for the webhook."""
    once: dict[str, None] = field(default_factory=dict[str, None])
    alerts_dropped: int = 0


class Outbox:
    def __init__(self, state: OutboxState, rules: int) -> None:
        """`rules` are those of the ledger's run."""
        self.state = state
        self._rules = rules
        self._withdrawing = {message.hold_id for message in state.messages if isinstance(message, Withdrawn)}
        self._alerts = self._alert_bytes = 0
        self.count_alerts()

    def follow(self, rules: int) -> None:
        """What is put in from now on is read by a run with these rules."""
        self._rules = rules

    def count_alerts(self) -> None:
        """Those that wait, anew: when others than the outbox took some out."""
        waiting = [notice for notice in self.state.notices if isinstance(notice, Alert)] + self.state.sending
        self._alerts, self._alert_bytes = len(waiting), sum(map(alert_bytes, waiting))

    def next_sequence(self) -> int:
        self.state.sequence += 1
        return self.state.sequence

    def answer(self, call: CallRef, answer: Granted | Denied | CountFirst) -> None:
        self.state.messages.append(ParkedAnswer(sequence=self.next_sequence(), call=call, answer=answer))

    def withdraw(self, hold: Hold, detail: str) -> None:
        """Once, until it is delivered."""
        if hold.grant.hold_id in self._withdrawing and self._rules >= 2:
            return
        self._withdrawing.add(hold.grant.hold_id)
        message = Withdrawn(sequence=self.next_sequence(), call=hold.call, hold_id=hold.grant.hold_id, detail=detail)
        self.state.messages.append(message)

    def expired(self, hold: Hold, *, settled: bool) -> None:
        self.state.notices.append(
            ExpiredHold(sequence=self.next_sequence(), call=hold.call, grant=hold.grant, settled=settled)
        )

    def cap_changed(
        self,
        at_ms: int,
        account: str,
        window: Window,
        from_nanos: int | None,
        to_nanos: int | None,
        *,
        by_nanos: int | None,
        file_nanos: int | None,
        until_window_end: bool,
        who: str,
        reason: str,
        by_file: bool = False,
    ) -> CapChange:
        change = CapChange(
            sequence=self.next_sequence(),
            at_ms=at_ms,
            account=account,
            window=window,
            from_nanos=from_nanos,
            to_nanos=to_nanos,
            by_nanos=by_nanos,
            file_nanos=file_nanos,
            until_window_end=until_window_end,
            who=cut(who, WHO_BYTES_MAX),
            reason=cut(reason, REASON_BYTES_MAX),
            by_file=by_file,
        )
        self.state.notices.append(change)
        return change

    def cap_changes_waiting(self) -> int:
        return sum(isinstance(notice, CapChange) for notice in self.state.notices)

    def repeat(self, change: CapChange) -> None:
        self.state.notices.append(change.model_copy(update={"sequence": self.next_sequence()}))

    def config_changed(self, at_ms: int, digest: str, who: str, text: str) -> None:
        who = cut(who, WHO_BYTES_MAX)
        waiting = [notice for notice in self.state.notices if isinstance(notice, ConfigChange)]
        if len(waiting) >= CONFIG_CHANGES_MAX:
            self.state.notices.remove(waiting[0])
        self.state.notices.append(
            ConfigChange(sequence=self.next_sequence(), at_ms=at_ms, digest=digest, who=who, text=text)
        )

    def alert(
        self,
        at_ms: int,
        what: AlertKind,
        text: str,
        account: str | None = None,
        window: Window | None = None,
        offer: RaiseOffer | None = None,
    ) -> None:
        text = cut(text, ALERT_TEXT_BYTES_MAX)
        if self._rules == 1 and what not in KINDS_OF_RULES_1:
            what = "refused_message"
        alert = Alert(sequence=0, at_ms=at_ms, what=what, text=text, account=account, window=window, offer=offer)
        size, sending = alert_bytes(alert), self.state.sending
        while sending and self._is_full(size):
            self._gone(sending.pop(0))
            self.state.alerts_dropped += 1
        if self._is_full(size):
            self.state.alerts_dropped += 1
            return
        self._alerts += 1
        self._alert_bytes += size
        self.state.notices.append(alert.model_copy(update={"sequence": self.next_sequence()}))

    @property
    def alerts_waiting(self) -> int:
        """For the database, or for the webhook."""
        return self._alerts

    def _is_full(self, more_bytes: int) -> bool:
        return self._alerts >= ALERTS_MAX or self._alert_bytes + more_bytes > ALERTS_BYTES_MAX

    def _gone(self, alert: Alert) -> None:
        self._alerts -= 1
        self._alert_bytes -= alert_bytes(alert)

    def alert_once(
        self,
        at_ms: int,
        what: AlertKind,
        text: str,
        about: str,
        account: str | None = None,
        window: Window | None = None,
        offer: RaiseOffer | None = None,
    ) -> None:
        """Gives an alert, unless one of this kind about this thing was given before."""
        if len(about.encode(errors="replace")) > _ONCE_BYTES_MAX:
            about = sha256(about.encode(errors="replace")).hexdigest()
        key, once = f"{what} {about}", self.state.once
        if key in once:
            return
        if len(once) >= ONCE_MAX:
            del once[next(iter(once))]
        once[key] = None
        self.alert(at_ms, what, text, account, window, offer)

    def acknowledge(self, done: set[int]) -> None:
        """Takes out what arrived. An alert that is stored goes on to the webhook."""
        state = self.state
        state.messages = [message for message in state.messages if message.sequence not in done]
        self._withdrawing = {message.hold_id for message in state.messages if isinstance(message, Withdrawn)}
        for alert in [alert for alert in state.sending if alert.sequence in done]:
            self._gone(alert)
        state.sending = [alert for alert in state.sending if alert.sequence not in done]
        stored = [notice for notice in state.notices if notice.sequence in done]
        state.sending += [notice for notice in stored if isinstance(notice, Alert)]
        state.notices = [notice for notice in state.notices if notice.sequence not in done]


def alert_bytes(alert: Alert) -> int:
    """What an alert takes as a message, about."""
    overhead = _ALERT_OVERHEAD_BYTES + (0 if alert.offer is None else _OFFER_BYTES)
    return len(alert.text.encode()) + len((alert.account or "").encode()) + overhead


def first_delivery(waiting: Sequence[ItemT]) -> tuple[ItemT, ...]:
    """The first waiting items that fit into one delivery, at least one."""
    size = 0
    for number, item in enumerate(waiting[:OUTBOX_BATCH_MAX]):
        size += len(item.model_dump_json())
        if size > DELIVERY_BYTES_MAX:
            return tuple(waiting[: max(number, 1)])
    return tuple(waiting[:OUTBOX_BATCH_MAX])
