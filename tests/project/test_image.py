"""The worker's image: built with Debian's tools, and run on the embedded stack until SIGTERM.

The base is a Debian trixie with its own Python 3.13, tagged like the Dockerfile's, so that no registry is asked. Built
and run in a chroot: the network is this machine's.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
from counting_server import CountingServer
from paymaster_process import ROOT, Databases, Worker, configuration, free_address, new_namespace, write_configuration
from slow_proxy import SlowProxy
from sqlalchemy.engine import make_url
from temporalio.client import Client

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack, GuardedProcess
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings

BASE = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
CERTIFICATES = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
"""Those of this machine, so that the build trusts a proxy that this machine trusts."""
TOOLS = ("buildah", "debootstrap")
USER = 10001
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1_200),
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS),
        reason="needs root, buildah and debootstrap",
    ),
]


class Images:
    """An own store of images, and what is made of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buildah = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]
        self._buildah += ["--storage-driver", "vfs"]

    def make_base(self) -> None:
        """Debian's Python in the place of the official image's."""
        root = self._folder / "base"
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(root)]
        subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
        for managed in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):  # the official image's pip may install
            managed.unlink()
        (root / "usr/bin/python").symlink_to("python3")
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        shutil.copy(CERTIFICATES, root / certificates.relative_to("/"))
        container = self._run("from", "scratch")
        self._run("copy", "--quiet", container, str(root), "/")
        self._run("config", "--env", f"SSL_CERT_FILE={certificates}", "--env", f"PATH={PATH}", container)
        self._run("commit", "--quiet", container, BASE)
        shutil.rmtree(root)

    def build(self) -> str:
        """A container of the Dockerfile's image."""
        self._run("build", "--isolation", "chroot", "--pull=never", "--tag", "paymaster", str(ROOT))
        return self._run("from", "--pull=never", "localhost/paymaster")

    def command(
        self, container: str, mounted: Mapping[Path, str], environment: Mapping[str, str], *command: str
    ) -> list[str]:
        """What runs the command in the container. `mounted`: folders and files of this machine, and where they are."""
        options = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        options += [part for here, there in mounted.items() for part in ("--volume", f"{here}:{there}")]
        return [*self._buildah, "run", "--isolation", "chroot", *options, container, "--", *command]

    def configured(self, container: str, what: str) -> str:
        """Of the image's configuration, by a Go template."""
        return self._run("inspect", "--format", "{{" + what + "}}", container)

    def _run(self, *arguments: str) -> str:
        ran = subprocess.run([*self._buildah, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-4_000:]
        return ran.stdout.strip()


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    folder = Path(mkdtemp(prefix="paymaster-image-", dir="/var/tmp"))  # a file system that may be mounted over
    try:
        images = Images(folder)
        images.make_base()
        yield images
    finally:
        shutil.rmtree(folder)


async def test_the_image_migrates_answers_a_call_and_stops_on_sigterm(
    images: Images, stack: EmbeddedStack, server: CountingServer, databases: Databases, tmp_path: Path
) -> None:
    container = images.build()
    assert images.configured(container, ".OCIv1.Config.User") == str(USER)
    namespace, service = await new_namespace(stack.temporal_address), server.service("image")
    config = tmp_path / "paymaster.toml"
    write_configuration(config, configuration([service], budgets={"acme": {"cap_usd": {"day": "1"}}}))
    # Over TCP: the socket's folder is closed to the image's user.
    direct = make_url(await databases.create_empty())
    proxy = SlowProxy(partial(asyncio.open_unix_connection, f"{direct.query['host']}/.s.PGSQL.{direct.query['port']}"))
    database_url = direct.set(host="127.0.0.1", port=await proxy.listen(), query={})
    mounted = {config: "/etc/paymaster/paymaster.toml"}
    environment = {
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "TEMPORAL_NAMESPACE": namespace,
        "PAYMASTER__DATABASE__URL": database_url.render_as_string(hide_password=False),
        "PAYMASTER__WORKER__HEALTH_ADDRESS": free_address(),
    }
    migrate = images.command(container, mounted, environment, "paymaster", "migrate")
    migrated = await asyncio.to_thread(subprocess.run, migrate, capture_output=True, text=True, check=False)
    assert migrated.returncode == 0, migrated.stderr

    log_file = tmp_path / "worker.log"
    run = images.command(container, mounted, environment, "python", "worker.py")
    worker = Worker(GuardedProcess(run, env=dict(os.environ), cwd=tmp_path, log_file=log_file), log_file)
    try:
        await worker.ready()
        client = await Client.connect(
            stack.temporal_address, namespace=namespace, plugins=[PaymasterPlugin(Settings())]
        )
        result = await try_generate(client, LLMRequest(route="image", budget="acme", prompt="Hello"))
        assert result.outcome is Outcome.COMPLETED
        os.kill(_worker_in(namespace), signal.SIGTERM)
        assert await worker.process.wait(timeout=60) == 0
        assert "stopping" in worker.log()
    finally:
        worker.process.kill()
        await worker.process.stop()
        proxy.close()


def _worker_in(namespace: str) -> int:
    """The image's own process of this namespace: buildah starts it where it is no descendant of ours."""

    def is_it(process: Path) -> bool:
        with suppress(OSError):  # many end meanwhile
            if process.stat().st_uid == USER:
                return f"TEMPORAL_NAMESPACE={namespace}".encode() in (process / "environ").read_bytes().split(b"\0")
        return False

    (found,) = filter(is_it, Path("/proc").glob("[0-9]*"))
    return int(found.name)
