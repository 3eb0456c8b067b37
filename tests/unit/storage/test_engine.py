"""What a database's URL may say: TLS as libpq's parameters have it, and poolers."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from paymaster.storage.engine import create_engine, is_pooled, parse_url


@asynccontextmanager
async def database_with_tls(authority: trustme.CA, name: str) -> AsyncGenerator[tuple[int, list[str]]]:
    """A port that speaks PostgreSQL as far as the handshake of TLS; tells what became of each."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    handshakes: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        writer.write(b"S")
        try:
            await writer.start_tls(context)
            handshakes.append("trusted" if await reader.read(1) else "left")
        except (ssl.SSLError, ConnectionError):
            handshakes.append("refused")
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], handshakes


@pytest.mark.parametrize(
    ("mode", "name", "is_ours", "trusted"),
    [
        ("verify-full", "127.0.0.1", True, True),
        ("verify-full", "elsewhere.example", True, False),
        ("verify-ca", "elsewhere.example", True, True),
        ("require", "127.0.0.1", False, False),
        ("verify-ca", "127.0.0.1", False, False),
    ],
)
async def test_a_databases_certificate_is_verified(
    mode: str, name: str, is_ours: bool, trusted: bool, tmp_path: Path
) -> None:
    """Against the authorities in sslrootcert; with verify-full, its name too."""
    ours, authority = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with database_with_tls(ours if is_ours else authority, name) as (port, handshakes):
        engine = create_engine(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode={mode}&sslrootcert={tmp_path / 'ca.pem'}")
        with pytest.raises((DBAPIError, OSError)):
            async with engine.connect():
                pass
        await engine.dispose()
    assert ("trusted" in handshakes) is trusted


def test_a_file_of_authorities_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sslrootcert=/no/such\.pem cannot be read"):
        create_engine("postgresql://u:secret@h/d?sslmode=verify-full&sslrootcert=/no/such.pem")
    (tmp_path / "no.pem").write_text("not PEM")
    with pytest.raises(ValueError, match=r"no\.pem cannot be read") as refused:
        create_engine(f"postgresql://u:secret@h/d?sslrootcert={tmp_path / 'no.pem'}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "pooled"),
    [
        ("postgresql://h/d", False),
        ("postgresql://h:6432/d", True),
        ("postgresql://h:6432/d?pgbouncer=false", False),
        ("postgresql://h/d?pgbouncer=true", True),
        ("postgresql:///d?host=h&port=6432", True),
    ],
)
def test_a_pooler_is_told_by_its_port_or_by_the_url(url: str, pooled: bool) -> None:
    assert is_pooled(parse_url(url)) is pooled


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("h/d?pgbouncer=maybe", "pgbouncer= with another word than true, false"),
        ("h/d?sslmode=on", "sslmode= with another word than disable, allow, "),
        ("h/d?target_session_attrs=bogus", "target_session_attrs= with another word than any, "),
        ("h/d?port=abc", "a port that is no number"),
        ("h/d?port=70000", "a port that is no number from 1 to 65535"),
        ("h:70000/d", "a port that is no number from 1 to 65535"),
        ("h/d?sslmode=require&sslmode=disable", "sslmode= 2 times"),
        ("h/d?sslmode=disable&sslrootcert=system", "remove one of them"),
        ("/d?host=a&host=b", "host=a:5432&host=b:5432"),
        ("/d?host=a,b", "host=a:5432&host=b:5432"),
        ("/d?host=a&host=b&port=5432", "host=a:5432&host=b:5432"),
        ("/d?host=[::1]:5432&host=[::2]:5432", "host=a:5432&host=b:5432"),
        ("h/d?prepared_statement_cache_size=many", "that is no number"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(address: str, said: str) -> None:
    """In words that name it and say what it may be, and show no password."""
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        create_engine(f"postgresql://u:secret@{address}")
    assert "secret" not in str(refused.value)


def test_several_hosts_with_their_ports_are_taken() -> None:
    assert create_engine("postgresql:///d?host=a:5432&host=b:5433&target_session_attrs=primary")


async def test_a_host_that_has_vanished_is_passed_over(database_url: str) -> None:
    """It takes the connection and says nothing; the next one is asked within the time that there is."""
    there = make_url(database_url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hosts = f"host=127.0.0.1,{there.query['host']}&port={port},{there.query['port']}"
        engine = create_engine(f"postgresql://{there.username}@/{there.database}?{hosts}")
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT pg_is_in_recovery()")) is False
        await engine.dispose()


async def test_transactions_see_what_others_have_just_stored(database_url: str) -> None:
    """Whatever the database's own default is."""
    admin = create_engine(database_url)
    async with admin.begin() as connection:
        await connection.execute(
            text(f"ALTER DATABASE {make_url(database_url).database} SET default_transaction_isolation = 'serializable'")
        )
    await admin.dispose()
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        assert await connection.scalar(text("SHOW default_transaction_isolation")) == "serializable"
        assert await connection.scalar(text("SHOW transaction_isolation")) == "read committed"
    await engine.dispose()
