"""The Nexus service `paymaster`, as workers serve it."""

import logging

import nexusrpc
from nexusrpc.handler import OperationHandler, StartOperationContext, operation_handler, service_handler, sync_operation
from sqlalchemy.exc import SQLAlchemyError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from activities.read_piece import ReadPieceActivities
from operations.endpoints import Endpoints, asked_through, message_of, refusal
from operations.generate import GenerateOperation
from paymaster.messages import BodyPiece
from paymaster.messages.temporal_names import NEXUS_SERVICE

logger = logging.getLogger(__name__)


@nexusrpc.service(name=NEXUS_SERVICE)
class _Service:
    """`paymaster.nexus.PaymasterService`, with messages that are read here, where what is wrong can be said."""

    generate: nexusrpc.Operation[RawValue, RawValue]
    read_piece: nexusrpc.Operation[RawValue, RawValue]


@service_handler(service=_Service)
class PaymasterServiceHandler:
    """Callers have an endpoint that has a table in the configuration; everybody else is refused."""

    def __init__(self, endpoints: Endpoints, stored: ReadPieceActivities) -> None:
        self._endpoints = endpoints
        self._stored = stored

    @operation_handler
    def generate(self) -> OperationHandler[RawValue, RawValue]:
        return GenerateOperation(self._endpoints)

    @sync_operation
    async def read_piece(self, ctx: StartOperationContext, input: RawValue) -> RawValue:
        """A piece of a stored answer: for whoever has its result, which nobody can guess."""
        asked_through(self._endpoints)
        message_of(input, BodyPiece)
        try:
            return await self._stored.read_piece(input)
        except ApplicationError as error:
            raise refusal("NOT_FOUND", error.message) from None
        except SQLAlchemyError:
            logger.exception("a stored answer could not be read; Temporal asks again")
            raise nexusrpc.HandlerError(
                "the database that has the answer does not answer", type=nexusrpc.HandlerErrorType.UNAVAILABLE
            ) from None
