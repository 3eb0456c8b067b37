"""The console as routes of a gateway."""

import secrets

from starlette.routing import Route

from paymaster.console.people import People, is_beyond_this_machine
from paymaster.console.sessions import Sessions
from paymaster.console.site import ConsoleSite
from paymaster.gateway.admin.site import AdminSite
from paymaster.keys.api_key import ServiceKeys
from paymaster.ledger.approving import Approvers
from paymaster.settings import Settings


async def console_routes(settings: Settings, keys: ServiceKeys, administrated: AdminSite) -> list[Route]:
    """Its pages; there are none where nobody may log in. Raises KeyUnavailable without the secret of its sessions."""
    console = settings.console
    if not console.is_on:
        return []
    secret = secrets.token_hex(32) if console.secret_key is None else (await keys.get(console.secret_key)).reveal()
    sessions = Sessions(secret, console.session_lasts)
    people = People(console, sessions, beyond_this_machine=is_beyond_this_machine(settings.gateway.address))
    approvers = Approvers(settings.approvals, keys, settings.ledger.name)
    return ConsoleSite(settings, sessions, people, administrated, approvers).routes()
