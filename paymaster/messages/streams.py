"""Where a worker sends an answer while it comes."""

from pydantic import Field

from paymaster.messages.base import Message


class StreamTo(Message):
    """The gateway that waits for the answer of one call, signed by it, so that nobody else chooses where a worker sends
    what a provider says."""

    address: str = Field(max_length=300)
    """Of the gateway's internal listener, as workers reach it: "http://127.0.0.1:7301"."""
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{32,64}$", repr=False)
    """Which of its callers waits. It is good for one stream."""
    expires_at_ms: int
    """After it no worker sends anything there."""
    keeps: bool = False
    """Its caller may come back for the call under its id. Default: nobody gets another answer than the one that has
    begun, so that no further attempt is made after it."""
    signature: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """HMAC-SHA256 of the other fields and the call's id, in hexadecimal, with the secret that gateways and workers
    share."""
