"""From a worker's push to the caller who waits, over real sockets."""

import asyncio
import logging
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest
import trustme
from live_streams import CALL_ID, all_of, listening, push_to, pushing, stream_settings
from raw_server import SomeKeys

from paymaster.gateway import connections
from paymaster.gateway import streams as gateway_streams
from paymaster.gateway.streams import Streams
from paymaster.keys.ring import named_keys
from paymaster.live.frames import Complete, Failed, head_frame
from paymaster.live.frames import Head as Beginning
from paymaster.live.pushes import BEHIND_BYTES_MAX, STREAMS_PATH
from paymaster.live.signing import PROOF_HEADER, proof_of_worker, signed
from paymaster.providers import network
from paymaster.settings import Settings

HEADERS = {"content-type": "text/event-stream"}
SECRET = "sk-live-0123456789"
TOKEN = "t" * 43
IDLE = socket.TCP_KEEPIDLE if sys.platform == "linux" else socket.TCP_KEEPALIVE
KEEPALIVE = (IDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def test_an_answer_arrives_as_it_comes() -> None:
    """Each piece before the next one is written; what comes while the caller is elsewhere, in one piece."""
    async with listening() as streams, pushing() as pushes, streams.opened(CALL_ID) as opened:
        push = await push_to(pushes, opened)
        push.begin(200, HEADERS, "one")
        head = await opened.head()
        assert (head.status, head.headers, head.service) == (200, HEADERS, "one")
        pieces = opened.pieces()
        for token in (b"One", b" two"):
            assert await push.write(token) == 0
            assert await anext(pieces) == token
        await push.write(b" three")
        await push.write(b" four")
        push.end(None)
        assert push.sending is not None
        await push.sending
        assert await all_of(opened) == b" three four"
        assert opened.ended == Complete()


async def test_it_ends_with_the_reason_for_which_it_failed() -> None:
    async with listening() as streams, pushing() as pushes, streams.opened(CALL_ID) as opened:
        push = await push_to(pushes, opened)
        push.begin(200, HEADERS, "one")
        await push.write(b"One")
        push.end(failed := Failed(reason="timeout", detail="silent for 60 s"))
        assert await all_of(opened) == b"One"
        assert opened.ended == failed


async def test_a_push_without_its_end_is_known_to_be_broken() -> None:
    async with listening() as streams, pushing() as pushes, streams.opened(CALL_ID) as opened:
        push = await push_to(pushes, opened)
        push.begin(200, HEADERS, "one")
        await push.write(b"One")
        pieces = opened.pieces()
        assert await anext(pieces) == b"One"
        push.give_up()
        assert [piece async for piece in pieces] == []
        assert opened.ended is None


async def test_only_workers_with_the_secret_are_let_in() -> None:
    async with listening() as streams, httpx.AsyncClient(trust_env=False) as stranger:
        async with streams.opened(CALL_ID) as opened:
            assert opened.stream_to is not None
            url, token = opened.stream_to.address + STREAMS_PATH, opened.stream_to.token
            for proof in ("", opened.stream_to.signature, proof_of_worker("another-secret", token)):
                refused = await stranger.post(url + token, headers={PROOF_HEADER: proof}, content=b"D\0\0\0\1x")
                assert refused.status_code == 404
            proof = proof_of_worker(SECRET, TOKEN)
            assert (await stranger.post(url + TOKEN, headers={PROOF_HEADER: proof})).status_code == 404
            assert (await stranger.get(url + token)).status_code == 404
            assert not opened.has_begun
        gone = await stranger.post(url + token, headers={PROOF_HEADER: proof_of_worker(SECRET, token)})
        assert gone.status_code == 404


@pytest.mark.parametrize("sent", [b"POST /internal/streams/x HTTP/1.1\r\nx-long: ", b""])
async def test_strangers_take_nothing_of_its_listener(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Neither with headers without an end, nor with connections on which nothing is said."""
    monkeypatch.setattr(connections, "WORKERS_HEADERS_WITHIN_S", 0.3)
    async with listening() as streams, streams.opened(CALL_ID) as opened:
        assert opened.stream_to is not None
        host, _, port = opened.stream_to.address.rpartition("/")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent + b"x" * 20_000 if sent else b"")
        async with asyncio.timeout(5):
            assert await reader.read() == (TOO_LONG if sent else b"")
        writer.close()


async def test_what_is_no_stream_of_a_worker_breaks_it() -> None:
    async with listening() as streams, streams.opened(CALL_ID) as opened:
        assert opened.stream_to is not None
        url = opened.stream_to.address + STREAMS_PATH + opened.stream_to.token
        headers = {PROOF_HEADER: proof_of_worker(SECRET, opened.stream_to.token)}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as worker:
            assert (await worker.post(url, content=b"D\0\0\0\1x")).status_code == 409
            assert not opened.has_begun
            head = head_frame(Beginning(status=200, service="one"))
            assert (await worker.post(url, content=head + b"x" * 20)).status_code == 400
        assert await all_of(opened) == b""
        assert opened.ended is None


async def test_a_caller_has_the_beginning_of_one_answer_only() -> None:
    """A further attempt of his call is refused, and he is told that the first one came to nothing."""
    async with listening() as streams, pushing() as pushes, streams.opened(CALL_ID) as opened:
        first, second = await push_to(pushes, opened), await push_to(pushes, opened)
        first.begin(200, HEADERS, "one")
        await opened.head()
        first.give_up()
        second.begin(200, HEADERS, "two")
        assert second.sending is not None
        async with asyncio.timeout(10):
            await opened.another_began.wait()
            second.end(None)
            await second.sending
        assert await all_of(opened) == b""


async def test_a_slow_reader_holds_up_his_stream_and_no_other() -> None:
    """And the worker no longer than the settings say, in all; of his stream it holds no more than it may."""
    piece, written = b"x" * 64 * 1024, 0
    async with (
        listening() as streams,
        pushing(patience_s=0.4) as pushes,
        streams.opened(CALL_ID) as slow,
        streams.opened("call-2") as quick,
    ):
        of_slow, of_quick = await push_to(pushes, slow), await push_to(pushes, quick, "call-2")
        of_slow.begin(200, HEADERS, "one")
        of_quick.begin(200, HEADERS, "one")
        pieces, waited_s = quick.pieces(), 0.0
        while of_slow.is_heard:
            took_s = await of_slow.write(piece)
            waited_s, written = waited_s + took_s, written + len(piece)
            if not took_s:
                await of_quick.write(b"token")
                assert (await anext(pieces)).endswith(b"token")
        assert 0.3 < waited_s < 4
        assert written > 2 * BEHIND_BYTES_MAX
        began = time.monotonic()
        assert await of_slow.write(piece) == 0
        assert time.monotonic() - began < 0.3
        await of_quick.write(b"the last one")
        assert await anext(pieces) == b"the last one"
        given = await all_of(slow)
        assert slow.ended is None
        assert 0 < len(given) < written


async def test_a_caller_who_goes_ends_the_push_and_not_the_call() -> None:
    async with listening() as streams, pushing() as pushes:
        async with streams.opened(CALL_ID) as opened:
            push = await push_to(pushes, opened)
            push.begin(200, HEADERS, "one")
            await opened.head()
        assert push.sending is not None
        async with asyncio.timeout(10):
            while push.is_heard:
                assert await push.write(b"x" * 64 * 1024) < 5
                await asyncio.sleep(0)
        push.end(None)


async def test_whoever_closes_leaves_nothing_under_way() -> None:
    async with listening() as streams, streams.opened(CALL_ID) as opened:
        async with pushing() as pushes:
            push = await push_to(pushes, opened)
            push.begin(200, HEADERS, "one")
            await opened.head()
        assert push.sending is not None
        assert push.sending.done()


async def test_a_machine_that_vanishes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel, a minute after its last word, on both sides of a stream on which nothing is said."""
    made = list[socket.socket]()

    def at_gateway(connection: connections.Connection, transport: asyncio.BaseTransport) -> None:
        made.append(transport.get_extra_info("socket"))
        connection_made(connection, transport)

    def at_worker(stream: network.TcpStream, transport: asyncio.BaseTransport) -> None:
        made.append(transport.get_extra_info("socket"))
        stream_made(stream, transport)

    connection_made, stream_made = connections.Connection.connection_made, network.TcpStream.connection_made
    monkeypatch.setattr(connections.Connection, "connection_made", at_gateway)
    monkeypatch.setattr(network.TcpStream, "connection_made", at_worker)
    async with listening() as streams, pushing() as pushes, streams.opened(CALL_ID) as opened:
        push = await push_to(pushes, opened)
        push.begin(200, HEADERS, "one")
        await opened.head()
        assert len(made) == 2
        for connection in made:
            asked = [connection.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE]
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert asked[0] + asked[1] * asked[2] == 60
        push.end(None)


async def test_a_gateway_that_is_not_there_is_no_matter() -> None:
    async with listening() as streams, streams.opened(CALL_ID) as opened:
        left = opened
    async with pushing() as pushes:
        push = await push_to(pushes, left)
        push.begin(200, HEADERS, "one")
        assert await push.write(b"One") == 0
        assert push.sending is not None
        await push.sending
        assert await push.write(b" two") == 0
        push.end(None)


async def test_a_worker_sends_only_where_it_may(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    now = int(time.time() * 1000)

    def to(address: str = "http://127.0.0.1:7301", secret: str = SECRET, expires_at_ms: int = now + 60_000):
        return signed(secret, address=address, token=TOKEN, call_id=CALL_ID, expires_at_ms=expires_at_ms)

    async with pushing(
        workers_reach=["10.0.0.0/8", "127.0.0.1", "http://gateway.internal", "*.gateways.internal"]
    ) as pushes:
        for good in (
            "http://127.0.0.1:1",
            "https://10.1.2.3:1",
            "http://gateway.internal:1",
            "https://one.gateways.internal:1",
        ):
            assert await pushes.to(to(good), CALL_ID) is not None
        assert not caplog.messages
        for bad, call_id, why in (
            (to("https://192.168.0.1:1"), CALL_ID, "workers_reach"),
            (to("http://10.1.2.3:1"), CALL_ID, "workers_reach"),
            (to("https://gateway.internal.evil.example:1"), CALL_ID, "workers_reach"),
            (to("https://evil-gateways.internal:1"), CALL_ID, "workers_reach"),
            (to("https://10.1.2.3@evil.example:1"), CALL_ID, "workers_reach"),
            (to("https://127.0.0.1:1/v1/pay"), CALL_ID, "workers_reach"),
            (to(expires_at_ms=now - 1), CALL_ID, "too old"),
            (to(secret="another-secret"), CALL_ID, "another secret"),
            (to(), "call-2", "another call"),
        ):
            assert await pushes.to(bad, call_id) is None
            assert why in caplog.messages.pop()
    async with pushing(secret_key=None) as without:
        assert await without.to(to(), CALL_ID) is None


async def test_beyond_one_machine_it_goes_by_tls(tmp_path: Path) -> None:
    """A worker that does not trust the certificate sends nothing."""
    authority = trustme.CA()
    of_gateway = authority.issue_cert("127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("tls_certificate", "tls_key", "ca_bundle")}
    of_gateway.cert_chain_pems[0].write_to_path(files["tls_certificate"])
    of_gateway.private_key_pem.write_to_path(files["tls_key"])
    authority.cert_pem.write_to_path(files["ca_bundle"])
    async with (
        listening(tls_certificate=files["tls_certificate"], tls_key=files["tls_key"]) as streams,
        streams.opened(CALL_ID) as opened,
        pushing(ca_bundle=files["ca_bundle"]) as pushes,
        pushing() as distrusting,
    ):
        assert opened.stream_to is not None
        assert opened.stream_to.address.startswith("https://127.0.0.1:")
        refused = await push_to(distrusting, opened)
        refused.begin(200, HEADERS, "one")
        assert refused.sending is not None
        await refused.sending
        assert not opened.has_begun
        push = await push_to(pushes, opened)
        push.begin(200, HEADERS, "one")
        await push.write(b"One")
        push.end(None)
        assert await all_of(opened) == b"One"


async def test_without_a_secret_or_beyond_the_limit_none_is_taken() -> None:
    async with Streams(stream_settings(secret_key=None), SomeKeys()) as none, none.opened(CALL_ID) as opened:
        assert opened.stream_to is None
    async with listening(at_once=1) as streams, streams.opened(CALL_ID) as first:
        assert first.stream_to is not None
        async with streams.opened("call-2") as second:
            assert second.stream_to is None
    assert first.is_left


@pytest.mark.parametrize("secret_key", [None, "missing-here"])
async def test_at_its_start_it_says_why_none_come(caplog: pytest.LogCaptureFixture, secret_key: str | None) -> None:
    """In one line, before anybody asks."""
    keys = named_keys(Settings())
    try:
        async with Streams(stream_settings(secret_key=secret_key), keys):
            (said,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    finally:
        await keys.close()
    assert said.startswith("streams are given to callers when they are complete")
    assert ("gateway.streams.secret_key" if secret_key is None else "PAYMASTER_KEY_MISSING_HERE") in said


async def test_a_worker_that_is_gone_without_a_word_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection stays, as when its machine has lost its power; the call's result says that nothing more comes."""
    monkeypatch.setattr(gateway_streams, "SILENT_FOR_S", 0.2)
    async with listening() as streams, pushing() as pushes, streams.opened(CALL_ID) as opened:
        push = await push_to(pushes, opened)
        push.begin(200, HEADERS, "one")
        await push.write(b"One")
        pieces = opened.pieces()
        assert await anext(pieces) == b"One"
        opened.call_has_ended()
        async with asyncio.timeout(10):
            assert [piece async for piece in pieces] == []
        assert opened.ended is None
        push.give_up()
