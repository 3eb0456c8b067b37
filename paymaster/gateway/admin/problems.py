"""Refusals of the administration in words, as RFC 9457 writes them."""

import json
from collections.abc import Mapping

from starlette.responses import Response

TITLES = {
    "no_key": "No admin's key",
    "not_an_admin": "Not an admin's key",
    "not_allowed": "Not allowed",
    "bad_request": "Not a request of this kind",
    "not_found": "No such thing",
    "method_not_allowed": "Not done to this",
    "exists": "There is another one of this name",
    "refused": "Refused by the ledger",
    "stale": "Changed since it was read",
    "no_list": "There is no list of prices to be had",
    "unavailable": "Not available now",
    "internal_error": "Internal error",
}


class Problem(Exception):
    """A request that is refused. The detail says what to do."""

    def __init__(self, status: int, name: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail

    def response(self) -> Response:
        document = {
            "type": f"urn:paymaster:problem:{self.name}",
            "title": TITLES[self.name],
            "status": self.status,
            "detail": self.detail,
        }
        headers = {"retry-after": "2"} if self.status == 503 else {}
        if self.status == 401:
            headers["www-authenticate"] = 'Bearer realm="paymaster"'
        return Response(json.dumps(document), self.status, headers, "application/problem+json")


def refuse_nul(*named: Mapping[str, str]) -> None:
    """Raises Problem for a NUL in a path, a query or a form: no name has one, and PostgreSQL takes none."""
    if any("\0" in value for values in named for value in values.values()):
        raise Problem(400, "bad_request", "the path, the query or the form has a NUL (%00)")
