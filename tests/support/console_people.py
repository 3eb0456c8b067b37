"""People who use the console of a gateway process, without a browser."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from html import unescape

import httpx


class Person:
    """Opens pages and presses their buttons."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30, headers={"origin": url}, follow_redirects=True)

    async def log_in(self, key: str) -> None:
        page = await self.http.post("/console/login", data={"key": key})
        assert "Log out" in page.text, page.text

    async def open(self, path: str) -> str:
        answer = await self.http.get(f"/console/{path}")
        assert answer.status_code in (200, 503), answer.text
        return answer.text

    async def confirm(self, path: str, reason: str = "because") -> tuple[int, str]:
        """Opens what asks for an action, and presses its button."""
        page = await self.open(path)
        action = re.findall(r'<form method="post" action="(/console/do/[^"]+)"', page)[0]
        form = page.partition(f'action="{action}"')[2]
        found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form)
        fields = {name: unescape(value) for name, value in found}
        answer = await self.http.post(action, data={**fields, "reason": reason})
        return answer.status_code, answer.text

    async def do(self, path: str) -> str:
        status, page = await self.confirm(path)
        assert status == 200, page
        assert "<h1>Done</h1>" in page
        return page


@asynccontextmanager
async def logged_in(url: str, key: str) -> AsyncGenerator[Person]:
    person = Person(url)
    async with person.http:
        await person.log_in(key)
        yield person
