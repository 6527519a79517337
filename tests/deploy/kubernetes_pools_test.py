"""Pools and components of the Kubernetes manifests: what an overlay may put together comes out right, what it may not is refused."""

import itertools

import pytest

from manifests import CLUSTERS, KUBERNETES, MIXES, config_of, container_of, is_gpu, kustomize, pod_of, quantity, render, write_mix


def workload_of(manifests, pool):
    [workload] = [w for w in manifests.workers if w["metadata"]["name"] == f"anneal-{pool}"]
    return workload


def gpus_of(workload):
    return container_of(workload)["resources"]["limits"].get("nvidia.com/gpu")


@pytest.mark.parametrize("pool, gpus", list(itertools.product(["gpu-pool", "gpu-daemonset"], [1, 2, 4, 8])))
def test_a_pod_has_the_gpus_that_were_asked_for(checks, tmp_path, pool, gpus):
    workload = workload_of(render(checks, write_mix(tmp_path, [pool], [f"gpus-{gpus}"])), pool)
    resources = container_of(workload)["resources"]
    assert resources["limits"] == {"cpu": str(8 * gpus), "memory": f"{64 * gpus}Gi", "nvidia.com/gpu": str(gpus)}
    assert resources["requests"] == {**resources["limits"], "ephemeral-storage": "16Gi"}


@pytest.mark.parametrize("gpu_pool", ["gpu-pool", "gpu-daemonset"])
def test_a_gpu_pool_and_a_cpu_pool_are_what_each_is_alone(checks, tmp_path, gpu_pool):
    alone = {}
    for pool, components in [(gpu_pool, ["gpus-8", "rdma"]), ("cpu-pool", [])]:
        (tmp_path / pool).mkdir()
        alone[pool] = workload_of(render(checks, write_mix(tmp_path / pool, [pool], components)), pool)
    for pools in itertools.permutations(alone):
        folder = tmp_path / "-".join(pools)
        folder.mkdir()
        mixed = render(checks, write_mix(folder, pools, ["gpus-8", "rdma"]))
        for pool, workload in alone.items():
            assert workload_of(mixed, pool) == workload
    assert is_gpu(alone[gpu_pool]) and not is_gpu(alone["cpu-pool"])
    assert gpus_of(alone[gpu_pool]) == "8" and gpus_of(alone["cpu-pool"]) is None


@pytest.mark.parametrize("pools, components, error", [
    (["gpu-pool", "gpu-daemonset"], ["gpus-8"], "collectives-gpu"),
    (["gpu-daemonset", "gpu-pool"], ["gpus-1"], "collectives-gpu"),
    (["gpu-pool"], ["gpus-8", "gpus-1"], "test failed"),
    (["cpu-pool", "gpu-daemonset"], ["gpus-1", "gpus-8"], "test failed"),
    (["gpu-pool"], ["rdma", "gpus-8"], "resources"),
])
def test_what_would_come_out_wrong_is_refused(checks, tmp_path, pools, components, error):
    result = kustomize(checks, write_mix(tmp_path, pools, components))
    assert result.returncode != 0 and error in result.stderr, result.stdout + result.stderr


def test_gpu_workers_find_gpus_or_lend_nothing(rendered):
    for name in ("gpu", "gpu-rdma", "gpu-then-cpu", "cpu-then-gpu"):
        for worker in rendered[name].workers:
            container = container_of(worker)
            variables = {v["name"]: v.get("value") for v in container["env"]}
            assert ("--cpu-slots=0" in container["args"]) == is_gpu(worker)
            assert variables.get("NVIDIA_DRIVER_CAPABILITIES") == ("compute,utility" if is_gpu(worker) else None)
            assert container["image"].startswith("anneal-worker-cuda:" if is_gpu(worker) else "anneal-worker:")
            assert [t["key"] for t in pod_of(worker).get("tolerations", [])] == (["nvidia.com/gpu"] if is_gpu(worker) else [])


def test_the_runtime_class_is_for_gpu_pods(rendered):
    for name, expected in [("cpu-then-gpu", "nvidia"), ("tcp-pool", "nvidia"), ("gpu", None)]:
        for worker in rendered[name].workers:
            assert pod_of(worker).get("runtimeClassName") == (expected if is_gpu(worker) else None)
        assert "runtimeClassName" not in pod_of(rendered[name].coordinator)


def test_a_local_cache_takes_the_place_of_the_emptydir(rendered):
    for name, kept in [("gpu-then-cpu", True), ("tcp-pool", True), ("gpu-rdma", False), ("gpu", False)]:
        [worker] = [w for w in rendered[name].workers if is_gpu(w)]
        volumes = [v for v in pod_of(worker)["volumes"] if v["name"] == "cache"]
        claims = worker["spec"].get("volumeClaimTemplates", [])
        assert [c["metadata"]["name"] for c in claims] == (["cache"] if kept else [])
        assert len(volumes) == (0 if kept else 1)
        mounts = {m["name"]: m["mountPath"] for m in container_of(worker)["volumeMounts"]}
        variables = {v["name"]: v.get("value") for v in container_of(worker)["env"]}
        assert variables["CUDA_CACHE_PATH"].startswith(mounts["cache"] + "/")
        hard = rendered[name].of_kind("ResourceQuota")["anneal"]["spec"]["hard"]
        assert int(hard["persistentvolumeclaims"]) >= 2 + (int(hard["pods"]) if kept else 0)


def test_the_demo_fits_one_small_node(rendered):
    """4 processors and 8 GiB, of which a fresh cluster's own pods and the kubelet take about one and a half."""
    demo = rendered["cpu-demo"]
    sums = {"cpu": 0, "memory": 0, "ephemeral-storage": 0}
    for workload in demo.workloads:
        for name in sums:
            sums[name] += workload["spec"]["replicas"] * quantity(container_of(workload)["resources"]["requests"][name])
    assert sums["cpu"] <= 2.5 and sums["memory"] <= 6 * 2**30 and sums["ephemeral-storage"] <= 10 * 2**30, sums


def test_the_demo_stays_with_its_volume(rendered):
    demo = rendered["cpu-demo"]
    assert demo.of_kind("PersistentVolumeClaim")["anneal-storage"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    for worker in demo.workers:
        [term] = pod_of(worker)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert demo.pods_with(term["labelSelector"]) == [demo.coordinator["spec"]["template"]]
    for name in ("gpu", "gpu-rdma"):
        assert rendered[name].of_kind("PersistentVolumeClaim")["anneal-storage"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_every_pool_and_component_is_rendered_somewhere():
    texts = "".join((KUBERNETES / "overlays" / name / "kustomization.yaml").read_text() for name in CLUSTERS)
    for kind, index in (("pools", 0), ("components", 1)):
        for folder in (KUBERNETES / kind).iterdir():
            mixed = any(folder.name in mix[index] for mix in MIXES.values())
            # The first two are parts of pools, not of overlays.
            assert folder.name in ("worker-pod", "gpu-pod") or mixed or f"{kind}/{folder.name}" in texts, f"{folder} is not tested"


def test_settings_of_one_worker_are_those_of_all(rendered):
    for name in ("gpu-then-cpu", "cpu-then-gpu"):
        first, second = (config_of(rendered[name], w) for w in rendered[name].workers)
        assert first == second
