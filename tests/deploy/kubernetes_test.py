"""The Kubernetes manifests: rendered by kustomize, valid by Kubernetes' own schemas and rules, and every name in them exists."""

import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest

from conftest import SOURCE_DIR, seconds
from manifests import CLUSTERS, MIXES, OVERLAYS, config_of, container_of, is_gpu, matches, pod_of, ports_of, program_of, quantity

# Read by NVIDIA's container runtime and the CUDA driver, not by a program of ours.
DRIVER_VARIABLES = {"NVIDIA_DRIVER_CAPABILITIES", "CUDA_CACHE_PATH"}


@pytest.fixture(params=[*CLUSTERS, *MIXES])
def cluster(request, rendered):
    return rendered[request.param]


def oldest_version():
    """The oldest Kubernetes that the installation page promises, as "1.27"."""
    text = (SOURCE_DIR / "docs" / "operations" / "kubernetes.md").read_text()
    [version] = re.findall(r"Kubernetes (1\.\d+) or newer", text)
    return version


def validate_custom(checks, resources):
    """By the schemas of the Prometheus operator."""
    command = [checks / "bin" / "node", checks / "validate_crds.mjs"]
    return subprocess.run(command, input=json.dumps(resources), capture_output=True, text=True)


@pytest.mark.parametrize("name", [*OVERLAYS, *MIXES])
def test_schemas(rendered, checks, name):
    custom = [r for r in rendered[name].all if r["apiVersion"].startswith("monitoring.coreos.com/")]
    for resource in rendered[name].all:
        if resource not in custom:
            for version in (oldest_version(), kubernetes_validate.latest_version()):
                kubernetes_validate.validate(resource, version, strict=True)
    if custom:
        result = validate_custom(checks, custom)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_schema_check_finds_faults(checks):
    fault = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"},
             "spec": {"selector": {}, "podMetricsEndpoints": [{"prt": "metrics", "interval": "15 sec"}]}}
    result = validate_custom(checks, [fault])
    assert result.returncode == 1 and "'\"prt\"' does not exist" in result.stdout and "must match pattern" in result.stdout
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}},
                                     kubernetes_validate.latest_version(), strict=True)
    # Known since 1.33, and strict for a reason: an older API server drops what it does not know.
    newer = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
             "spec": {"containers": [{"name": "x", "lifecycle": {"stopSignal": "SIGTERM"}}]}}
    kubernetes_validate.validate(newer, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(newer, oldest_version(), strict=True)


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
    for worker in cluster.workers:
        host, _, port = config_of(cluster, worker)["coordinator"].partition(":")
        assert int(port) in [p["port"] for p in cluster.of_kind("Service")[host]["spec"]["ports"]]


def test_the_probes_ask_the_right_process(cluster):
    for worker in cluster.workers:
        container, config = container_of(worker), config_of(cluster, worker)
        asked = {probe: ports_of(container)[container[probe]["httpGet"]["port"]] for probe in ("livenessProbe", "readinessProbe")}
        # The keeper outlives its daemon, and so must the pod; whether the worker is of use the daemon knows.
        assert asked == {"livenessProbe": int(config["liveness_listen"].split(":")[1]),
                         "readinessProbe": int(config["admin_listen"].split(":")[1])}
        assert [container[probe]["httpGet"]["path"] for probe in asked] == ["/livez", "/readyz"]
    coordinator = container_of(cluster.coordinator)
    assert {coordinator[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {"metrics"}
    assert [coordinator[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")] == ["/livez", "/readyz"]
    # It migrates its catalog before it listens, and is not to be killed for that.
    startup = coordinator["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


def test_one_coordinator_has_the_catalog_to_itself(cluster):
    spec = cluster.coordinator["spec"]
    assert cluster.coordinator["kind"] == "StatefulSet" and spec["replicas"] == 1
    [claim] = spec["volumeClaimTemplates"]
    [mount] = [m for m in container_of(cluster.coordinator)["volumeMounts"] if m["name"] == claim["metadata"]["name"]]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert config_of(cluster, cluster.coordinator)["data_dir"].startswith(mount["mountPath"] + "/")


def test_a_pod_that_never_becomes_ready_is_replaced(cluster):
    # In order, a pod that never becomes ready would be waited for when the version that worked is applied again.
    for workload in cluster.workloads:
        assert workload["kind"] == "DaemonSet" or workload["spec"]["podManagementPolicy"] == "Parallel"
    assert cluster.coordinator["spec"].get("updateStrategy", {}).get("type", "RollingUpdate") == "RollingUpdate"
    for page in ("upgrade", "kubernetes"):
        text = (SOURCE_DIR / "docs" / "operations" / f"{page}.md").read_text()
        assert "`kubectl -n anneal delete pod anneal-coordinator-0` if the pod of the bad version stays" in text


def test_a_coordinator_that_cannot_write_is_reached(cluster):
    # It serves reads and workers meanwhile, as the runbook says.
    assert cluster.of_kind("Service")["anneal-coordinator"]["spec"]["publishNotReadyAddresses"] is True
    runbook = (SOURCE_DIR / "docs" / "runbooks" / "catalog_unwritable.md").read_text()
    assert "reading works" in runbook and "its Service leads to it all the same" in runbook


def test_volumes_are_not_changed_file_by_file_at_each_start(cluster):
    for workload in cluster.workloads:
        assert pod_of(workload)["securityContext"]["fsGroup"] == 65532
        assert pod_of(workload)["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_namespace_is_restricted(cluster):
    [namespace] = cluster.of_kind("Namespace").values()
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    scoped = [r for r in cluster.all if r["kind"] not in ("Namespace", "PriorityClass")]
    assert {r["metadata"].get("namespace") for r in scoped} == {namespace["metadata"]["name"]}


def test_the_coordinator_goes_before_workers(cluster):
    classes = cluster.of_kind("PriorityClass")
    coordinator = classes[pod_of(cluster.coordinator)["priorityClassName"]]
    for worker in cluster.workers:
        waiting = classes[pod_of(worker)["priorityClassName"]]
        assert waiting["value"] < coordinator["value"] and waiting["preemptionPolicy"] == "Never"
    assert not any(c.get("globalDefault") for c in classes.values())


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
            inside = [p for p in rule[peers] if "namespaceSelector" not in p and "ipBlock" not in p]
            others = [template for peer in inside for template in cluster.pods_with(peer["podSelector"])]
            assert others or not inside, f"{name} names peers that do not exist"
            for port in rule["ports"]:
                if isinstance(port["port"], str):
                    for template in subjects if peers == "from" else others:
                        assert port["port"] in ports_of(container_of(template)), f"{name}: no port {port['port']}"
    assert isolated == {"Ingress", "Egress"}, "nothing denies by default"


def test_names_are_asked_of_the_cluster_and_of_the_node(cluster):
    [rule] = cluster.of_kind("NetworkPolicy")["names"]["spec"]["egress"]
    assert sorted((p["protocol"], p["port"]) for p in rule["ports"]) == [("TCP", 53), ("UDP", 53)]
    service, node = rule["to"]
    assert service == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                       "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    # NodeLocal DNSCache is no pod to a NetworkPolicy: it listens on a link-local address of the node.
    assert node == {"ipBlock": {"cidr": "169.254.0.0/16"}}


def test_collectives_have_the_ports_that_the_kernel_gives_them(cluster):
    for workload in cluster.workers:
        worker = workload["spec"]["template"]
        peer = {"podSelector": {"matchLabels": {"anneal.dev/pool": worker["metadata"]["labels"]["anneal.dev/pool"]}}}
        [policy] = [p["spec"] for p in cluster.of_kind("NetworkPolicy").values() if p["spec"]["podSelector"] == peer["podSelector"]]
        [sysctl] = worker["spec"]["securityContext"]["sysctls"]
        assert sysctl["name"] == "net.ipv4.ip_local_port_range"
        first, last = map(int, sysctl["value"].split())
        ports = [{"protocol": "TCP", "port": first, "endPort": last}]
        assert policy["ingress"] == [{"from": [peer], "ports": ports}]
        assert policy["egress"] == [{"to": [peer], "ports": ports}]
        assert not any(first <= port <= last for w in cluster.workloads for port in ports_of(container_of(w)).values())


def test_volumes_accounts_and_classes_exist(cluster):
    for workload in cluster.workloads:
        pod, container = pod_of(workload), container_of(workload)
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


def test_a_pod_is_given_time_for_its_checkpoint(cluster):
    for worker in cluster.workers:
        drain = seconds(config_of(cluster, worker)["drain_timeout"])
        # What is left is told to stop, then terminated, then killed: stop_grace (5 s) apart.
        assert pod_of(worker)["terminationGracePeriodSeconds"] >= drain + 30
        assert worker["spec"]["updateStrategy"] == {"type": "OnDelete"}
        # Autoscalers have less patience.
        assert worker["spec"]["template"]["metadata"]["annotations"] == {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_quota_has_room_for_everything(rendered, name):
    cluster = rendered[name]
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
    for worker in cluster.workers:
        [volume] = [v for v in pod_of(worker)["volumes"] if v["name"] == "shm"]
        [mount] = [m for m in container_of(worker)["volumeMounts"] if m["name"] == "shm"]
        assert mount["mountPath"] == "/dev/shm" and volume["emptyDir"]["medium"] == "Memory"
        assert volume["emptyDir"]["sizeLimit"] == ("16Gi" if is_gpu(worker) else "1Gi")
        limit = quantity(container_of(worker)["resources"]["limits"]["memory"])
        assert quantity(volume["emptyDir"]["sizeLimit"]) <= limit / 4


def test_the_disk_of_the_node_is_asked_for(cluster):
    for workload in cluster.workloads:
        on_disk = [v["emptyDir"] for v in pod_of(workload)["volumes"] if "emptyDir" in v and v["emptyDir"].get("medium") != "Memory"]
        needed = sum(quantity(v["sizeLimit"]) for v in on_disk)
        assert 0 < needed <= quantity(container_of(workload)["resources"]["requests"]["ephemeral-storage"])


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
    assert container_of(rendered["gpu-rdma"].workers[0])["resources"]["limits"]["rdma/hca"] == "1"


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
    for cluster in (rendered[name] for name in [*CLUSTERS, *MIXES]):
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
