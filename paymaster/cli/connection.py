"""What commands work with: the settings, Temporal, the ledger, the database; and their errors in words for people.

Other packages are imported inside the functions: each command pays only for what it uses.
"""

import asyncio
import gc
import getpass
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from paymaster.cli.exits import EXIT_INTERRUPTED, EXIT_NO, EXIT_TERMINATED, CommandError
from paymaster.cli.present import print_note

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine
    from temporalio.client import Client

    from paymaster.cli.running import RunningStack
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import AdminMessage, DeskStatus
    from paymaster.settings import Settings

T = TypeVar("T")
ChangeT = TypeVar("ChangeT", bound="AdminMessage")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration. Default: PAYMASTER_CONFIG, else paymaster.toml."),
]

_TEMPORAL_CONNECTS_WITHIN_S = 5.0
_REPORT_TIMEOUT_S = 60.0  # a report may sum millions of rows, and nobody else waits for it
_EXIT_PAUSE_S = 0.1
_SLOW_AFTER_S = 1.0


def run_async(
    coroutine: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """Runs a command to its end. Raises CommandError as the command did, and typer.Exit on Ctrl-C.

    `loop_factory` None: asyncio's own event loop.

    temporalio's threads can abort the interpreter when its objects are still there at exit; collecting them, and a
    pause for the threads, while the event loop still runs prevents that.
    """

    async def run() -> T:
        this = asyncio.current_task()
        assert this is not None  # it is running
        if threading.current_thread() is threading.main_thread():  # only it hears of signals
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        try:
            return await _without_traceback(coroutine)
        finally:
            gc.collect()
            await asyncio.sleep(_EXIT_PAUSE_S)

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(run())
    except KeyboardInterrupt:
        print_note("paymaster: stopped by Ctrl-C")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except asyncio.CancelledError:
        raise typer.Exit(EXIT_TERMINATED) from None


async def until_ctrl_c(running: Coroutine[Any, Any, object]) -> None:
    """Waits for Ctrl-C, which is how such a command is meant to end: it then exits with 0.

    `running` is what must not end before; what it raises is raised here.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(running)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        task.cancel()
    if not task.cancelled():
        task.result()


async def _without_traceback(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, or its CommandError made anew: the frames of the original hold the Temporal client."""
    from paymaster.keys.api_key import KeyUnavailable

    try:
        return await coroutine
    except CommandError as error:
        failure = CommandError(str(error), error.exit_code)
    except KeyUnavailable as error:  # whatever came from Temporal may need a key to be read
        failure = CommandError(str(error))
    raise failure


def command_settings(config: Path | None) -> "Settings":
    """The settings for this command. Raises CommandError."""
    from paymaster.settings import ConfigurationError

    try:
        return read_settings(config)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None


def read_settings(config: Path | None) -> "Settings":
    """The settings for this command, whose file PAYMASTER_CONFIG names from then on. Raises ConfigurationError."""
    from paymaster.settings import load_settings
    from paymaster.settings.load import CONFIG_FILE_DEFAULT

    if config is not None:
        os.environ["PAYMASTER_CONFIG"] = str(config)
    stack = _dev_stack(config)
    if stack is None:
        if config is None and "PAYMASTER_CONFIG" not in os.environ and not Path(CONFIG_FILE_DEFAULT).exists():
            print_note("no `paymaster dev` (`make dev`) is running here, whose configuration would be taken")
        return load_settings(config)
    os.environ.setdefault("TEMPORAL_ADDRESS", stack.environment["TEMPORAL_ADDRESS"])
    return load_settings(stack.config_file, environ=stack.environment | dict(os.environ))


def settings_file(config: Path | None) -> Path:
    """The file that `read_settings` reads."""
    from paymaster.settings.load import CONFIG_FILE_DEFAULT

    stack = _dev_stack(config)
    named = config or Path(os.environ.get("PAYMASTER_CONFIG") or CONFIG_FILE_DEFAULT)
    return named if stack is None else stack.config_file


def _dev_stack(config: Path | None) -> "RunningStack | None":
    """The stack of a running `paymaster dev`, when this command has no configuration of its own or the same one."""
    named = config or (Path(os.environ["PAYMASTER_CONFIG"]) if "PAYMASTER_CONFIG" in os.environ else None)
    own = named or Path("paymaster.toml")
    if named is None and not own.exists():
        own = None
    from paymaster.cli.running import running_stack

    stack = running_stack()
    return stack if stack and (own is None or own.absolute() == stack.config_file) else None


def command_name() -> str:
    """How this user calls us: "paymaster" where the PATH has it, else the path that was given, .venv/bin/paymaster."""
    called, on_path = Path(sys.argv[0]), shutil.which("paymaster")
    return "paymaster" if on_path and Path(on_path).resolve() == called.resolve() else str(called)


def admin() -> str:
    """Who gives this command: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have; KeyError before Python 3.13
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@asynccontextmanager
async def tell_if_slow(what: str) -> AsyncGenerator[None, None]:
    """Says on stderr what takes more than a second, so that nobody wonders whether anything happens."""
    hint = asyncio.get_running_loop().call_later(_SLOW_AFTER_S, print_note, f"{what} …")
    try:
        yield
    finally:
        hint.cancel()


def checked(kind: "type[ChangeT]", values: dict[str, object]) -> "ChangeT":
    """What an admin commands. Raises CommandError for what no such message can hold."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        raise CommandError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


@contextmanager
def admin_errors() -> Generator[None]:
    """Turns what the ledger refuses, one that does not answer, and a key that its answer needs, into CommandError."""
    from paymaster.errors import AdminRefused, LedgerNotFound
    from paymaster.keys.api_key import KeyUnavailable

    try:
        yield
    except AdminRefused as error:
        raise CommandError(f"refused: {error}", EXIT_NO) from None
    except LedgerNotFound as error:
        raise CommandError(f"{error}.\n{_asked_where()}") from None
    except KeyUnavailable as error:
        raise CommandError(str(error)) from None


def _asked_where() -> str:
    return (
        f"Asked was Temporal at {temporal_address()}, with the configuration {settings_file(None)}. "
        "TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, --config FILE or --ledger NAME name another."
    )


def temporal_address() -> str:
    """Where Temporal is expected, as `paymaster.client.connect` reads it. Raises CommandError."""
    from temporalio.envconfig import ClientConfig

    try:
        return ClientConfig.load_client_connect_config().get("target_host", "localhost:7233")
    except (RuntimeError, ValueError) as error:
        raise CommandError(f"Temporal's environment configuration cannot be used: {error}") from None


async def connect_temporal(settings: "Settings") -> "Client":
    """A connected client. Raises CommandError."""
    from paymaster.client import connect, quiet_runtime
    from paymaster.keys.api_key import KeyUnavailable

    address = temporal_address()
    try:
        async with asyncio.timeout(_TEMPORAL_CONNECTS_WITHIN_S):
            return await connect(settings, runtime=quiet_runtime())
    except KeyUnavailable as error:
        raise CommandError(str(error)) from None
    except TimeoutError:
        reason = f"no answer within {_TEMPORAL_CONNECTS_WITHIN_S:.0f} s"
    except (RuntimeError, ValueError) as error:
        reason = str(error)
    raise CommandError(f"no Temporal at {address} {_what_to_do(reason)}")


def _what_to_do(reason: str) -> str:
    """The reason, of the SDK's whole chain of Rust errors, in words for people, and what to do."""
    untrusted = re.search(r"InvalidCertificate\((\w+)", reason)
    if untrusted:
        return (
            f"(its certificate is not trusted: {untrusted[1]})\n"
            "Name its authority in TEMPORAL_TLS_SERVER_CA_CERT_PATH, and its host in TEMPORAL_TLS_SERVER_NAME if the "
            "certificate has another one than the address."
        )
    innermost = re.search(r'message: "([^"]+)"', reason)
    said = innermost[1] if innermost else reason
    if "CertificateRequired" in reason or said in ("transport error", "operation was canceled"):
        return (
            "(it ends the connection)\n"
            "Does it want TLS (TEMPORAL_TLS=true), or a client certificate (TEMPORAL_TLS_CLIENT_CERT_PATH and "
            "TEMPORAL_TLS_CLIENT_KEY_PATH)?"
        )
    return f"({said})\nSet TEMPORAL_ADDRESS to a running one, or start `paymaster dev` in another terminal."


async def connect_ledger(settings: "Settings") -> "Ledger":
    """The ledger of the settings, which may not be running. Raises CommandError."""
    from paymaster.ledger.handle import Ledger

    return Ledger(await connect_temporal(settings), settings.ledger.name)


async def ledger_status(settings: "Settings") -> "DeskStatus":
    """Raises CommandError when no worker answers for the ledger."""
    ledger = await connect_ledger(settings)
    with admin_errors():
        return await ledger.status()


def database_url(settings: "Settings") -> str:
    """Raises CommandError when none is configured."""
    if settings.database.url is None:
        raise CommandError(
            "no database is configured: set database.url in the configuration or PAYMASTER__DATABASE__URL"
        )
    return settings.database.url.get_secret_value()


@asynccontextmanager
async def open_database(
    settings: "Settings", command_timeout_s: float = _REPORT_TIMEOUT_S
) -> AsyncGenerator["AsyncEngine", None]:
    """The database with the schema that we need; closed at the end. Raises CommandError for whatever it answers."""
    from paymaster.storage.engine import create_engine
    from paymaster.storage.schema import SchemaOutdated, check_schema

    url = database_url(settings)
    async with database_errors(url):
        engine = create_engine(url, command_timeout_s=command_timeout_s)
        try:
            await check_schema(engine)
            yield engine
        except SchemaOutdated as error:
            raise CommandError(str(error)) from None
        finally:
            await engine.dispose()


@asynccontextmanager
async def database_errors(url: str) -> AsyncGenerator[None, None]:
    """Turns what a database's address and its driver raise into CommandError."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from paymaster.storage.access import UNSAID_POOLER, grant_for, is_refused_by_pooler, said_by_replica
    from paymaster.storage.engine import parse_url

    try:
        address = parse_url(url)
    except ValueError as error:
        raise CommandError(str(error)) from None
    try:
        yield
    except TimeoutError:
        reason = "it does not answer"
    except DBAPIError as error:
        reason = str(error.orig)
        if grant := grant_for(error, address.username):
            raise CommandError(f"{reason}: as the owner of the database {address}, {grant}") from None
        if is_refused_by_pooler(error):
            raise CommandError(f"{reason}: {UNSAID_POOLER}") from None
        if said := said_by_replica(error):
            raise CommandError(f"the database {address}: {reason}; {said}") from None
    except (OSError, SQLAlchemyError) as error:
        reason = str(error)
    else:
        return
    raise CommandError(f"the database {address} cannot be used: {reason}\nCheck database.url and that it runs.")
