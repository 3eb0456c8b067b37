"""A request to the administration, read and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paymaster.gateway.admin.problems import Problem, refuse_nul
from paymaster.gateway.admin.wanted import Wanted
from paymaster.gateway.admin.who import Admin
from paymaster.messages import Signature

PAGE_DEFAULT, PAGE_MAX = 100, 1_000
_ETAG = re.compile(r'"([0-9a-z]{1,64})"')
BodyT = TypeVar("BodyT", bound=BaseModel)


class Said(TypedDict):
    """What every command says."""

    reason: str
    who: str
    signature: Signature | None
    if_tag: str | None


@dataclass(frozen=True)
class Asked:
    """Raises Problem for a NUL in the path or the query."""

    admin: Admin
    path: Mapping[str, str]
    """What stands in the path, by name."""
    query: Mapping[str, str]
    body: bytes
    if_match: str | None

    def __post_init__(self) -> None:
        refuse_nul(self.path, self.query)

    def read(self, kind: type[BodyT]) -> BodyT:
        """The body. Raises Problem, which says what is wrong where."""
        try:
            return kind.model_validate_json(self.body)
        except ValidationError as error:
            raise Problem(400, "bad_request", _in_words(error)) from None

    def said(self, wanted: Wanted) -> Said:
        """What every command says. The log names the admin; of a signed command the ledger names the signer. Raises
        Problem."""
        who = self.admin.name if wanted.signature is None else wanted.who
        return Said(reason=wanted.reason, who=who, signature=wanted.signature, if_tag=self.tag)

    @property
    def tag(self) -> str | None:
        """What `If-Match` names. None: nothing. Raises Problem."""
        if self.if_match is None:
            return None
        found = _ETAG.fullmatch(self.if_match.strip())
        if found is None:
            raise Problem(400, "bad_request", 'If-Match takes one ETag as it was answered, such as "0123abcd"')
        return found[1]

    @property
    def limit(self) -> int:
        """Raises Problem."""
        text = self.query.get("limit", str(PAGE_DEFAULT))
        if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= PAGE_MAX:
            raise Problem(400, "bad_request", f"limit is a number from 1 to {PAGE_MAX:,}")
        return int(text)

    @property
    def after(self) -> str:
        return self.query.get("after", "")


def command(kind: type[BodyT], **values: object) -> BodyT:
    """What is sent to the ledger. Raises Problem for what no such command can say."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Problem(400, "bad_request", _in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    found = (f"{'.'.join(map(str, each['loc'])) or 'the body'}: {_words(each)}" for each in error.errors())
    return "; ".join(found)[:2_000]


def _words(error: ErrorDetails) -> str:
    return 'write it as text, in quotes, like "5"' if error["type"] == "string_type" else error["msg"]


@dataclass(frozen=True)
class Answer:
    document: BaseModel
    tag: str | None = None
    status: int = 200
