"""The configuration that the ledger decides with, beside the gateway's file."""

from paymaster.admission.configuration import differences
from paymaster.gateway.admin.asked import Answer, Asked
from paymaster.gateway.admin.documents import ConfigurationDocument, DifferenceDocument
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.settings.desk_config import desk_config
from paymaster.storage.ledger_log import stored_configuration


class ConfigurationEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def in_force(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        settings = self._administrated.settings
        stored = await stored_configuration(self._administrated.engine, settings.ledger.name)
        if stored is None:
            raise Problem(503, "unavailable", "no configuration is stored yet: a worker has to run")
        found = differences(stored.config, desk_config(settings))
        return Answer(
            ConfigurationDocument(
                digest=stored.config.digest,
                brought_at=stored.at,
                brought_by=stored.who,
                differences=tuple(DifferenceDocument(text=each.text, loosens=each.loosens) for each in found),
            )
        )
