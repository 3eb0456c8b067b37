"""What approvers do at the desk of the machine: they press buttons, at once, late, and again."""

from desk_admins import Admins
from desk_drawn import APPROVERS
from desk_facts import ROLLING, UNIT, Cap, GivenRaise, Place, next_end_ms, window_name
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from paymaster.admission.desk import Desk
from paymaster.admission.stale import ApprovalRefused
from paymaster.messages import Alert, Approval, CapState, RaiseCap, RaiseOffer
from paymaster.values.money import nanos_to_usd, usd_to_nanos

approvers = st.sampled_from([*APPROVERS, APPROVERS[0], "eve"])
"""Who press buttons."""


class Approvers(Admins):
    def __init__(self) -> None:
        super().__init__()
        self.buttons: list[RaiseCap] = []

    @precondition(lambda self: self.model.file.approvers and self.capped_places())
    @rule(data=st.data(), who=approvers, by=st.sampled_from([0, UNIT, UNIT, 2 * UNIT, 4 * UNIT]))
    def raise_by_a_form(self, data: st.DataObject, who: str, by: int) -> None:
        """It is filled in and sent at once, and may be sent again later."""
        place = data.draw(st.sampled_from(self.capped_places()))
        self.fill_in_and_send(place, who, by)

    def fill_in_and_send(self, place: Place, who: str, by: int) -> None:
        self.buttons.append(self.button(place, who, by))
        self.press(self.buttons[-1])

    @precondition(lambda self: self.model.file.approvers and self.offers())
    @rule(data=st.data(), who=approvers)
    def press_what_an_alert_offers(self, data: st.DataObject, who: str) -> None:
        """One nonce for all buttons of an alert."""
        alert = data.draw(st.sampled_from(self.offers()))
        assert alert.account is not None
        assert alert.window is not None
        assert alert.offer is not None
        by = data.draw(st.sampled_from(alert.offer.by_nanos))
        button = self.button((alert.account, alert.window), who, by, f"alert {alert.sequence}", alert.offer)
        self.buttons.append(button)
        self.press(button)

    @precondition(lambda self: self.buttons)
    @rule(data=st.data(), who=st.one_of(st.none(), approvers), for_good=st.sampled_from([False, False, True]))
    def press_again(self, data: st.DataObject, who: str | None, for_good: bool) -> None:
        """Whoever does, and also what nobody may."""
        button = data.draw(st.sampled_from(self.buttons))
        approval = approval_of(button)
        if who is not None:
            approval = approval.model_copy(update={"by": who})
        self.press(button.model_copy(update={"approval": approval, "until_window_end": not for_good}))

    @precondition(lambda self: self.buttons)
    @rule(data=st.data())
    def take_a_raise_back(self, data: st.DataObject) -> None:
        """An admin sets the cap as it was when the button was made."""
        button = data.draw(st.sampled_from(self.buttons))
        self.set_cap_to((button.account, button.window), approval_of(button).cap_nanos)

    def offers(self) -> list[Alert]:
        return [each for each in self.notices.values() if isinstance(each, Alert) and each.offer is not None]

    def button(
        self, place: Place, who: str, by: int, nonce: str | None = None, offer: RaiseOffer | None = None
    ) -> RaiseCap:
        """Of a form, where nothing else is said: of the cap as it is now."""
        account, window = place
        never_ends = window == "total" or window in ROLLING
        if offer is None:
            ends_at_ms = 0 if never_ends else next_end_ms(window, self.clock_ms)
            offer = RaiseOffer(cap_nanos=self.model.cap(place) or 0, window_ends_at_ms=ends_at_ms, by_nanos=(by,))
        approval = Approval(
            by=who,
            nonce=nonce or f"form {len(self.buttons)}",
            cap_nanos=offer.cap_nanos,
            window_ends_at_ms=offer.window_ends_at_ms,
            where="the machine",
        )
        usd = str(nanos_to_usd(by))
        return RaiseCap(account=account, window=window, by=usd, until_window_end=True, approval=approval)

    def press(self, button: RaiseCap) -> None:
        if self.is_waited_for(button.account):
            return
        place: Place = (button.account, button.window)
        by, approval = usd_to_nanos(button.by), approval_of(button)
        self.let_time_pass()
        may = button.until_window_end and self.model.may_give(place, by, approval)
        before = self.model.cap_unchanged(place)
        answer = self.both(lambda desk: self._pressed(desk, button))
        assert may or answer is None, f"{approval.by} raised what is not to be raised, by {approval.nonce}"
        assert answer is not None or not may, f"{approval.by} is refused {approval.nonce}"
        if answer is not None:
            cap = self.model.changed.setdefault(place, Cap(before or 0))
            cap.lapsing.append((window_name(button.window, self.model.now_ms), by))
            self.model.given.append(GivenRaise(approval.by, approval.nonce, by, self.model.now_ms))
            assert answer.cap_nanos == self.model.cap(place), "the answer to a press is not the new cap"
        self.after_a_look()

    def _pressed(self, desk: Desk, button: RaiseCap) -> CapState | None:
        """None: it is refused."""
        try:
            return desk.raise_cap(button, self.clock_ms)
        except ApprovalRefused:
            return None


def approval_of(button: RaiseCap) -> Approval:
    assert button.approval is not None
    return button.approval
