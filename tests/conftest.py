"""What tests share: one Temporal and one PostgreSQL for all, the local model, and a network that ends at loopback."""

import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import searches
import warm_start
from counting_server import CountingServer
from paymaster_process import Databases

from paymaster import redaction
from paymaster.devstack import EmbeddedStack
from paymaster.devstack.temporal_programs import HOW_TO_BUILD, built_programs

# As in the Makefile: every process that a test starts would compile what it imports, a worker for 6 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# ---------------------------------------------------------------- which tests, and how long they search


def pytest_configure(config: pytest.Config) -> None:
    if "not full" in config.option.markexpr:
        searches.shorten()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the stack by the fixtures that it takes. Files that start their own are marked by hand."""
    for item in items:
        if isinstance(item, pytest.Function) and {"stack", "model_base_url"} & set(item.fixturenames):
            item.add_marker("stack")


# ---------------------------------------------------------------- no file's secrets make another one slow


@pytest.fixture(scope="module", autouse=True)
def secrets_of_this_file() -> Iterator[None]:
    """What a file's tests had remembered as secrets is forgotten: each is looked for in every line that is logged."""
    before = dict(redaction.known_secrets)
    yield
    redaction.known_secrets.clear()
    redaction.known_secrets.update(before)


@pytest.fixture(scope="module")
def heap_of_a_worker() -> Iterator[None]:
    """What the session has made so far is nothing that Python's collector goes through, as a worker's imports are not:
    with a gigabyte of it a collection takes a second, in the middle of what is measured."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# ---------------------------------------------------------------- no provider can be reached


class OutsideConnection(RuntimeError):
    """A test tried to talk to something that is not on this machine."""


class _Network:
    """What the tests' own process may connect to: loopback during a test, everything outside of one."""

    def __init__(self) -> None:
        self.guarded = False
        self.attempts: list[str] = []

    def check(self, host: object) -> None:
        if self.guarded and not _is_loopback(host):
            self.attempts.append(str(host))
            raise OutsideConnection(f"a test may not talk to {host}; what it needs must be on this machine")


_network = _Network()


def _is_loopback(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


def _guard_sockets() -> None:
    """Wraps Python's own ways out. Temporal's client connects below them, and only to addresses that tests give it."""
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, *, original: Any = original) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _network.check(address[0])
            return original(self, address)

        setattr(socket.socket, name, guarded)
    lookup = socket.getaddrinfo

    def guarded_lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        _network.check(host)
        return lookup(host, *arguments, **options)

    socket.getaddrinfo = guarded_lookup


_guard_sockets()


@pytest.fixture(autouse=True)
def only_loopback() -> Iterator[list[str]]:
    """Fails a test that tries to reach another machine, even if the code under test swallows the error.

    The hosts that were tried: a test that tries on purpose clears them.
    """
    _network.guarded = "PAYMASTER_TEST_VAULT" not in os.environ  # somebody wants a real vault to be asked
    _network.attempts.clear()
    yield _network.attempts
    _network.guarded = False
    assert _network.attempts == [], "a test tried to reach another machine"


# ---------------------------------------------------------------- the embedded stack


def pytest_sessionstart() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and what tests start and interrupt would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[EmbeddedStack]:
    """Temporal and PostgreSQL for the whole session. Take a namespace and a database of your own there.

    With PAYMASTER_TEST_TEMPORAL=postgresql it is Temporal's own server on that PostgreSQL. Skips where that is not
    built.
    """
    programs = built_programs() if os.environ.get("PAYMASTER_TEST_TEMPORAL") == "postgresql" else None
    if programs is None and "PAYMASTER_TEST_TEMPORAL" in os.environ:
        pytest.skip(f"no Temporal server for PostgreSQL here: {HOW_TO_BUILD}")
    warm_start.prepare()
    stack = EmbeddedStack(model=False, headless=True, temporal_programs=programs)
    await stack.start()
    try:
        yield stack
    finally:
        await stack.stop()
        # As worker.py does: the Temporal SDK's objects must go while the loop still runs, or the interpreter may abort.
        gc.collect()
        await asyncio.sleep(0.1)


@pytest.fixture(scope="session")
async def model_base_url() -> AsyncIterator[str]:
    """The real local model, in the wire format of OpenAI."""
    stack = EmbeddedStack(temporal=False, postgres=False)
    await stack.start()
    try:
        yield stack.model_base_url
    finally:
        await stack.stop()


@pytest.fixture(scope="session")
def databases(stack: EmbeddedStack) -> Databases:
    """Makes migrated databases."""
    return Databases(stack.database_url)


@pytest.fixture
async def database_url(databases: Databases) -> str:
    """A database with the current schema and no rows, on the session's PostgreSQL."""
    return await databases.create()


@pytest.fixture(scope="module")
def server() -> Iterator[CountingServer]:
    """The counting server of this file. Take services there: `server.service("name")`."""
    with CountingServer() as server:
        yield server


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything in this file."""
    return tmp_path_factory.mktemp("site")
