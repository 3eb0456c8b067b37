"""The copy of a desk's status as the database has it: made of what the desk says that changed."""

from paymaster.admission.copying import as_of
from paymaster.admission.desk import Desk
from paymaster.messages import AccountStatus, StatusCopy, WaitingCall
from paymaster.values.time_zones import UTC_ZONE


class CopiedStatus:
    def __init__(self) -> None:
        self.accounts: dict[str, tuple[AccountStatus, int]] = {}
        """With when each was copied."""
        self.calls: dict[str, tuple[WaitingCall, int]] = {}
        """Those that wait, by hold id, with the version of the copy."""

    def take_in(self, copy: StatusCopy, at_ms: int) -> None:
        for hold_id in copy.calls_gone:
            self.calls.pop(hold_id, None)
        self.calls |= {each.hold_id: (each.call, copy.version) for each in copy.calls}
        self.calls = {hold_id: of for hold_id, of in self.calls.items() if of[1] >= copy.calls_from}
        if copy.anew:
            self.accounts.clear()
        for key in copy.gone:
            self.accounts.pop(key, None)
        for each in copy.accounts:
            self.accounts[each.account] = each, at_ms

    def waiting(self) -> dict[str, WaitingCall]:
        return {hold_id: call for hold_id, (call, _) in self.calls.items()}

    def read(self, now_ms: int) -> dict[str, AccountStatus]:
        """By account, as a reader sees it at this time."""
        return {
            key: _as_asked(as_of(copied, at_ms, now_ms, UTC_ZONE)) for key, (copied, at_ms) in self.accounts.items()
        }


def every_copy(desk: Desk, now_ms: int) -> list[StatusCopy]:
    """What the desk has to say until it has nothing more; not how large it is, which is an estimate."""
    copies: list[StatusCopy] = []
    while desk.copies.is_due:
        copy = desk.copies.take(now_ms)
        status = copy.status.model_copy(update={"state_bytes": 0})
        copies.append(copy.model_copy(update={"status": status}))
    return copies


def but_for_calls(copy: StatusCopy) -> StatusCopy:
    """Those that wait are all copied anew by the ledger's next run. Nor how large the state is."""
    status = copy.status.model_copy(update={"state_bytes": 0})
    return copy.model_copy(update={"status": status, "calls": (), "calls_gone": (), "calls_from": 0})


def _as_asked(status: AccountStatus) -> AccountStatus:
    windows = tuple(each.model_copy(update={"steps_nanos": {}}) for each in status.windows)
    return status.model_copy(update={"windows": windows, "tag": ""})
