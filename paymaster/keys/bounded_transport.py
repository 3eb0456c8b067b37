"""The connections of the Azure clients, which read whole answers: whoever answers there must not fill the memory.

Imported only where Azure is used: its packages take long to import.
"""

from typing import Any

import aiohttp
from aiohttp.connector import Connection
from azure.core.pipeline.transport import AioHttpTransport

from paymaster.values.limits import KEY_ANSWER_BYTES_MAX


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """An answer of more than `KEY_ANSWER_BYTES_MAX` bytes, or a compressed one, which can hold any number."""


class BoundedTransport(AioHttpTransport):
    """Azure's connections by aiohttp; an answer that is too large ends its connection."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._made = False

    async def open(self) -> None:
        """Makes the session at the first use, inside the event loop that it then belongs to."""
        if not self._made:
            self._made = True
            self.session = aiohttp.ClientSession(
                response_class=_BoundedResponse,
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
                auto_decompress=False,
            )
        await super().open()


class _BoundedResponse(aiohttp.ClientResponse):
    """An answer that is read as soon as it comes, up to the bound."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Raises AnswerTooLarge."""
        protocol = connection.protocol
        await super().start(connection)
        try:
            body = await self._body_within_bound()
        except BaseException:
            self.close()
            raise
        if protocol is not None:
            self.content = aiohttp.StreamReader(protocol, KEY_ANSWER_BYTES_MAX, loop=self._loop)
            self.content.feed_data(body)
            self.content.feed_eof()
        return self

    async def _body_within_bound(self) -> bytes:
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise AnswerTooLarge("the answer is compressed, which was not asked for")
        body = bytearray()
        while piece := await self.content.readany():
            body += piece
            if len(body) > KEY_ANSWER_BYTES_MAX:
                raise AnswerTooLarge(f"the answer has more than {KEY_ANSWER_BYTES_MAX:,} bytes")
        return bytes(body)
