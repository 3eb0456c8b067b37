"""The worker's side: an answer goes to the gateway that waits for it, while it comes.

Nothing here raises, and nothing waits for a gateway or its caller longer than the settings allow in all: the call goes
on without them, and is paid, recorded and stored as any.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import httpx

from paymaster.keys.api_key import KeyUnavailable, ServiceKeys
from paymaster.live.frames import Failed, Head, head_frame, last_frame, piece_frame
from paymaster.live.signing import PROOF_HEADER, is_genuine, proof_of_worker
from paymaster.messages.streams import StreamTo
from paymaster.providers.network import quick_transport
from paymaster.providers.tls import tls_context
from paymaster.settings.gateway_streams import GatewayStreamsSettings

STREAMS_PATH = "/internal/streams/"
CONNECTIONS_MAX = 1_000
"""One for each service call that a process waits for."""
CONNECT_TIMEOUT_S = 2.0
BEHIND_BYTES_MAX = 256 * 1024
"""Of one stream, waiting for its connection; with more, its service is read no further for a while."""
_IDLE_MAX_S = 2.0
"""After it a connection is not used again, before the gateway closes it."""
logger = logging.getLogger(__name__)


class Push:
    """One answer on its way."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, proof: str, patience_s: float, under_way: set[asyncio.Task[None]]
    ) -> None:
        """`patience_s`: how long its reader may hold up whoever writes, in all. `under_way` has its task meanwhile."""
        self._client = client
        self._under_way = under_way
        self._url = url
        self._proof = proof
        self._patience_s = patience_s
        self._waiting: list[bytes] = []
        self._behind = 0
        """Bytes that the connection has not taken."""
        self._is_ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.sending: asyncio.Task[None] | None = None
        """None: it has not begun."""

    @property
    def has_begun(self) -> bool:
        """Whether something was written that a gateway may have given to its caller."""
        return self.sending is not None

    @property
    def is_heard(self) -> bool:
        """Whether it has begun, and the gateway is there as far as one knows."""
        return self.sending is not None and not self.sending.done()

    def begin(self, status: int, headers: Mapping[str, str], service: str) -> None:
        self._add(head_frame(Head(status=status, headers=dict(headers), service=service)))
        self.sending = asyncio.create_task(self._send())
        self._under_way.add(self.sending)
        self.sending.add_done_callback(self._under_way.discard)

    async def write(self, data: bytes) -> float:
        """The seconds that it took because the reader is slow."""
        if not self.is_heard:
            return 0.0
        self._add(piece_frame(data))
        return 0.0 if self._behind <= BEHIND_BYTES_MAX else await self._wait_for_room()

    def end(self, failed: Failed | None) -> None:
        """Nothing more comes. `failed`: why the answer came to nothing; None: all of it was given.

        What the connection has not taken yet it may still take, while the call goes on.
        """
        if self.sending is not None and self.is_heard:
            self._is_ended = True
            self._add(last_frame(failed))
            late = asyncio.get_running_loop().call_later(self._patience_s, self.give_up)
            self.sending.add_done_callback(lambda _: late.cancel())

    def give_up(self) -> None:
        """Ends it as it is: without its last frame it is known to be broken."""
        if self.sending is not None:
            self.sending.cancel()

    def _add(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._behind += len(frame)
        self._news.set()

    async def _wait_for_room(self) -> float:
        began = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                while self.is_heard and self._behind > BEHIND_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
        took = time.monotonic() - began
        self._patience_s = max(0.0, self._patience_s - took)
        if self.is_heard and self._behind > BEHIND_BYTES_MAX:
            logger.info("a stream goes on without its reader, who is too slow")
            self.give_up()
        return took

    async def _send(self) -> None:
        headers = {PROOF_HEADER: self._proof, "content-type": "application/octet-stream"}
        try:
            response = await self._client.post(self._url, headers=headers, content=self._frames())
            if not response.is_success:
                logger.info("a stream goes on without its reader: the gateway answers %s", response.status_code)
        except Exception as error:  # whatever it is, the call goes on
            logger.info("a stream goes on without its reader: %s", type(error).__name__)
        finally:
            self._waiting.clear()
            self._room.set()

    async def _frames(self) -> AsyncIterator[bytes]:
        """What waits, as soon as the connection has taken what was before: one piece, or several together."""
        while True:
            await self._news.wait()
            self._news.clear()
            taken, self._waiting = b"".join(self._waiting), []
            is_last = self._is_ended
            yield taken
            self._behind -= len(taken)
            self._room.set()
            if is_last:
                return


class _NotThere(Exception):
    """No stream goes there. The message says why."""


class Pushes:
    """The streams of one worker."""

    def __init__(self, settings: GatewayStreamsSettings, keys: ServiceKeys) -> None:
        """Raises ConfigurationError when `ca_bundle` cannot be used."""
        self._settings = settings
        self._keys = keys
        self._under_way: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(CONNECT_TIMEOUT_S, read=None, write=None),  # a Push has a time of its own
            transport=quick_transport(
                verify=tls_context("gateway.streams", settings.ca_bundle),
                limits=httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=_IDLE_MAX_S),
                proxy=None,
            ),
            follow_redirects=False,  # it goes where the gateway signed, and nowhere else
            trust_env=False,
        )

    @property
    def patience_s(self) -> float:
        """How long a reader may hold up its stream, in all."""
        return self._settings.waits_for_reader.total_seconds()

    async def to(self, stream_to: StreamTo, call_id: str) -> Push | None:
        """None: not there; the log says why."""
        try:
            secret = await self._secret_for(stream_to, call_id)
        except _NotThere as error:
            logger.warning("the answer is not streamed to %r: %s", stream_to.address, error)
            return None
        url = stream_to.address + STREAMS_PATH + stream_to.token
        proof = proof_of_worker(secret, stream_to.token)
        return Push(self._client, url, proof, self.patience_s, self._under_way)

    async def _secret_for(self, stream_to: StreamTo, call_id: str) -> str:
        """Raises _NotThere unless a gateway that has the secret wrote this for that call."""
        if self._settings.secret_key is None:
            raise _NotThere("this worker has no gateway.streams.secret_key")
        if not self._settings.is_reached(stream_to.address):
            raise _NotThere("it is none of the hosts in gateway.streams.workers_reach, or has no TLS")
        if stream_to.expires_at_ms <= time.time() * 1000:
            raise _NotThere("the request is too old")
        try:
            secret = (await self._keys.get(self._settings.secret_key)).reveal()
        except KeyUnavailable as error:
            raise _NotThere(str(error)) from error
        if not is_genuine(stream_to, call_id, secret):
            raise _NotThere("it was signed for another call, or with another secret than gateway.streams.secret_key")
        return secret

    async def close(self) -> None:
        """Ends what is still sent: of calls that have ended, what their readers have not taken."""
        if sending := set(self._under_way):
            for each in sending:
                each.cancel()
            await asyncio.wait(sending)
        await self._client.aclose()
