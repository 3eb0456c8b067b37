"""deploy/kubernetes without a cluster: its form, by schemas of Kubernetes and KEDA, and that it fits the product."""

import copy
import json
import os
import re
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml
from kubernetes_manifests import (
    FOLDER,
    Deployed,
    Manifest,
    base,
    container,
    documents,
    every_manifest,
    go_module,
    render,
    rendered,
    run_go_program,
    selects,
    strict,
)
from paymaster_process import ROOT, free_address
from temporalio.envconfig import ClientConfigProfile

from paymaster.cli import app
from paymaster.keys.file import why_not_private
from paymaster.messages.temporal_names import activities_task_queue, calls_task_queue
from paymaster.observability.health import HealthServer
from paymaster.settings import GatewaySettings, Settings, load_settings
from workflows.llm_call import SEND_MARGIN

KUBERNETES = ("1.30", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
"""The oldest version that docs/deployment.md promises, and the newest whose schemas are here."""
KEDA = "github.com/kedacore/keda/v2@v2.21.0"
KUBECONFORM = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
OF_OTHERS = ("ScaledObject", "SecretProviderClass")
"""Kinds that Kubernetes itself does not have."""
STOPS_WITHIN = timedelta(seconds=15)
"""What a process needs beyond its grace period, as the settings' own words say."""
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OF_KUBERNETES = {name: each for name, each in every_manifest() if each["kind"] not in OF_OTHERS}


@pytest.fixture(scope="module", params=["base", pytest.param("azure", marks=pytest.mark.full)])
def deployed(request: pytest.FixtureRequest) -> Deployed:
    return base() if request.param == "base" else rendered(request.param)


def settings_of(deployed: Deployed, component: str, folder: Path) -> Settings:
    """Those of a component's process. Raises ConfigurationError for a variable or a key that there is not."""
    file = folder / "paymaster.toml"
    file.write_text(deployed.configuration)
    return load_settings(file, environ=deployed.environment(component))


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


# ---------------------------------------------------------------- its form


def test_each_file_is_used() -> None:
    used: set[Path] = set()
    for file in FOLDER.rglob("kustomization.yaml"):
        (kustomization,) = documents(file)
        generators = kustomization.get("configMapGenerator", [])
        named = [*kustomization.get("resources", []), *(name for each in generators for name in each.get("files", ()))]
        used |= {file, *(file.parent / name for name in named if not name.startswith("../"))}
        assert all((file.parent / name).exists() for name in [*named, *kustomization.get("components", [])]), file
    assert used == {path for path in FOLDER.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", OF_KUBERNETES)
def test_kubernetes_takes_each_manifest(name: str, version: str) -> None:
    kubernetes_validate.validate(OF_KUBERNETES[name], version, strict=True)


def test_a_word_that_kubernetes_lacks_is_an_error() -> None:
    """The search above finds it, however deep."""
    worker = copy.deepcopy(OF_KUBERNETES["base/worker.yaml: Deployment paymaster-worker"])
    container(worker["spec"]["template"])["readyProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readyProbe"):
        kubernetes_validate.validate(worker, KUBERNETES[0], strict=True)


@pytest.fixture(scope="module")
def keda() -> Path:
    return go_module(KEDA)


def test_keda_takes_the_scaled_object(keda: Path) -> None:
    (definition,) = documents(keda / "config/crd/bases/keda.sh_scaledobjects.yaml")
    (version,) = definition["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    (scaled,) = documents(FOLDER / "keda/scaled-object.yaml")
    assert scaled["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
    jsonschema.validate(scaled["spec"], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled["spec"] | {"maxReplicas": 3}, schema)


def test_keda_knows_what_its_triggers_say(keda: Path) -> None:
    source = (keda / "pkg/scalers/temporal_scaler.go").read_text()
    known: set[str] = set()
    for name, order in re.findall(r'keda:"name=(\w+),\s*order=([\w;]+)', source):
        known |= {name} if "triggerMetadata" in order else set[str]()
        known |= {f"{name}FromEnv"} if "resolvedEnv" in order else set[str]()
    of_temporal = [each for each in triggers() if each["type"] == "temporal"]
    assert of_temporal
    for each in of_temporal:
        assert set(each["metadata"]) <= known


@pytest.mark.full
def test_kubeconform_takes_what_kustomize_makes(tmp_path: Path) -> None:
    """With the schemas that are here: it would fetch its own."""
    there = Path(kubernetes_validate.__file__).with_name("kubernetes-json-schema")
    files = {name: tmp_path / f"{name}.yaml" for name in ("base", "azure")}
    for name, file in files.items():
        file.write_text(render(name))
    for version in KUBERNETES:
        folder = tmp_path / version
        folder.mkdir()
        for schema in (there / f"v{version}.0-local-strict").iterdir():
            said = json.loads(schema.read_text().replace("/api/_definitions.json", "_definitions.json"))
            said.pop("$id", None)  # what it refers to is beside it, and not where that says
            (folder / schema.name).write_text(json.dumps(said))
        where = folder / "{{.ResourceKind}}{{.KindSuffix}}.json"
        options = ["-strict", "-summary", "-skip", ",".join(OF_OTHERS), "-schema-location", str(where)]
        for file in files.values():
            found = run_go_program(KUBECONFORM, *options, str(file))
            assert re.search(r"Valid: ([1-9]\d*), Invalid: 0, Errors: 0", found), found


# ---------------------------------------------------------------- it is this Paymaster's


@pytest.mark.parametrize("component", ["migrate", "worker", "gateway"])
def test_configuration_and_variables_are_the_settings(deployed: Deployed, component: str, tmp_path: Path) -> None:
    settings = settings_of(deployed, component, tmp_path)
    assert settings.database.url is not None
    configured = container(deployed.pods()[component])["volumeMounts"]
    (mounted,) = (each["mountPath"] for each in configured if each["name"] == "configuration")
    assert f"PAYMASTER_CONFIG={mounted}/paymaster.toml" in DOCKERFILE


def test_commands_are_those_of_the_image(deployed: Deployed) -> None:
    commands = {name: container(pod)["command"] for name, pod in deployed.pods().items()}
    assert f"CMD {json.dumps(commands.pop('worker'))}" in DOCKERFILE
    known = {each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands}
    for program, subcommand in commands.values():
        assert program == "paymaster"
        assert subcommand in known


def test_ports_are_where_the_processes_listen(deployed: Deployed, tmp_path: Path) -> None:
    ports = {
        name: {each["name"]: each["containerPort"] for each in container(pod).get("ports", [])}
        for name, pod in deployed.pods().items()
    }
    worker, gateway = (settings_of(deployed, name, tmp_path) for name in ("worker", "gateway"))
    assert worker.worker.health_address is not None
    assert gateway.gateway.health_address is not None
    assert ports == {
        "migrate": {},
        "worker": {"health": port_of(worker.worker.health_address)},
        "gateway": {
            "http": port_of(gateway.gateway.address),
            "streams": port_of(gateway.gateway.streams.listen),
            "health": port_of(gateway.gateway.health_address),
        },
    }
    assert ports["gateway"]["http"] == port_of(GatewaySettings().address)
    exposed = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed == [f"{ports['worker']['health']} {ports['gateway']['http']}"]
    (service,) = deployed.of_kind("Service")
    assert [(each["port"], each["targetPort"]) for each in service["spec"]["ports"]] == [
        (ports["gateway"]["http"], "http")
    ]


@pytest.mark.parametrize("component", ["worker", "gateway"])
async def test_probes_are_answered(deployed: Deployed, component: str) -> None:
    probes = {
        kind: container(deployed.pods()[component])[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")
    }
    assert {each["httpGet"]["port"] for each in probes.values()} == {"health"}
    down: list[str] = []

    async def temporal() -> str | None:
        return down[0] if down else None

    async def answers() -> dict[str, int]:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            return {kind: (await client.get(each["httpGet"]["path"])).status_code for kind, each in probes.items()}

    async with HealthServer(address := free_address(), {"temporal": temporal}, bytes):
        assert set((await answers()).values()) == {200}
        down.append("it does not answer")
        assert await answers() == {"startup": 200, "liveness": 200, "readiness": 503}


def test_pods_have_the_time_that_their_processes_take(deployed: Deployed, tmp_path: Path) -> None:
    worker, gateway = (settings_of(deployed, name, tmp_path) for name in ("worker", "gateway"))
    assert worker.worker.grace_period is not None
    longest = max(service.timeout for service in worker.services.values())
    assert worker.worker.grace_period >= longest + SEND_MARGIN
    taken = {"worker": worker.worker.grace_period, "gateway": gateway.gateway.grace_period}
    for name, grace_period in taken.items():
        pod = deployed.pods()[name]
        before_s = container(pod).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        given = timedelta(seconds=pod["spec"]["terminationGracePeriodSeconds"] - before_s)
        assert given == grace_period + STOPS_WITHIN, name


@pytest.mark.parametrize("component", ["migrate", "worker", "gateway"])
def test_pods_are_as_closed_as_they_can_be(deployed: Deployed, component: str) -> None:
    """By the standard `restricted`, and nothing of the image can be written."""
    pod = deployed.pods()[component]
    spec, only = pod["spec"], container(pod)
    user = int(re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[-1])
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {each["mountPath"] for each in only["volumeMounts"] if not each.get("readOnly")} == {"/tmp"}
    assert set(only["resources"]["requests"]) == {"cpu", "memory"}
    assert set(only["resources"]["limits"]) == {"memory"}


def test_a_gateway_has_the_memory_for_its_bodies(deployed: Deployed, tmp_path: Path) -> None:
    limit = container(deployed.pods()["gateway"])["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    bodies_max = settings_of(deployed, "gateway", tmp_path).gateway.bodies_bytes_max
    assert int(limit.removesuffix("Gi")) * 2**30 >= 3 * bodies_max


def test_selectors_and_names_lead_to_something(deployed: Deployed) -> None:
    pods = deployed.pods()
    labels = {name: pod["metadata"]["labels"] for name, pod in pods.items()}

    def found(selector: Manifest) -> set[str]:
        return {name for name, each in labels.items() if selects(selector, each)}

    for kind in ("Deployment", "PodDisruptionBudget"):
        named = {each["metadata"]["name"]: found(each["spec"]["selector"]) for each in deployed.of_kind(kind)}
        assert named == {"paymaster-worker": {"worker"}, "paymaster-gateway": {"gateway"}}
    (service,) = deployed.of_kind("Service")
    assert found({"matchLabels": service["spec"]["selector"]}) == {"gateway"}
    maps = {each["metadata"]["name"] for each in deployed.of_kind("ConfigMap")}
    accounts = {each["metadata"]["name"] for each in deployed.of_kind("ServiceAccount")}
    for pod in pods.values():
        assert {each["configMapRef"]["name"] for each in container(pod)["envFrom"]} <= maps
        assert {each["configMap"]["name"] for each in pod["spec"]["volumes"] if "configMap" in each} <= maps
        assert pod["spec"]["serviceAccountName"] in accounts


def test_only_what_must_reaches_the_pods(deployed: Deployed) -> None:
    """All pods are closed; each exception is for pods that are there, and a port that they have."""
    closed: set[str] = set()
    opened: dict[str, set[str]] = {}
    for policy in deployed.of_kind("NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        for name, pod in deployed.pods().items():
            if not selects(policy["spec"]["podSelector"], pod["metadata"]["labels"]):
                continue
            closed.add(name)
            ports = {each["name"] for each in container(pod).get("ports", [])}
            for rule in policy["spec"].get("ingress", ()):
                named = {each["port"] for each in rule["ports"]}
                assert named <= ports, (policy["metadata"]["name"], name)
                opened.setdefault(name, set()).update(port for port in named if "from" not in rule)
    assert closed == {"migrate", "worker", "gateway"}
    assert opened == {"worker": set(), "gateway": {"http"}}


def test_workers_may_send_streams_to_gateways(deployed: Deployed, tmp_path: Path) -> None:
    worker, gateway = (settings_of(deployed, name, tmp_path) for name in ("worker", "gateway"))
    address = gateway.gateway.streams.address
    assert address is not None
    assert worker.gateway.streams.is_reached(address)
    assert worker.gateway.streams.secret_key == gateway.gateway.streams.secret_key is not None


def test_keys_of_a_secret_are_taken_as_files(tmp_path: Path) -> None:
    """Where they are mounted, with the mode and the group that the pod gives them."""
    here = base()
    settings = settings_of(here, "worker", tmp_path)
    assert settings.keys.source == "file"
    for pod in here.pods().values():
        (mounted,) = (each["mountPath"] for each in container(pod)["volumeMounts"] if each["name"] == "keys")
        (volume,) = (each["secret"] for each in pod["spec"]["volumes"] if each["name"] == "keys")
        assert Path(mounted) == settings.keys.folder
        mode, user = stat.S_IFREG | volume["defaultMode"], pod["spec"]["securityContext"]["runAsUser"]
        assert why_not_private(mode, 0, user, Path(mounted)) is None
        assert volume["defaultMode"] & stat.S_IRGRP


@pytest.mark.full
@pytest.mark.parametrize("site", ["base", "azure"])
def test_a_client_certificate_reaches_every_process(site: str, tmp_path: Path) -> None:
    """An overlay of somebody, in a folder of its own: relative paths alone, as kustomize wants them."""
    resources = [os.path.relpath(FOLDER / site, tmp_path)]
    components = [os.path.relpath(FOLDER / "client-certificate", tmp_path)]
    overlay = {"kind": "Kustomization", "resources": resources, "components": components}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    deployed = rendered(tmp_path)
    for component, pod in deployed.pods().items():
        (where,) = (each["mountPath"] for each in container(pod)["volumeMounts"] if each["name"] == "temporal")
        (secret,) = (each["secret"] for each in pod["spec"]["volumes"] if each["name"] == "temporal")
        assert secret["defaultMode"] & stat.S_IRGRP
        tls = ClientConfigProfile.load(override_env_vars=deployed.environment(component)).tls
        assert tls is not None
        assert (tls.client_cert, tls.client_private_key) == (Path(where) / "tls.crt", Path(where) / "tls.key")


def triggers() -> list[Manifest]:
    (scaled,) = documents(FOLDER / "keda/scaled-object.yaml")
    return scaled["spec"]["triggers"]


def test_workers_are_scaled_by_their_task_queues(tmp_path: Path) -> None:
    here, of_temporal = base(), [each["metadata"] for each in triggers() if each["type"] == "temporal"]
    queues = {each["taskQueue"]: each["queueTypes"] for each in of_temporal}
    ledger = settings_of(here, "worker", tmp_path).ledger.name
    assert queues == {calls_task_queue(ledger): "workflow,activity", activities_task_queue(ledger): "activity"}
    (scaled,) = documents(FOLDER / "keda/scaled-object.yaml")
    (worker,) = (each for each in here.of_kind("Deployment") if each["metadata"]["name"] == "paymaster-worker")
    only = container(worker["spec"]["template"])
    assert scaled["spec"]["scaleTargetRef"] == {
        "name": worker["metadata"]["name"],
        "envSourceContainerName": only["name"],
    }
    variables = {*here.temporal, *(each["name"] for each in only["env"])}
    assert {value for each in of_temporal for name, value in each.items() if name.endswith("FromEnv")} <= variables
    assert scaled["spec"]["minReplicaCount"] == worker["spec"]["replicas"]


# ---------------------------------------------------------------- Azure Key Vault by workload identity


def test_the_vault_has_what_the_pods_ask_for(tmp_path: Path) -> None:
    """Keys by Paymaster itself; as Secrets, which the CSI driver makes, what is no key."""
    (provider,) = documents(FOLDER / "azure/secrets.yaml")
    (kustomization,) = documents(FOLDER / "azure/kustomization.yaml")
    parameters = provider["spec"]["parameters"]
    listed = [yaml.safe_load(each) for each in yaml.safe_load(parameters["objects"])["array"]]
    given = {
        (each["secretName"], data["key"]): data["objectName"]
        for each in provider["spec"]["secretObjects"]
        for data in each["data"]
    }
    assert {each["objectName"] for each in listed} == set(given.values())
    assert {each["objectType"] for each in listed} == {"secret"}
    asked = {
        (each["valueFrom"]["secretKeyRef"]["name"], each["valueFrom"]["secretKeyRef"]["key"])
        for pod in base().pods().values()
        for each in container(pod)["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert set(given) == asked
    settings = load_settings(FOLDER / "azure/paymaster.toml", environ={})
    assert (settings.keys.source, settings.azure.credential) == ("azure-key-vault", "workload-identity")
    host = urlsplit(settings.keys.vault_url or "").hostname or ""
    assert host.split(".")[0] == parameters["keyvaultName"]
    (annotated,) = (each for each in kustomization["patches"] if each["target"]["kind"] == "ServiceAccount")
    (operation,) = yaml.safe_load(annotated["patch"])
    assert operation["value"] == {"azure.workload.identity/client-id": parameters["clientID"]}


@pytest.mark.full
def test_the_overlay_changes_what_it_means_to() -> None:
    here = rendered("azure")
    (provider,) = here.of_kind("SecretProviderClass")
    for pod in here.pods().values():
        assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
        assert container(pod)["image"].startswith("example.azurecr.io/paymaster:")
        volumes: dict[str, Any] = {each["name"]: each for each in pod["spec"]["volumes"]}
        attributes = volumes["keys"]["csi"]["volumeAttributes"]
        assert attributes == {"secretProviderClass": provider["metadata"]["name"]}
        assert set(volumes["keys"]) == {"name", "csi"}
    replicas = {each["metadata"]["name"]: each["spec"].get("replicas") for each in here.of_kind("Deployment")}
    assert replicas == {"paymaster-worker": None, "paymaster-gateway": 2}
    assert {each["metadata"]["namespace"] for each in here.manifests if each["kind"] != "Namespace"} == {"paymaster"}


def test_the_page_names_each_secret() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    pods = base().pods().values()
    of_variables = {
        each["valueFrom"]["secretKeyRef"]["name"]
        for pod in pods
        for each in container(pod)["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    of_files = {each["secret"]["secretName"] for pod in pods for each in pod["spec"]["volumes"] if "secret" in each}
    for name in of_variables | of_files:
        assert f"create secret generic {name}" in page, name
