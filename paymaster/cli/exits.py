"""How a command ends whose work could not be done, or whose answer is "no": exit codes, and the error that says why."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_NO = 1
"""The command did its work and the answer is "no": differences, a denied call, a problem found."""
EXIT_ERROR = 2
"""The command could not do its work: wrong usage or configuration, or something that it needs is not there."""
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141
"""Nobody read the answer to its end: 128 and the number of SIGPIPE, as a shell says of other programs."""
EXIT_TERMINATED = 143


class CommandError(Exception):
    """Ends the command with one or two lines on stderr that say what to do, and no traceback."""

    def __init__(self, message: str, exit_code: int = EXIT_ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def given_once(option: str, given: "Sequence[str] | None") -> str | None:
    """The value of an option that means one thing; None where it is not given. Raises CommandError for several."""
    if given and len(given) > 1:
        raise CommandError(f"{option} is given {len(given)} times, and this tells of one: ask once for each")
    return given[0] if given else None
