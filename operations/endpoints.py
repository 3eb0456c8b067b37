"""What a request through a Nexus endpoint may ask for, and the words in which it is refused."""

from collections.abc import Mapping
from typing import TypeVar, cast

import nexusrpc
from pydantic import BaseModel, ValidationError
from temporalio import nexus
from temporalio.common import RawValue

from paymaster.keys.api_key import KeyUnavailable
from paymaster.security.payloads import read_raw
from paymaster.settings.tables import EndpointSettings
from paymaster.values.cut import cut
from paymaster.values.limits import DETAIL_BYTES_MAX

MessageT = TypeVar("MessageT", bound=BaseModel)
Endpoints = Mapping[str, EndpointSettings]
"""By the name that Temporal gives with each request."""


def asked_through(endpoints: Endpoints) -> tuple[str, EndpointSettings]:
    """The endpoint that the operation came through, which is being handled. Raises HandlerError for an unknown one."""
    name = nexus.info().endpoint
    if not name:
        raise refusal(
            "UNAUTHORIZED",
            "this request came through no Nexus endpoint that Temporal names, so it has no budget: ask through one, "
            "and by Temporal Server 1.30 or newer",
        )
    settings = endpoints.get(name)
    if settings is None:
        raise refusal("UNAUTHORIZED", f"Paymaster has no endpoint {name!r}: add [nexus.endpoints.{name}]")
    return name, settings


def message_of(raw: RawValue, kind: type[MessageT]) -> MessageT:
    """Raises HandlerError, which is tried again only where a worker with another key could read it."""
    try:
        found = cast(object, read_raw(raw, kind))
        if isinstance(found, kind):
            return found
        problems = f"{type(found).__name__} instead of JSON"
    except KeyUnavailable as error:
        raise nexusrpc.HandlerError(
            str(error), type=nexusrpc.HandlerErrorType.INTERNAL, retryable_override=True
        ) from None
    except ValidationError as error:
        # Without what was sent: the error is readable where the request may have been encrypted.
        told = error.errors(include_url=False, include_input=False, include_context=False)[:10]
        problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the request'}: {each['msg']}" for each in told)
    except Exception as error:  # converters raise whatever they like
        problems = str(error)
    raise refusal("BAD_REQUEST", f"this is no {kind.__name__}: {problems}")


def refusal(kind: str, words: str) -> nexusrpc.HandlerError:
    """An error that is not tried again."""
    return nexusrpc.HandlerError(
        cut(words, DETAIL_BYTES_MAX), type=nexusrpc.HandlerErrorType[kind], retryable_override=False
    )
