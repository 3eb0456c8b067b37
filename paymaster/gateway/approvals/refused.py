"""A request that is not read, by browsers and Slack, which speak no dialect of a provider."""

from paymaster.gateway.asked import Refused
from paymaster.wire.refusals import refusal


def status_of(error: Refused) -> int:
    """The HTTP status, which all dialects have in common."""
    return refusal("openai", error.reason, error.detail).status
