"""Whether a request is signed, as AWS's page "Create a signed AWS API request" says that it checks it."""

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import quote

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([a-z0-9-]+)/bedrock/aws4_request, SignedHeaders=([a-z0-9;-]+), "
    r"Signature=([0-9a-f]{64})"
)


def is_signed(path: str, headers: Mapping[str, str], body: bytes, *, key_id: str, secret: str, region: str) -> bool:
    """Whether the POST to this path, as it came over the wire, was signed by this secret for this region.

    The names of headers are in lower case.
    """
    found = _HEADER.fullmatch(headers.get("authorization", ""))
    if found is None or (found[1], found[3]) != (key_id, region):
        return False
    _, day, _, names, signature = found.groups()
    if not {"host", "x-amz-date"} <= set(names.split(";")):
        return False
    canonical = "\n".join(
        [
            "POST",
            quote(path, safe="/"),  # once more, as for every service but S3
            "",
            *(f"{name}:{headers[name].strip()}" for name in names.split(";")),
            "",
            names,
            sha256(body).hexdigest(),
        ]
    )
    scope = f"{day}/{region}/bedrock/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (day, region, "bedrock", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex() == signature
