"""Reading the Kubernetes manifests: rendered by kustomize, and what refers to what among them."""

import os
import re
import subprocess

import yaml

from conftest import SOURCE_DIR

KUBERNETES = SOURCE_DIR / "deploy" / "kubernetes"
OVERLAYS = sorted(p.name for p in (KUBERNETES / "overlays").iterdir())
CLUSTERS = [name for name in OVERLAYS if name != "monitoring"]
# What else an overlay may put together: name -> pools, components.
MIXES = {
    "one-gpu": (["gpu-pool"], ["gpus-1"]),
    "two-gpus": (["gpu-pool"], ["gpus-2"]),
    "four-gpus": (["gpu-daemonset"], ["gpus-4", "rdma"]),
    "tcp-pool": (["gpu-pool"], ["gpus-8", "nvidia-runtime", "local-cache"]),
    "gpu-then-cpu": (["gpu-pool", "cpu-pool"], ["gpus-8", "rdma", "local-cache"]),
    "cpu-then-gpu": (["cpu-pool", "gpu-daemonset"], ["nvidia-runtime", "gpus-4"]),
}
PROGRAM_OF_IMAGE = {"anneal-coordinator": "anneal-coordinator", "anneal-worker": "anneal-worker", "anneal-worker-cuda": "anneal-worker"}


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

    @property
    def coordinator(self):
        [coordinator] = [w for w in self.workloads if program_of(container_of(w)) == "anneal-coordinator"]
        return coordinator

    @property
    def workers(self):
        """The workloads of all pools, one at least."""
        workers = [w for w in self.workloads if program_of(container_of(w)) == "anneal-worker"]
        assert workers
        return workers


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


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def ports_of(container):
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def program_of(container):
    return PROGRAM_OF_IMAGE[container["image"].partition(":")[0]]


def is_gpu(workload):
    return workload["metadata"]["labels"].get("anneal.dev/accelerator") == "gpu"


def config_of(manifests, workload):
    """The parsed --config file of a workload, found through its argument, mount and ConfigMap."""
    container = container_of(workload)
    [path] = [a.removeprefix("--config=") for a in container["args"] if a.startswith("--config=")]
    [mount] = [m for m in container["volumeMounts"] if m["mountPath"] == os.path.dirname(path)]
    [volume] = [v for v in pod_of(workload)["volumes"] if v["name"] == mount["name"]]
    return yaml.safe_load(manifests.of_kind("ConfigMap")[volume["configMap"]["name"]]["data"][os.path.basename(path)])


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(text)).groups()
    return int(number) * {None: 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]


def kustomize(checks, folder):
    return subprocess.run([checks / "bin" / "kustomize", "build", folder], capture_output=True, text=True)


def render(checks, folder):
    result = kustomize(checks, folder)
    assert result.returncode == 0, result.stderr
    return Manifests(result.stdout)


def write_mix(folder, pools, components):
    """Writes an overlay of these pools and components into an empty folder."""
    to_here = os.path.relpath(KUBERNETES, folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({
        "resources": [f"{to_here}/base", *(f"{to_here}/pools/{pool}" for pool in pools)],
        "components": [f"{to_here}/components/{component}" for component in components]}))
    return folder
