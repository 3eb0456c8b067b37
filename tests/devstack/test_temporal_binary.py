"""The `temporal` program comes from PATH, else from the cache, else it is made once."""

import asyncio
import io
import json
import os
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from process_table import alive

from paymaster.devstack import StackError, temporal_binary
from paymaster.devstack.temporal_binary import CLI_VERSION

FAKE_TEMPORAL = "#!/bin/sh\necho temporal version 0.0.0-fake\n"
# What `go install` is asked to do, and with which environment, is printed; then it "builds".
FAKE_GO = f"""#!/bin/sh
echo "$@" GOTOOLCHAIN=$GOTOOLCHAIN GOFLAGS=$GOFLAGS GOARCH=$GOARCH GOPROXY=$GOPROXY > {{seen}}
mkdir -p "$GOPATH/bin"
printf '{FAKE_TEMPORAL.encode("unicode_escape").decode()}' > "$GOPATH/bin/temporal"
chmod 755 "$GOPATH/bin/temporal"
"""
NO_HOST = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, but for those that have the system's own small programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir", "chmod", "mv", "ps", "sleep"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def no_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object) -> Path:
        raise temporal_binary._NotThisWay("this test has no PyPI")

    monkeypatch.setattr(temporal_binary, "_build_with_go_from_pypi", none)


class DownloadHost(ThreadingHTTPServer):
    """Answers as temporal.download does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        host = self.server
        assert isinstance(host, DownloadHost)
        host.requests.append(self.path)
        if self.path.startswith("/archive"):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                entry = tarfile.TarInfo("temporal")
                entry.size = len(FAKE_TEMPORAL)
                tar.addfile(entry, io.BytesIO(FAKE_TEMPORAL.encode()))
            body = archive.getvalue()
        else:
            body = json.dumps({"archiveUrl": host.url + "/archive", "fileToExtract": "temporal"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def download_host() -> Iterator[DownloadHost]:
    with DownloadHost() as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield host
        host.shutdown()
        thread.join()


def make_program(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file


async def get(cache_dir: Path, download_host: str = NO_HOST) -> Path:
    return await temporal_binary.temporal_binary(print, cache_dir=cache_dir, download_host=download_host)


async def test_temporal_on_path_comes_first(path: Path, tmp_path: Path) -> None:
    program = make_program(path / "temporal", FAKE_TEMPORAL)
    assert await get(tmp_path / "cache") == program


async def test_another_program_of_that_name_is_passed_over(path: Path, tmp_path: Path) -> None:
    make_program(path / "temporal", "#!/bin/sh\necho a tool for time series\n")
    cached = make_program(tmp_path / f"temporal-{CLI_VERSION}", FAKE_TEMPORAL)
    assert await get(tmp_path) == cached


@pytest.mark.usefixtures("path")
async def test_it_is_downloaded_once_and_then_cached(tmp_path: Path, download_host: DownloadHost) -> None:
    first = await get(tmp_path, download_host.url)
    assert first.read_text() == FAKE_TEMPORAL
    question, archive = download_host.requests
    assert question.startswith(f"/cli/{CLI_VERSION}?platform=")
    assert archive == "/archive"
    assert await get(tmp_path, NO_HOST) == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bin", first.name, "temporal.lock"], (
        "nothing else stays"
    )


@pytest.mark.usefixtures("path")
async def test_two_at_once_do_the_work_once(tmp_path: Path, download_host: DownloadHost) -> None:
    one, other = await asyncio.gather(get(tmp_path, download_host.url), get(tmp_path, download_host.url))
    assert one == other
    assert len(download_host.requests) == 2


@pytest.mark.usefixtures("path", "no_pypi")
async def test_a_host_that_cannot_be_reached_is_given_up_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StackError):
        await get(tmp_path, NO_HOST)
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("path", "no_pypi")
async def test_a_host_that_never_answers_is_given_up_after_three_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(StackError, match="did not answer in time"):
            await get(tmp_path, f"http://127.0.0.1:{port}")
        assert time.monotonic() - started < 5


async def test_go_on_path_builds_it_with_a_clean_environment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    monkeypatch.setenv("GOARCH", "mips")
    monkeypatch.setenv("GOPROXY", "https://proxy.example.com")
    make_program(path / "go", FAKE_GO.format(seen=tmp_path / "seen"))
    made = await get(tmp_path / "cache")
    assert made.read_text() == FAKE_TEMPORAL
    seen = (tmp_path / "seen").read_text()
    assert f"github.com/temporalio/cli/cmd/temporal@{CLI_VERSION} GOTOOLCHAIN=local GOFLAGS=-modcacherw" in seen
    assert "GOARCH= GOPROXY=https://proxy.example.com" in seen
    assert [file.name for file in made.parent.iterdir() if file.is_dir()] == [], "the 1.8 GB of the build are gone"


@pytest.mark.usefixtures("no_pypi")
async def test_without_any_way_the_error_has_every_reason_and_what_to_do(path: Path, tmp_path: Path) -> None:
    make_program(path / "go", "#!/bin/sh\necho go is too old >&2\nexit 1\n")
    with pytest.raises(StackError) as error:
        await get(tmp_path)
    message = str(error.value)
    for part in (f"download from {NO_HOST}", "go is too old", "this test has no PyPI", "https://docs.temporal.io/cli"):
        assert part in message


async def test_what_a_killed_build_left_is_removed_by_the_next(path: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "temporal-work-abandoned" / "gopath").mkdir(parents=True)
    make_program(path / "go", FAKE_GO.format(seen=tmp_path / "seen"))
    made = await get(tmp_path / "cache")
    assert [file.name for file in made.parent.iterdir() if file.is_dir()] == []


async def test_a_cancelled_build_leaves_no_process_and_no_folder(path: Path, tmp_path: Path) -> None:
    make_program(
        path / "go", f"#!/bin/sh\nsleep 600 & echo $$ $! > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pids; wait"
    )
    getting = asyncio.create_task(get(tmp_path / "cache"))
    async with asyncio.timeout(20):
        while not (tmp_path / "pids").exists():
            await asyncio.sleep(0.02)
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    assert not alive({int(pid) for pid in (tmp_path / "pids").read_text().split()})
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["temporal.lock"]


@pytest.mark.full
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on PATH")
async def test_the_real_build_with_go_on_path_works(tmp_path: Path) -> None:
    await _really_builds(tmp_path)


@pytest.mark.full
@pytest.mark.timeout(1_800)
async def test_the_real_build_with_go_from_pypi_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = os.environ["PATH"].split(os.pathsep)
    without_go = [folder for folder in folders if not (Path(folder) / "go").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(without_go))
    await _really_builds(tmp_path)


async def _really_builds(tmp_path: Path) -> None:
    started = time.monotonic()
    made = await get(tmp_path)
    print(f"built in {time.monotonic() - started:.0f} s: {made.stat().st_size >> 20} MiB")
    assert await temporal_binary._runs(made)
