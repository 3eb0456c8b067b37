"""What is left of a client's own budget, from the copy of the ledger's status."""

import logging
from datetime import UTC, datetime

from starlette.responses import Response

from paymaster.gateway.admin.documents import StandingDocument, budget_document
from paymaster.gateway.asked import Refused
from paymaster.gateway.clients import ClientTerms
from paymaster.ledger.copied_status import CopiedStatus
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.values.budget_path import budgets_charged

logger = logging.getLogger(__name__)


async def standing_of(client: ClientTerms, copy: CopiedStatus | None) -> Response:
    """The client's budget and those above it, as far as the ledger keeps them. Raises Refused."""
    keys = [f"budget:{path}" for path in budgets_charged([client.budget])]
    try:
        found = None if copy is None else await copy.accounts(keys)
    except DATABASE_ERRORS as error:
        logger.warning("the database does not answer: %s", error)
        raise Refused("database_unreachable", "how budgets stand is not known: the database does not answer") from error
    if found is None:
        raise Refused("standing_unknown", "how budgets stand is not known: the gateway needs the ledger's database")
    age_s = max(0.0, (datetime.now(UTC) - found.copied_at).total_seconds())
    document = StandingDocument(
        client=client.name,
        budgets=tuple(map(budget_document, found.accounts)),
        copied_at=found.copied_at,
        age_s=round(age_s, 3),
    )
    return Response(document.model_dump_json(), media_type="application/json", headers={"cache-control": "no-store"})
