"""Signing what an admin commands, where the ledger wants that."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from paymaster.cli.connection import admin_errors, connect_ledger
from paymaster.cli.exits import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paymaster.admission.signatures import SignedT
    from paymaster.ledger.handle import Ledger
    from paymaster.settings import Settings

AnswerT = TypeVar("AnswerT")

SignOption = Annotated[
    Path | None,
    typer.Option("--sign-with", metavar="FILE", help="Your signing key; see `paymaster admin new-key`."),
]


async def tell_ledger(
    settings: "Settings",
    action: str,
    command: "SignedT",
    sign_with: Path | None,
    send: "Callable[[Ledger, SignedT], Awaitable[AnswerT]]",
) -> AnswerT:
    """The ledger's answer to what an admin commands. Raises CommandError, also for what the ledger refuses."""
    from paymaster.errors import LedgerNotFound
    from paymaster.messages.temporal_names import RAISE_CAP, RAISE_RUN

    ledger = await connect_ledger(settings)
    with admin_errors():
        # Also without a signature: where the answers cannot be read, for want of a key, nothing must be commanded.
        epoch = await ledger.epoch()
    command = _signed(ledger.name, epoch, settings, action, command, sign_with)
    with admin_errors():
        try:
            return await send(ledger, command)
        except LedgerNotFound as error:
            if error.command_id is None:
                raise
            again = "to give it again does no harm"
            if action in (RAISE_CAP.name, RAISE_RUN.name):
                again = f"give it again with --command-id {error.command_id}, and it is carried out once"
            raise CommandError(f"{error}\nNobody knows whether the command was carried out; {again}.") from None


def _signed(
    ledger: str, epoch: str, settings: "Settings", action: str, command: "SignedT", file: Path | None
) -> "SignedT":
    """The command with the signature of whose key the file holds; None: as it is. Raises CommandError.

    The configuration says whose it is. Where that is another one than the ledger has, the ledger refuses.
    """
    from paymaster.security.signing_key import KeyFileUnusable, SigningKey

    if file is None:
        return command
    try:
        key = SigningKey.read(file)
    except KeyFileUnusable as error:
        raise CommandError(f"--sign-with: {error}") from None
    by = next((name for name, public in settings.admin.keys.items() if public == key.public), None)
    if by is None:
        raise CommandError(
            f"--sign-with: [admin.keys] of the configuration does not have the key of {file}; its line would be\n"
            f'  your-name = "{key.public}"'
        )
    return key.sign(action, command, by=by, ledger=ledger, epoch=epoch)
