"""docs/operations/kubernetes.md against the manifests: names, labels and snippets in it are theirs, and what it says of keys and workers is
done here with the real programs, under the settings of the overlay cpu-demo."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest
import yaml

from conftest import BIN_DIR, SOURCE_DIR
from manifests import CLUSTERS, KUBERNETES, MIXES, OVERLAYS, config_of, container_of, is_gpu, pod_of, quantity, render

sys.path.insert(0, str(SOURCE_DIR / "tests" / "testing"))
from mini_cluster import daemons_of, wait_until  # noqa: E402

PAGE = SOURCE_DIR / "docs" / "operations" / "kubernetes.md"
MAKE_CERTIFICATES = SOURCE_DIR / "deploy" / "tls" / "make_certificates"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clusters(rendered):
    return [rendered[name] for name in [*CLUSTERS, *MIXES]]


def names_of(manifests):
    """Everything that commands may name: resources, images, Secrets, and the pods and claims that StatefulSets make."""
    for resource in manifests.all:
        yield resource["metadata"]["name"]
    for workload in manifests.workloads:
        name = workload["metadata"]["name"]
        yield container_of(workload)["image"].partition(":")[0]
        yield from (v["secret"]["secretName"] for v in pod_of(workload)["volumes"] if "secret" in v)
        yield from (f"{name}-{number}" for number in range(workload["spec"].get("replicas", 0)))


def test_names_of_the_page_exist(clusters):
    known = {name for manifests in clusters for name in names_of(manifests)}
    named = set(re.findall(r"(?<![\w/.-])(?:REGISTRY/|pod/|statefulset/|service/)?(anneal-[a-z0-9-]*[a-z0-9])(?![\w-])", PAGE.read_text()))
    assert {"anneal-coordinator-0", "anneal-gpu-pool-0", "anneal-storage", "anneal-worker-tls"} <= named
    # Made by the page's own text.
    assert named - known == {"anneal-registry"}


def test_names_of_the_runbook_exist(clusters):
    text = (SOURCE_DIR / "docs" / "runbooks" / "coordinator_down.md").read_text()
    named = set(re.findall(r"delete pod (\S+)|app.kubernetes.io/name=([\w-]+)", text))
    assert named == {("anneal-coordinator-0", ""), ("", "anneal-coordinator")}
    for manifests in clusters:
        assert "anneal-coordinator-0" in names_of(manifests)
        assert manifests.pods_with({"matchLabels": {"app.kubernetes.io/name": "anneal-coordinator"}})
    assert "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in text


def test_another_namespace_is_a_whole_installation(checks, tmp_path):
    to_here = os.path.relpath(KUBERNETES, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"namespace: other\nresources: [{to_here}/overlays/gpu]\n")
    manifests = render(checks, tmp_path)
    assert list(manifests.of_kind("Namespace")) == ["other"]
    assert {r["metadata"].get("namespace") for r in manifests.all} == {"other", None}
    # A name with the namespace in it would lead to the first installation.
    assert config_of(manifests, manifests.workers[0])["coordinator"].partition(":")[0] in manifests.of_kind("Service")


def test_monitors_can_carry_the_label_of_a_helm_release(checks, tmp_path):
    (tmp_path / "deploy").symlink_to(SOURCE_DIR / "deploy")
    (tmp_path / "mine").mkdir()
    [snippet] = re.findall(r"^```yaml\n(.*?)^```$", (SOURCE_DIR / "docs" / "monitoring.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "mine" / "kustomization.yaml").write_text(snippet)
    for resource in render(checks, tmp_path / "mine").all:
        assert resource["metadata"]["labels"]["release"] == "RELEASE"
        assert "release" not in resource.get("spec", {}).get("selector", {}).get("matchLabels", {})


def test_labels_of_the_page_select_pods(clusters):
    selectors = re.findall(r" -l ([\w./-]+)=([\w-]+)", PAGE.read_text())
    assert ("anneal.dev/pool", "gpu-daemonset") in selectors
    for key, value in selectors:
        assert any(m.pods_with({"matchLabels": {key: value}}) for m in clusters), f"no pod has {key}={value}"


def test_labels_that_others_set_are_on_the_page(clusters):
    text = PAGE.read_text()
    wanted = set()
    for manifests in clusters:
        for worker in manifests.workers:
            wanted |= set(pod_of(worker).get("nodeSelector", {}).items())
        for policy in manifests.of_kind("NetworkPolicy").values():
            for rule in policy["spec"].get("ingress", []):
                for peer in rule["from"]:
                    wanted |= set(peer.get("namespaceSelector", {}).get("matchLabels", {}).items())
    assert wanted == {("anneal.dev/worker", "gpu"), ("anneal.dev/clients", "allowed"), ("kubernetes.io/metadata.name", "monitoring")}
    assert "kubectl label node NODE anneal.dev/worker=gpu" in text
    assert "kubectl label namespace NAME anneal.dev/clients=allowed" in text
    assert "Prometheus is expected in the namespace\n`monitoring`" in text
    # Nothing else is asked for.
    assert {("anneal.dev/" + key, value) for key, value in re.findall(r"anneal\.dev/(worker|clients)=(\w+)", text)} <= wanted


def test_workers_are_drained_before_their_node_and_there_before_they_are_undrained():
    drains = [b for b in blocks("sh") if "anneal workers undrain" in b]
    assert len(drains) == 3
    for block in drains:
        parts = ["anneal workers drain $", "until anneal workers |", "wait --for=condition=Ready", "anneal workers undrain $"]
        order = [block.index(part) for part in parts]
        assert order == sorted(order), block
    statefulset, daemonset = [b for b in drains if "kubectl drain" in b]
    for block in (statefulset, daemonset):
        # Every pod has emptyDirs, and some cluster's own DaemonSets are everywhere.
        assert "kubectl drain $node --ignore-daemonsets --delete-emptydir-data" in block
        assert block.index("until anneal workers |") < block.index("kubectl drain") < block.index("kubectl uncordon")
    # kubectl drain leaves pods of DaemonSets alone.
    assert daemonset.index("anneal.dev/worker-\n") < daemonset.index("wait --for=delete") < daemonset.index("kubectl drain")
    assert daemonset.index("kubectl uncordon") < daemonset.index("anneal.dev/worker=gpu")


def test_the_page_knows_every_part():
    text = PAGE.read_text()
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == OVERLAYS
    named = set(re.findall(r"`(?:pools|components)/([\w-]+)`|(?<=, )`(gpus-\d)`", text))
    folders = {p.name for kind in ("pools", "components") for p in (KUBERNETES / kind).iterdir()}
    assert {a or b for a, b in named} == folders - {"worker-pod"}


def test_the_page_says_one_pool_with_gpus():
    text = " ".join(PAGE.read_text().split())
    assert "at most **one pool with GPUs**" in text and "`collectives-gpu`" in text


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_snippets_of_an_overlay_render(checks, tmp_path, number):
    (tmp_path / "deploy").symlink_to(SOURCE_DIR / "deploy")
    (tmp_path / "mine").mkdir()
    snippet = yaml.safe_load(blocks("yaml")[number])
    overlay = {"namespace": "anneal", "resources": ["../deploy/kubernetes/overlays/gpu"], **snippet}
    (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    manifests = render(checks, tmp_path / "mine")
    if "replicas" in snippet:
        check_the_quota(manifests)
        assert sorted(is_gpu(w) for w in manifests.workers) == [False, True]
    text = manifests.text
    for value in re.findall(r"(?:value: |name: |metadata\.name: )([A-Z]+|anneal-registry|openshift-dns)\b", blocks("yaml")[number]):
        assert value in text
    if "ServiceAccount" in blocks("yaml")[number]:
        assert all(a["imagePullSecrets"] == [{"name": "anneal-registry"}] for a in manifests.of_kind("ServiceAccount").values())
        [claim] = manifests.coordinator["spec"]["volumeClaimTemplates"]
        shared = manifests.of_kind("PersistentVolumeClaim")["anneal-storage"]
        assert (claim["spec"]["storageClassName"], shared["spec"]["storageClassName"]) == ("BLOCK", "SHARED")


def check_the_quota(manifests):
    hard = manifests.of_kind("ResourceQuota")["anneal"]["spec"]["hard"]
    for kind, name in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory"), ("requests", "nvidia.com/gpu")]:
        needed = sum(w["spec"]["replicas"] * quantity(container_of(w)["resources"][kind].get(name, 0)) for w in manifests.workloads)
        assert needed <= quantity(hard[f"{kind}.{name}"]), f"{kind}.{name}: {needed}"


@pytest.mark.parametrize("overlay", CLUSTERS)
def test_the_overlay_of_the_page_says_where_images_are(checks, tmp_path, overlay):
    (tmp_path / "deploy").symlink_to(SOURCE_DIR / "deploy")
    [block] = [b for b in blocks("sh") if "kustomization.yaml" in b]
    subprocess.run(["bash", "-euc", block.replace("overlays/cpu-demo", f"overlays/{overlay}")], cwd=tmp_path, check=True)
    manifests = render(checks, tmp_path / "my-cluster")
    for workload in manifests.workloads:
        assert re.fullmatch(r"REGISTRY/anneal-[a-z-]+:[\d.]+", container_of(workload)["image"])


def names_in(certificate):
    command = ["openssl", "x509", "-in", certificate, "-noout", "-ext", "subjectAltName"]
    return set(re.findall(r"(?:DNS|IP Address):([^,\s]+)", subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def test_the_certificate_has_every_name_of_the_service(clusters, tmp_path):
    subprocess.run([MAKE_CERTIFICATES, tmp_path / "tls", "anneal.example", "10.1.2.3"], check=True)
    names = names_in(tmp_path / "tls" / "coordinator" / "tls.crt")
    assert {"localhost", "127.0.0.1", "anneal.example", "10.1.2.3"} <= names
    for manifests in clusters:
        service = manifests.of_kind("Service")[manifests.coordinator["metadata"]["name"]]["metadata"]
        inside = f"{service['name']}.{service['namespace']}"
        assert {service["name"], inside, f"{inside}.svc", f"{inside}.svc.cluster.local"} <= names
        for worker in manifests.workers:
            assert config_of(manifests, worker)["coordinator"].partition(":")[0] in names


class Service:
    """The pods of cpu-demo as processes here, as the page makes them: what a pod mounts is below `folder`, ports are any free ones."""

    def __init__(self, folder, manifests):
        self.folder, self.manifests, self.processes = folder, manifests, {}
        (folder / "deploy").symlink_to(SOURCE_DIR / "deploy")
        [credentials] = [b for b in blocks("sh") if "new_key()" in b and "needs a cluster" not in b]
        subprocess.run(["bash", "-euc", credentials], cwd=folder, check=True)
        for program in ("coordinator", "worker"):
            for name in ("var/lib/anneal", "run/anneal", "etc/anneal/credentials", "srv"):
                (folder / program / name).mkdir(parents=True)
            (folder / program / "etc/anneal/tls").symlink_to(folder / "tls" / program)
            (folder / program / "srv/anneal").symlink_to(folder / "storage")
            self.set_keys(program)
        (folder / "storage").mkdir()

    def set_keys(self, program):
        """worker.keys becomes the program's Secret."""
        keys = self.folder / program / "etc/anneal/credentials/keys"
        keys.unlink(missing_ok=True)
        keys.write_text((self.folder / "worker.keys").read_text())
        keys.chmod(0o440)

    def start(self, program, workload, changes, *arguments):
        """Runs a workload's program under its settings, with paths and `changes` of this machine; returns when it says that it runs."""
        folder = self.folder / program
        settings = config_of(self.manifests, workload).items()
        config = {key: f"{folder}{value}" if str(value).startswith("/") else value for key, value in settings}
        config.update(changes, address_file=f"{folder}/addresses")
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "notify").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, open(folder / "log", "ab") as log:
            told.bind(f"{folder}/notify")
            told.settimeout(60)
            self.processes[program] = subprocess.Popen(
                [BIN_DIR / f"anneal-{program}", f"--config={folder}/config.yaml", *arguments], stdout=log, stderr=log,
                env={"NOTIFY_SOCKET": f"{folder}/notify", "PATH": os.environ["PATH"]})
            while b"READY=1" not in told.recv(1000):
                pass

    def stop(self, program):
        process = self.processes.pop(program)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (self.folder / program / "log").read_text()

    def start_coordinator(self, **changes):
        local = {name: "127.0.0.1:0" for name in ("listen", "fleet_listen", "admin_listen")}
        self.start("coordinator", self.manifests.coordinator, {**local, **changes})
        self.addresses = json.loads((self.folder / "coordinator" / "addresses").read_text())

    def start_worker(self, name):
        local = {name: "127.0.0.1:0" for name in ("admin_listen", "liveness_listen")}
        [worker] = self.manifests.workers
        # No trainers here: it is never given a job.
        changes = {**local, "coordinator": self.addresses["fleet"], "spares": False}
        self.start("worker", worker, changes, f"--name={name}", "--data-address=127.0.0.1")

    def make_first_key(self):
        """Step 4: the command that the page runs with kubectl exec, as the pod would: no home, no environment. Returns the key's line."""
        [block] = [b for b in blocks("sh") if "/run/anneal/admin.sock" in b]
        [command] = re.findall(r"kubectl -n anneal exec anneal-coordinator-0 -- (.*?) >my\.key", block.replace("\\\n", " "))
        program, *words = shlex.split(command.replace("$(id -un)", "ada"))
        assert program == "/opt/anneal/bin/anneal"
        words = [word.replace("unix:/run", f"unix:{self.folder}/coordinator/run") for word in words]
        made = subprocess.run([BIN_DIR / "anneal", *words], env={}, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return made.stdout

    def use_key(self, line):
        """Step 5: the context that the page writes."""
        home = self.folder / "home" / ".config" / "anneal"
        home.mkdir(parents=True)
        [block] = [b for b in blocks("sh") if "current_context" in b]
        [contexts] = re.findall(r"<<END\n(.*?)END\n", block, re.DOTALL)
        (home / "config.yaml").write_text(contexts.replace("localhost:7443", f"localhost:{self.addresses['api'].rpartition(':')[2]}"))
        (home / "my.key").write_text(line)
        (home / "my.key").chmod(0o600)
        (home / "ca.crt").symlink_to(self.folder / "tls" / "ca.crt")

    def shell(self, command):
        """Runs a command with `anneal` in PATH and that context."""
        environment = {"HOME": str(self.folder / "home"), "PATH": f"{BIN_DIR}:{os.environ['PATH']}"}
        return subprocess.run(["bash", "-euo", "pipefail", "-c", command], env=environment, cwd=self.folder / "home", capture_output=True,
                              text=True, timeout=60)

    def anneal(self, arguments):
        result = self.shell(f"anneal {arguments}")
        assert result.returncode == 0, result.stderr
        return result.stdout

    def await_state(self, worker, state):
        def found():
            lines = self.shell("anneal workers").stdout.splitlines()[1:]
            return {line.split()[0]: line.split()[1] for line in lines}.get(worker) == state
        wait_until(found, 60, f"{worker} to be {state}")


@pytest.fixture
def service(rendered, tmp_path):
    """A coordinator, the first key and a worker."""
    service = Service(tmp_path, rendered["cpu-demo"])
    try:
        service.start_coordinator()
        service.use_key(service.make_first_key())
        service.start_worker("anneal-cpu-pool-0")
        service.await_state("anneal-cpu-pool-0", "READY")
        yield service
    finally:
        for program in reversed(list(service.processes)):
            service.stop(program)


def test_the_first_key_is_made_in_the_pod(service):
    assert [line.split()[1:4] for line in service.anneal("keys").splitlines()[1:]] == [["default", "ada", "admin"]]
    # Workers come from the Secret, and are nothing more.
    assert [line.split()[1:] for line in (service.folder / "worker.keys").read_text().splitlines()] == [["default", "workers", "worker"]]
    assert (service.folder / "coordinator/run/anneal/admin.sock").stat().st_mode & 0o077 == 0


def test_the_loop_waits_until_a_drained_worker_is_free(service):
    loops = re.findall(r"^until anneal workers .*$", PAGE.read_text(), re.MULTILINE)
    [loop] = {re.sub(r"w=\$\w+", "w=anneal-cpu-pool-0", loop) for loop in loops}
    service.anneal("workers drain anneal-cpu-pool-0")
    service.await_state("anneal-cpu-pool-0", "DRAINING")
    assert service.shell(loop).returncode == 0
    condition = loop.removeprefix("until ").partition("; do")[0]
    for slots, free in [("2 1", False), ("2 2", True), ("2 0", False)]:
        listing = f"printf 'WORKER STATE SLOTS FREE\\nother READY 2 2\\nanneal-cpu-pool-0 DRAINING {slots}\\n'"
        assert (service.shell(condition.replace("anneal workers", listing)).returncode == 0) == free
    service.anneal("workers undrain anneal-cpu-pool-0")
    service.await_state("anneal-cpu-pool-0", "READY")


def test_workers_take_a_new_key(service):
    """The last block of the page: the coordinator knows both keys, then workers send the new one, then the old one is unknown."""
    [block] = [b for b in blocks("sh") if "set_keys()" in b]
    steps = re.findall(r"^(?:set_keys (\S+)|.*(rollout restart).*|.*(kill -HUP 1).*|(sed -i 1q .*))$", block, re.MULTILINE)
    assert ["".join(step) for step in steps] == [
        "anneal-credentials", "rollout restart", "anneal-worker-credentials", "kill -HUP 1",
        "sed -i 1q worker.keys", "anneal-credentials", "anneal-worker-credentials", "rollout restart"]
    [made] = re.findall(r"^old=.*\nprintf .*$", block, re.MULTILINE)
    [new_key] = re.findall(r"^new_key\(\) .*$", block, re.MULTILINE)
    for secret, restart, hang_up, cut in steps:
        if made:
            subprocess.run(["bash", "-euc", f"{new_key}\n{made}"], cwd=service.folder, check=True)
            made = ""
        if secret:
            service.set_keys("worker" if "worker" in secret else "coordinator")
        if restart:
            # At the same addresses, as a Service has them.
            service.stop("coordinator")
            service.start_coordinator(listen=service.addresses["api"], fleet_listen=service.addresses["fleet"])
        if hang_up:
            keeper = service.processes["worker"].pid
            old = daemons_of(keeper)
            os.kill(keeper, signal.SIGHUP)
            wait_until(lambda: daemons_of(keeper) not in ([], old), 60, "another daemon")
        if cut:
            subprocess.run(["bash", "-euc", cut], cwd=service.folder, check=True)
    service.await_state("anneal-cpu-pool-0", "READY")
    assert len((service.folder / "worker.keys").read_text().splitlines()) == 1
