"""Configurations that workers and admins bring: which of them come into force."""

from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.authority import signed
from paymaster.admission.in_force import InForce
from paymaster.admission.parking import Parking
from paymaster.admission.signed_commands import changes_money
from paymaster.admission.state import DeskState
from paymaster.messages import ConfigState, Configure
from paymaster.messages.temporal_names import CONFIGURE


class ConfigCommands:
    def __init__(self, state: DeskState, in_force: InForce, alerts: AlertPolicy, parking: Parking) -> None:
        self._state, self._in_force = state, in_force
        self._alerts, self._parking = alerts, parking

    def configure(self, change: Configure) -> ConfigState:
        """Puts a configuration in force, or says why not. Raises SignatureRefused for a wrong signature."""
        state, config = self._state, change.config
        if config.digest == state.config.digest and not (change.may_remove and state.config_kept):
            detail, kept = "it is in force already", self._in_force.kept(config)
            return ConfigState(digest=config.digest, applied=False, detail=detail, kept=kept)
        if change.may_remove and state.config.digest and not state.began:
            detail = "the ledger is still reading what was stored before it began; ask again in a moment"
            return ConfigState(digest=state.config.digest, applied=False, detail=detail)
        if config.digest in state.superseded and not change.force:
            detail = "a newer one superseded it; `paymaster config apply --force` brings it back"
            return ConfigState(digest=state.config.digest, applied=False, detail=detail)
        who, signature = change.who, change.signature
        if signature is not None:
            signed(state, CONFIGURE.name, change)
            who = signature.by
        elif state.config.admin.require_signature and changes_money(state.config, config):
            detail = (
                "it changes caps, budgets or [admin], and must be signed: `paymaster config apply --sign-with FILE`"
            )
            self._alerts.config_not_signed(config.digest, detail)
            return ConfigState(digest=state.config.digest, applied=False, detail=detail)
        may_remove = change.may_remove or signature is not None  # no worker signs
        if too_much := self._in_force.too_much(config, may_remove=may_remove):
            return ConfigState(digest=state.config.digest, applied=False, detail=too_much)
        self._in_force.bring(config, who=who, may_remove=may_remove)
        self._parking.file_again()
        return ConfigState(digest=config.digest, applied=True, detail="")
