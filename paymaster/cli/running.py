"""Where the stack of a running `paymaster dev` is, for other commands in other terminals."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

_FILE = "running.json"


def default_data_dir() -> Path:
    """Where `paymaster dev` keeps its data.

    The user's data folder; for root the system's, because PostgreSQL runs as another user there and can't reach into a
    private home.
    """
    from platformdirs import PlatformDirs  # here: `paymaster --help` does not need it

    dirs = PlatformDirs("paymaster", appauthor=False)
    return (dirs.site_state_path if os.geteuid() == 0 else dirs.user_data_path) / "dev"


class RunningStack(BaseModel):
    """The addresses of a stack, and who runs it."""

    model_config = ConfigDict(frozen=True)

    pid: int
    config_file: Path
    environment: dict[str, str]
    """The variables that point a command at it: TEMPORAL_ADDRESS, PAYMASTER__DATABASE__URL, …"""

    def announce(self, data_dir: Path) -> None:
        """Lets other commands find it. The file is for the user alone, and of no use after the process ended."""
        file = data_dir / _FILE
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as writer:
            writer.write(self.model_dump_json())


def running_stack(data_dir: Path | None = None) -> RunningStack | None:
    """The stack that `paymaster dev` runs on this data folder (None: the default one), or None when none runs."""
    try:
        stack = RunningStack.model_validate_json(((data_dir or default_data_dir()) / _FILE).read_text())
        os.kill(stack.pid, 0)
    except (OSError, ValidationError):
        return None
    return stack
