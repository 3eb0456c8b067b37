"""A page that somebody opened, as its handler gets it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from paymaster.console.people import Person
from paymaster.gateway.admin.problems import refuse_nul


@dataclass(frozen=True)
class Opened:
    """A page that somebody opened, or a form that was sent. Raises Problem for a NUL in it."""

    person: Person
    path: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str]
    now: datetime

    def __post_init__(self) -> None:
        refuse_nul(self.path, self.query, self.form)

    @property
    def now_ms(self) -> int:
        return int(self.now.timestamp() * 1_000)

    @property
    def page(self) -> int:
        """The number of the page that is asked for, from 1 on."""
        text = self.query.get("page", "1")
        return max(1, int(text)) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 1


@dataclass(frozen=True)
class Paged:
    """Which part of a long list is shown."""

    number: int
    """Of the page, from 1 on."""
    size: int
    shown: int
    of: int
    kept: Mapping[str, str]
    """What else the addresses of the other pages say."""

    @property
    def first(self) -> int:
        return (self.number - 1) * self.size + 1

    @property
    def last(self) -> int:
        return self.first + self.shown - 1

    @property
    def before(self) -> str | None:
        return self._query(self.number - 1) if self.number > 1 else None

    @property
    def after(self) -> str | None:
        return self._query(self.number + 1) if self.last < self.of else None

    def _query(self, number: int) -> str:
        return f"?{urlencode({**self.kept, 'page': number})}"
