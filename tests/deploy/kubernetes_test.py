"""The Kubernetes manifests: rendered by kustomize, valid by Kubernetes' own schemas and rules, and every name in them exists."""

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from conftest import SOURCE_DIR, seconds

KUBERNETES = SOURCE_DIR / "deploy" / "kubernetes"
OVERLAYS = sorted(p.name for p in (KUBERNETES / "overlays").iterdir())
CLUSTERS = [name for name in OVERLAYS if name != "monitoring"]
PROGRAM_OF_IMAGE = {"anneal-coordinator": "anneal-coordinator", "anneal-worker": "anneal-worker", "anneal-worker-cuda": "anneal-worker"}
# Read by the CUDA driver, not by a program of ours.
DRIVER_VARIABLES = {"CUDA_CACHE_PATH"}


class Manifests:
    """Rendered resources, and what refers to what among them."""

    def __init__(self, text):
        self.text = text
        self.all = [document for document in yaml.safe_load_all(text) if document]
        self.workloads = [r for r in self.all if r["kind"] in ("StatefulSet", "DaemonSet")]

    def of_kind(self, kind):
        return {r["metadata"]["name"]: r for r in self.all if r["kind"] == kind}

    def pods_with(self, selector):
        """The pod templates that a label selector finds."""
        return [w["spec"]["template"] for w in self.workloads
                if matches(selector, w["spec"]["template"]["metadata"]["labels"])]


def matches(selector, labels):
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def container_of(workload_or_template):
    template = workload_or_template["spec"].get("template", workload_or_template)
    [container] = template["spec"]["containers"]
    return container


def ports_of(container):
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def program_of(container):
    return PROGRAM_OF_IMAGE[container["image"].partition(":")[0]]


def config_of(manifests, workload):
    """The parsed --config file of a workload, found through its argument, mount and ConfigMap."""
    container = container_of(workload)
    [path] = [a.removeprefix("--config=") for a in container["args"] if a.startswith("--config=")]
    [mount] = [m for m in container["volumeMounts"] if m["mountPath"] == os.path.dirname(path)]
    [volume] = [v for v in workload["spec"]["template"]["spec"]["volumes"] if v["name"] == mount["name"]]
    return yaml.safe_load(manifests.of_kind("ConfigMap")[volume["configMap"]["name"]]["data"][os.path.basename(path)])


def render(checks, folder):
    return Manifests(subprocess.run([checks / "bin" / "kustomize", "build", folder], capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="session")
def rendered(checks):
    return {name: render(checks, KUBERNETES / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(params=CLUSTERS)
def cluster(request, rendered):
    return rendered[request.param]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas(rendered, checks, overlay):
    custom = [r for r in rendered[overlay].all if r["apiVersion"].startswith("monitoring.coreos.com/")]
    for resource in rendered[overlay].all:
        if resource not in custom:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    if custom:
        result = subprocess.run([checks / "bin" / "node", checks / "validate_crds.mjs"], input=json.dumps(custom), capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_schema_check_finds_faults(checks):
    fault = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"},
             "spec": {"selector": {}, "podMetricsEndpoints": [{"prt": "metrics", "interval": "15 sec"}]}}
    result = subprocess.run([checks / "bin" / "node", checks / "validate_crds.mjs"], input=json.dumps([fault]), capture_output=True, text=True)
    assert result.returncode == 1 and "'\"prt\"' does not exist" in result.stdout and "must match pattern" in result.stdout
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}},
                                     kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("pool, gpus", list(itertools.product(["gpu-pool", "gpu-daemonset"], [1, 2, 4, 8])))
def test_components_combine(checks, tmp_path, pool, gpus):
    to_here = os.path.relpath(KUBERNETES, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{to_here}/base]\ncomponents: [{to_here}/components/{pool}, {to_here}/components/gpus-{gpus}]\n")
    workload = render(checks, tmp_path).of_kind("DaemonSet" if pool == "gpu-daemonset" else "StatefulSet")[f"anneal-{pool}"]
    resources = container_of(workload)["resources"]
    assert resources["requests"] == resources["limits"] == {
        "cpu": str(8 * gpus), "memory": f"{64 * gpus}Gi", "nvidia.com/gpu": str(gpus)}


def test_all_pods_are_restricted(cluster, checks):
    result = subprocess.run([checks / "bin" / "pod_security"], input=cluster.text, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(result.stdout.splitlines()) == sorted(
        f"{w['kind']} {w['metadata']['name']}: restricted" for w in cluster.workloads)


def test_the_restricted_check_finds_faults(cluster, checks):
    text = cluster.text.replace("readOnlyRootFilesystem: true", "privileged: true")
    result = subprocess.run([checks / "bin" / "pod_security"], input=text, capture_output=True, text=True)
    assert result.returncode == 1 and "privileged" in result.stdout


def test_flags_and_settings_exist(cluster, programs):
    for workload in cluster.workloads:
        container = container_of(workload)
        program = program_of(container)
        assert container["command"] == [f"/opt/anneal/bin/{program}"]
        programs.check_arguments(program, container["args"])
        programs.check_config(program, config_of(cluster, workload))
        variables = {v["name"] for v in container.get("env", [])}
        for argument in container["args"]:
            assert set(re.findall(r"\$\((\w+)\)", argument)) <= variables, argument
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        assert variables - used <= DRIVER_VARIABLES, f"{variables - used} of {program} are not used"


def test_ports_exist_and_are_what_the_programs_listen_on(cluster):
    for workload in cluster.workloads:
        config, ports = config_of(cluster, workload), ports_of(container_of(workload))
        listens = {"api": "listen", "fleet": "fleet_listen", "metrics": "admin_listen", "liveness": "liveness_listen"}
        assert {name: config[listens[name]] for name in ports} == {name: f"0.0.0.0:{port}" for name, port in ports.items()}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container_of(workload):
                assert container_of(workload)[probe]["httpGet"]["port"] in ports
    for service in cluster.of_kind("Service").values():
        [template] = cluster.pods_with({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert port["port"] == ports_of(container_of(template))[port["targetPort"]], service["metadata"]["name"]
    host, _, port = config_of(cluster, worker_of(cluster))["coordinator"].partition(":")
    assert int(port) in [p["port"] for p in cluster.of_kind("Service")[host]["spec"]["ports"]]


def worker_of(cluster):
    [worker] = [w for w in cluster.workloads if program_of(container_of(w)) == "anneal-worker"]
    return worker


def test_labels_and_policies_select_something(cluster):
    for workload in cluster.workloads:
        assert cluster.pods_with(workload["spec"]["selector"]) == [workload["spec"]["template"]]
    isolated = set()
    for policy in cluster.of_kind("NetworkPolicy").values():
        name, spec = policy["metadata"]["name"], policy["spec"]
        subjects = cluster.pods_with(spec["podSelector"])
        assert subjects, f"{name} selects no pod"
        if not spec.get("ingress") and not spec.get("egress"):
            isolated |= set(spec["policyTypes"])
        for rule, peers in [(r, "from") for r in spec.get("ingress", [])] + [(r, "to") for r in spec.get("egress", [])]:
            inside = [p for p in rule[peers] if "namespaceSelector" not in p]
            others = [template for peer in inside for template in cluster.pods_with(peer["podSelector"])]
            assert others or not inside, f"{name} names peers that do not exist"
            for port in rule["ports"]:
                if isinstance(port["port"], str):
                    for template in subjects if peers == "from" else others:
                        assert port["port"] in ports_of(container_of(template)), f"{name}: no port {port['port']}"
    assert isolated == {"Ingress", "Egress"}, "nothing denies by default"


def test_collectives_have_the_ports_that_the_kernel_gives_them(cluster):
    worker = worker_of(cluster)["spec"]["template"]
    pool = worker["metadata"]["labels"]["anneal.dev/pool"]
    policy = cluster.of_kind("NetworkPolicy")[f"collectives-{pool}"]["spec"]
    peer = {"podSelector": {"matchLabels": {"anneal.dev/pool": pool}}}
    [sysctl] = worker["spec"]["securityContext"]["sysctls"]
    assert sysctl["name"] == "net.ipv4.ip_local_port_range"
    first, last = map(int, sysctl["value"].split())
    ports = [{"protocol": "TCP", "port": first, "endPort": last}]
    assert policy["podSelector"] == peer["podSelector"]
    assert policy["ingress"] == [{"from": [peer], "ports": ports}]
    assert policy["egress"] == [{"to": [peer], "ports": ports}]
    assert not any(first <= port <= last for w in cluster.workloads for port in ports_of(container_of(w)).values())


def test_volumes_accounts_and_classes_exist(cluster):
    for workload in cluster.workloads:
        pod, container = workload["spec"]["template"]["spec"], container_of(workload)
        assert pod["serviceAccountName"] in cluster.of_kind("ServiceAccount")
        assert pod["priorityClassName"] in cluster.of_kind("PriorityClass")
        if workload["kind"] == "StatefulSet":
            assert workload["spec"]["serviceName"] in cluster.of_kind("Service")
        volumes = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
        assert {m["name"] for m in container["volumeMounts"]} == volumes
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in cluster.of_kind("PersistentVolumeClaim")
            if "configMap" in volume:
                assert volume["configMap"]["name"] in cluster.of_kind("ConfigMap")
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in cluster.of_kind("ConfigMap")
        # The root is read-only, so each path that a program is told lies in a volume.
        mounts = [m["mountPath"] for m in container["volumeMounts"]]
        for key, value in config_of(cluster, workload).items():
            if str(value).startswith("/"):
                assert any(value == mount or value.startswith(mount + "/") for mount in mounts), f"{key}: {value}"


def secrets_made_by_the_page():
    """Name -> keys of the Secrets that the installation page creates."""
    text = (SOURCE_DIR / "docs" / "operations" / "kubernetes.md").read_text().replace("\\\n", " ")
    return {command.split()[0]: set(re.findall(r"--from-file=(?:\S*/)?([\w.]+)(?==|\s|$)", command, re.MULTILINE))
            for command in re.findall(r"create secret generic (.*)", text)}


def test_secrets_are_made_by_the_installation_page(cluster):
    made = secrets_made_by_the_page()
    for workload in cluster.workloads:
        mounts = {m["name"]: m["mountPath"] for m in container_of(workload)["volumeMounts"]}
        paths = [str(v) for v in config_of(cluster, workload).values()]
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if "secret" in volume:
                folder = mounts[volume["name"]] + "/"
                used = {path.removeprefix(folder) for path in paths if path.startswith(folder)}
                assert used and made[volume["secret"]["secretName"]] == used, volume


def test_a_pod_is_given_time_for_its_checkpoint(cluster, programs):
    worker = worker_of(cluster)
    drain = seconds(config_of(cluster, worker)["drain_timeout"])
    # What is left is told to stop, then terminated, then killed: stop_grace (5 s) apart.
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + 30
    assert worker["spec"]["updateStrategy"] == {"type": "OnDelete"}


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(text)).groups()
    return int(number) * {None: 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]


def test_the_quota_has_room_for_everything(cluster):
    nodes = 4  # of a DaemonSet, as its overlay says
    [quota] = cluster.of_kind("ResourceQuota").values()
    sums = {"pods": 0}
    for workload in cluster.workloads:
        count = workload["spec"].get("replicas", nodes)
        sums["pods"] += count
        resources = container_of(workload)["resources"]
        for kind, name in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory"), ("requests", "nvidia.com/gpu")]:
            key = f"{kind}.{name}"
            sums[key] = sums.get(key, 0) + count * quantity(resources[kind].get(name, 0))
    for key, needed in sums.items():
        assert needed <= quantity(quota["spec"]["hard"][key]), f"{key}: {needed} are needed"


def test_shared_memory_is_sized(cluster):
    pod = worker_of(cluster)["spec"]["template"]["spec"]
    [volume] = [v for v in pod["volumes"] if v["name"] == "shm"]
    [mount] = [m for m in container_of(worker_of(cluster))["volumeMounts"] if m["name"] == "shm"]
    assert mount["mountPath"] == "/dev/shm" and volume["emptyDir"]["medium"] == "Memory"
    limit = quantity(container_of(worker_of(cluster))["resources"]["limits"]["memory"])
    assert 2**30 <= quantity(volume["emptyDir"]["sizeLimit"]) <= limit / 4


def nccl_library():
    import nvidia.nccl
    return (Path(nvidia.nccl.__path__[0]) / "lib" / "libnccl.so.2").read_bytes()


def nccl_settings(manifests):
    [settings] = [c["data"] for name, c in manifests.of_kind("ConfigMap").items() if name.startswith("anneal-nccl")]
    return settings


def test_nccl_settings_are_known_to_nccl(cluster):
    library = nccl_library()
    for variable in nccl_settings(cluster):
        assert variable.encode() + b"\0" in library, f"NCCL does not read {variable}"


def test_nccl_uses_rdma_or_fails(rendered):
    tcp, rdma = nccl_settings(rendered["gpu"]), nccl_settings(rendered["gpu-rdma"])
    assert tcp["NCCL_IB_DISABLE"] == "1" and "NCCL_NET" not in tcp
    assert rdma["NCCL_IB_DISABLE"] == "0" and rdma["NCCL_NET"] == "IB"
    # The trainer knows better: the interface of --data-address.
    assert "NCCL_SOCKET_IFNAME" not in tcp | rdma
    assert container_of(worker_of(rendered["gpu-rdma"]))["resources"]["limits"]["rdma/hca"] == "1"


def test_the_image_has_what_nccl_loads_for_rdma():
    # Package of Debian 12 -> what NCCL opens of it.
    packages = {"libibverbs1": "libibverbs.so.1", "ibverbs-providers": "libmlx5.so.1"}
    opened = {name.decode() for name in re.findall(rb"\0(lib(?:ibverbs|mlx5|rdmacm)\.so\.[\d.]+)\0", nccl_library())}
    assert opened == set(packages.values())
    text = (SOURCE_DIR / "deploy" / "images" / "Containerfile").read_text()
    [stage] = re.findall(r"^FROM runtime AS worker\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    only_with_cuda = r'if \[ -n "\$\{PACKAGE\}" \].*apt-get install -y --no-install-recommends ([^&]+) &&'
    [installed] = re.findall(only_with_cuda, stage.replace("\\\n", " "))
    assert set(installed.split()) == set(packages) and re.search(r"^ARG PACKAGE=$", stage, re.MULTILINE)
    assert re.findall(r"^USER (.*)", stage, re.MULTILINE)[-1] == "65532:65532"


def test_images_carry_the_version_and_nothing_blocks_a_drain(cluster, version):
    for workload in cluster.workloads:
        assert container_of(workload)["image"].partition(":")[2] == version
        assert not container_of(workload)["image"].partition(":")[0].count("/")
    assert not cluster.of_kind("PodDisruptionBudget")
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & {r["kind"] for r in cluster.all}
    for account in cluster.of_kind("ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_monitors_find_their_ports(rendered):
    [coordinator] = rendered["monitoring"].of_kind("ServiceMonitor").values()
    [worker] = rendered["monitoring"].of_kind("PodMonitor").values()
    for cluster in (rendered[name] for name in CLUSTERS):
        services = [s for s in cluster.of_kind("Service").values()
                    if matches(coordinator["spec"]["selector"], s["metadata"].get("labels", {}))]
        service_ports = [{p["name"] for p in s["spec"]["ports"]} for s in services]
        pod_ports = [set(ports_of(container_of(t))) for t in cluster.pods_with(worker["spec"]["selector"])]
        for endpoints, found in [(coordinator["spec"]["endpoints"], service_ports), (worker["spec"]["podMetricsEndpoints"], pod_ports)]:
            assert found and all(endpoint["port"] in ports for endpoint in endpoints for ports in found)


def test_scrape_jobs_are_named_as_alerts_expect(rendered):
    for resource, name in [("ServiceMonitor", "anneal-coordinator"), ("PodMonitor", "anneal-worker")]:
        [monitor] = rendered["monitoring"].of_kind(resource).values()
        assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
        assert monitor["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
