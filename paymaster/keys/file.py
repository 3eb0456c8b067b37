"""Keys from files: one for each key, as Docker and Kubernetes mount secrets, and readable by nobody else."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from paymaster.keys.api_key import ApiKey, KeyUnavailable, why_unusable, without_margin
from paymaster.values.key_name import check_key_name

KEY_FILE_BYTES_MAX = 32_768
"""A longer file is no key; the rest is not read."""


class FileKeys:
    """The key `openai-api-key` is the content of the file `openai-api-key` in the folder.

    A byte order mark and white space around the key do not belong to it. The file is read at each `get`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get(self, name: str) -> ApiKey:
        """Raises KeyUnavailable, also when others than its owner can read the file."""
        found = _read(self._folder / check_key_name(name), name)
        if isinstance(found, KeyUnavailable):
            raise found  # nothing in this frame holds the value
        return found

    async def close(self) -> None:
        """There is nothing to end."""


def _read(file: Path, name: str) -> ApiKey | KeyUnavailable:
    try:
        # Opened first and looked at then, so that it is one and the same file; without waiting, should it be a pipe.
        opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return KeyUnavailable(f"there is no key {name!r}: write it into the file {file}, then chmod 600 {file}")
    except OSError as error:
        return KeyUnavailable(f"the key {name!r} cannot be read: {file}: {error.strerror}")
    try:
        status = os.fstat(opened)
        problem = why_not_private(status.st_mode, status.st_uid, os.geteuid(), file)
        if problem is not None:
            return KeyUnavailable(f"the key {name!r} is not used: {problem}")
        content = os.read(opened, KEY_FILE_BYTES_MAX + 1)
        value = without_margin(content.decode())
    except OSError as error:
        return KeyUnavailable(f"the key {name!r} cannot be read: {file}: {error.strerror}")
    except UnicodeDecodeError:
        return KeyUnavailable(f"the key {name!r} cannot be used: {file} is not UTF-8 text; write it again")
    finally:
        os.close(opened)
    reason = why_unusable(value) if len(content) <= KEY_FILE_BYTES_MAX else f"is longer than {KEY_FILE_BYTES_MAX} bytes"
    if reason is not None:
        return KeyUnavailable(f"the key {name!r} cannot be used: {file} {reason}; write it again")
    return ApiKey(value, where=str(file), changed_at=datetime.fromtimestamp(status.st_mtime, UTC))


def why_not_private(mode: int, owner: int, user: int, file: Path) -> str | None:
    """Why a file with this mode and owner is no place for a secret of this user; None: it is one.

    It must be the user's own and closed to all others. One of root's may be open to a group, because that is how
    Kubernetes gives a secret to a process that is not root. A symbolic link is judged by the file that it leads to.
    """
    if not stat.S_ISREG(mode):
        return f"{file} is not a regular file; put the key into one"
    open_to = stat.S_IRWXG | stat.S_IRWXO
    if owner == user:
        fix = f"chmod 600 {file}"
    elif owner == 0:
        open_to = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
        fix = f"chmod 440 {file} (defaultMode: 0440 with fsGroup in Kubernetes)"
    else:
        return f"{file} belongs to another user, who can read and change it; run: chown {user} {file}"
    if mode & open_to:
        return f"others than its owner can use {file} (mode {stat.S_IMODE(mode):04o}); run: {fix}"
    return None
