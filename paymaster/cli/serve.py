"""`paymaster serve`: the gateway, by which programs in any language make calls over HTTP."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_name, command_settings, run_async
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import print_line, print_note
from paymaster.values.extras import require

if TYPE_CHECKING:
    from paymaster.settings import Settings

logger = logging.getLogger(__name__)


def serve(
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen. Default: gateway.address.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="What requests without a key are charged to, on this machine only. Default: gateway.budget."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Answer what the SDKs of OpenAI, Anthropic and Google send, until Ctrl-C or SIGTERM."""
    require("worker", "the gateway")
    require("gateway", "the gateway")
    import uvloop

    changed = {name: value for name, value in (("address", address), ("budget", budget)) if value is not None}
    run_async(_serve(_with(command_settings(config), changed)), loop_factory=uvloop.new_event_loop)


def _with(settings: "Settings", changed: dict[str, str]) -> "Settings":
    """The settings with what the options say. Raises CommandError."""
    from pydantic import ValidationError

    from paymaster.settings import GatewaySettings

    asked = settings.gateway.model_dump(exclude_unset=True) | changed
    try:
        return settings.model_copy(update={"gateway": GatewaySettings.model_validate(asked)})
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        raise CommandError(f"gateway.{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


async def _serve(settings: "Settings") -> None:
    import asyncio
    import signal

    from paymaster.console.routes import console_routes
    from paymaster.gateway.serving import run_gateway
    from paymaster.observability.logs import configure_logs
    from paymaster.settings import ConfigurationError

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _say_what_is_read_again)
    try:
        await run_gateway(settings, stop, configure_logs(settings.logs), partial(_tell, settings), console_routes)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None
    except (RuntimeError, OSError) as error:
        raise CommandError(str(error), EXIT_NO) from None


def _say_what_is_read_again() -> None:
    """For whoever sends SIGHUP, as other servers want it when their files have changed."""
    logger.info(
        "SIGHUP: it goes on; certificates that changed are in use within 10 s by themselves, and what `paymaster "
        "clients` changed within seconds; another configuration needs a restart"
    )


def _tell(settings: "Settings", url: str) -> None:
    print_line(f"Gateway        {url}")
    if settings.console.is_on:
        print_line(f"Console        {url}/console")
    print_line(f"OpenAI         base_url {url}/v1")
    print_line(f"Anthropic      base_url {url}")
    print_line(f"Google         base_url {url}")
    gateway = settings.gateway
    if gateway.budget is None and gateway.jwt is None and not gateway.clients:
        print_note(
            f"requests need a key of a client, and the configuration has none: `{command_name()} clients create -h` "
            "makes one, or start this with --budget for requests without a key from this machine"
        )
