"""AWS's signature (SigV4), which botocore makes: of the whole request, with a date, by a secret that is never sent."""

from paymaster.keys.api_key import KeyUnavailable
from paymaster.providers.provider import Outgoing
from paymaster.redaction import remember
from paymaster.settings import ServiceSettings

SIGNED_FOR = "bedrock"
"""The name of the service in its signatures."""


def signature(request: Outgoing, key: str, service: ServiceSettings) -> dict[str, str]:
    """The headers of a signed request. Raises KeyUnavailable as `access_key` does, and ExtraMissing where the extra
    `bedrock` is not installed."""
    from botocore.auth import SigV4Auth  # here: it is an extra, and takes long to import
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    parts = access_key(key, service.key)
    for secret in parts[1:]:
        remember(secret)
    signed = AWSRequest(request.method, request.url, dict(request.headers), request.body)
    SigV4Auth(Credentials(*parts), SIGNED_FOR, service.aws_region()).add_auth(signed)
    return {name.lower(): value for name, value in signed.headers.items() if name not in request.headers}


def access_key(key: str, name: str | None) -> list[str]:
    """The parts of ID:SECRET or ID:SECRET:SESSION-TOKEN. Raises KeyUnavailable, without the key, for another form."""
    parts = key.split(":")
    if len(parts) in (2, 3) and all(parts):
        return parts
    raise KeyUnavailable(
        f"the key {name!r} is none of AWS: write ACCESS-KEY-ID:SECRET-ACCESS-KEY, and :SESSION-TOKEN behind it for one "
        'that expires; a Bedrock API key needs auth = "key"'
    )
