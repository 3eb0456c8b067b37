"""Keys in files: found by name, and not used when somebody else could have read or changed them."""

import asyncio
import os
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from paymaster.keys.api_key import KeyUnavailable
from paymaster.keys.file import FileKeys, why_not_private

SECRET = "sk-proj-SENTINEL0123456789abcdef"
NAME = "openai-api-key"


def key_file(folder: Path, content: bytes = SECRET.encode(), mode: int = 0o600) -> Path:
    file = folder / NAME
    file.write_bytes(content)
    file.chmod(mode)
    return file


async def test_the_file_of_the_keys_name_is_the_key(tmp_path: Path) -> None:
    file = key_file(tmp_path)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    key = await FileKeys(tmp_path).get(NAME)
    assert (key.reveal(), key.where) == (SECRET, str(file))
    assert key.changed_at == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize("content", [f"{SECRET}\n", f"{SECRET}\r\n", f" {SECRET}\t\n\n", f"\ufeff{SECRET}\r\n"])
async def test_what_editors_add_around_a_key_does_not_belong_to_it(tmp_path: Path, content: str) -> None:
    key_file(tmp_path, content.encode())
    assert (await FileKeys(tmp_path).get(NAME)).reveal() == SECRET


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (f"{SECRET}\n{SECRET}".encode(), "a space, a control character"),
        (f"{SECRET} x".encode(), "a space"),
        (f"{SECRET}\0".encode(), "control character"),
        (f"x\ufeff{SECRET}".encode(), "outside ASCII"),
        (SECRET.encode("utf-16"), "not UTF-8"),
        (SECRET.encode() * 2_000, "longer than 32768 bytes"),
    ],
)
async def test_a_file_that_holds_no_key_is_refused_without_being_shown(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = key_file(tmp_path, content)
    with pytest.raises(KeyUnavailable, match=reason) as caught:
        await FileKeys(tmp_path).get(NAME)
    assert str(file) in str(caught.value)
    assert "SENTINEL" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601, 0o777])
async def test_a_file_that_others_can_use_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, mode=mode)
    with pytest.raises(KeyUnavailable, match=f"mode {mode:04o}.*run: chmod 600 {file}"):
        await FileKeys(tmp_path).get(NAME)
    file.chmod(0o600)  # as the error says
    assert (await FileKeys(tmp_path).get(NAME)).reveal() == SECRET


async def test_a_link_is_judged_by_the_file_that_it_leads_to(tmp_path: Path) -> None:
    """In Kubernetes every mounted secret is a link; the link's own mode is always 0777."""
    (tmp_path / "data").mkdir()
    file = key_file(tmp_path / "data")
    (tmp_path / NAME).symlink_to(file)
    assert (await FileKeys(tmp_path).get(NAME)).reveal() == SECRET
    file.chmod(0o644)
    with pytest.raises(KeyUnavailable, match="mode 0644"):
        await FileKeys(tmp_path).get(NAME)
    file.unlink()
    with pytest.raises(KeyUnavailable, match="there is no key 'openai-api-key'"):
        await FileKeys(tmp_path).get(NAME)


def link_to_a_device(file: Path) -> None:
    file.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link_to_a_device])
async def test_what_is_not_a_regular_file_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A named pipe would otherwise hold up the whole worker until somebody writes into it."""
    make(tmp_path / NAME)
    with pytest.raises(KeyUnavailable, match="is not a regular file"):
        async with asyncio.timeout(5):
            await FileKeys(tmp_path).get(NAME)


async def test_a_missing_file_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match=f"write it into the file {tmp_path / NAME}, then chmod 600"):
        await FileKeys(tmp_path).get(NAME)
    with pytest.raises(KeyUnavailable, match=r"cannot be read: .*Not a directory"):
        await FileKeys(key_file(tmp_path)).get(NAME)


async def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    key_file(tmp_path)
    with pytest.raises(ValueError, match="not the name of a key"):
        await FileKeys(tmp_path / "below").get(f"../{NAME}")


@pytest.mark.parametrize(
    ("mode", "owner", "problem"),
    [
        (0o600, 7, None),
        (0o400, 7, None),
        (0o440, 7, "run: chmod 600"),
        (0o440, 0, None),  # root's, for our group: a secret that Kubernetes mounts with fsGroup
        (0o460, 0, "run: chmod 440"),
        (0o444, 0, "run: chmod 440"),
        (0o600, 8, "belongs to another user.*run: chown 7"),
    ],
)
def test_whose_file_it_is_decides_how_closed_it_must_be(mode: int, owner: int, problem: str | None) -> None:
    """For a worker whose user is number 7."""
    found = why_not_private(stat.S_IFREG | mode, owner, 7, Path("/run/secrets/x"))
    assert found is None if problem is None else re.search(problem, found or "")
