"""`paymaster codec`: lets the Temporal UI show encrypted payloads to anyone with the token."""

from functools import partial
from typing import TYPE_CHECKING

from paymaster.cli.connection import ConfigOption, command_settings, run_async, until_ctrl_c
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_line

if TYPE_CHECKING:
    from paymaster.settings import Settings


def codec(config: ConfigOption = None) -> None:
    """Run the codec server for the Temporal UI until Ctrl-C."""
    run_async(_serve(command_settings(config)))


async def _serve(settings: "Settings") -> None:
    import asyncio

    from aiohttp import web

    from paymaster.keys.ring import key_source
    from paymaster.security.codec_server import TOKEN_CHARACTERS_MIN, codec_application
    from paymaster.security.encryption import PayloadEncryption
    from paymaster.security.team_codec import team_codec

    if not settings.encryption.keys and settings.encryption.codec is None:
        raise CommandError("there is nothing to decrypt: [encryption] keys in the configuration names no key")
    if settings.codec.token is None:
        raise CommandError(
            'nobody could ask: name a key in the configuration, [codec] token = "codec-token", '
            "and make its value with `openssl rand -hex 32`"
        )
    keys = key_source(settings)
    try:
        token = await keys.get(settings.codec.token)
    finally:
        await keys.close()
    if len(token.reveal()) < TOKEN_CHARACTERS_MIN:
        raise CommandError(
            f"the token {settings.codec.token!r} could be guessed: it has less than {TOKEN_CHARACTERS_MIN} characters; "
            "make one with `openssl rand -hex 32`"
        )
    encryption = PayloadEncryption(settings.encryption.keys, partial(key_source, settings))
    await encryption.load()
    # What a body would be when decompressed nobody knows before; the UI and the CLI send theirs as they are.
    team = None if settings.encryption.codec is None else team_codec(settings.encryption.codec)
    application = codec_application(encryption, token, settings.codec.origins, team)
    runner = web.AppRunner(application, auto_decompress=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.codec.host, settings.codec.port)
        try:
            await site.start()
        except OSError as error:
            raise CommandError(
                f"cannot listen on {settings.codec.host}, port {settings.codec.port}: {error.strerror}"
            ) from None
        host, port = runner.addresses[0][:2]
        print_line(f"Codec server   http://{host}:{port}")
        print_line(f"For pages of   {', '.join(settings.codec.origins)}")
        print_line("\nSign in there once with the token. Then, in the Temporal UI's settings for the codec server (the")
        print_line("glasses): this address, and “include cross-origin credentials”. Ctrl-C stops it.")
        await until_ctrl_c(asyncio.Event().wait())
    finally:
        await runner.cleanup()
