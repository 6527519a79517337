"""A worker that is cut off from its coordinator goes on training, and nothing of that counts once its job has moved on."""

import hashlib
import threading
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from mini_cluster import MiniCluster, stubs, wait_until
from proxy import Proxy

FLAGS = ["--worker-lease", "3s", "--start-grace", "1s"]  # a worker is heard every 2 s


@pytest.fixture
def cluster(tmp_path, tiny):
    with MiniCluster(tmp_path, workers=0, allowed_roots=[tiny], coordinator_flags=FLAGS) as cluster:
        yield cluster


@pytest.fixture
def proxy(cluster):
    proxy = Proxy(cluster.coordinator_ports["fleet"])
    yield proxy
    proxy.close()


def trained(cluster, name, generation):
    """The steps that the coordinator counts as done by a generation: of two that did one, the newer."""
    request = stubs("fine_tuning_service_pb2").ListStepMetricsRequest(name=name, page_size=10_000)
    return {s.step for s in cluster.jobs.ListStepMetrics(request).steps if s.generation == generation}


def committed(cluster, name):
    """(step, generation) of every checkpoint that was ever committed."""
    request = stubs("fine_tuning_service_pb2").ListJobEventsRequest(name=name, page_size=1000)
    return {(e.checkpoint.step, e.generation) for e in cluster.jobs.ListJobEvents(request).events
            if e.WhichOneof("detail") == "checkpoint"}


def written(cluster, name, generation):
    """Steps of the checkpoints that a generation has finished on disk."""
    folder = cluster.storage / name / "checkpoints"
    return [int(path.parent.name.split("-")[0]) for path in folder.glob(f"*-g{generation}/manifest.json")]


def staged(cluster, name, generation):
    """Where a generation leaves its outputs for the coordinator to publish."""
    folder = cluster.output_dir(name)
    return folder.with_name(f"{folder.name}.partial-g{generation}")


def digests(folder):
    return [hashlib.sha256((folder / file).read_bytes()).hexdigest()
            for file in ("adapter/adapter_model.safetensors", "ledger.jsonl")]


class SlotWatch:
    """Looks all the time at how many trainers each worker, which has one slot, runs."""

    def __init__(self, cluster):
        self.cluster, self.most, self.looks, self.done = cluster, {}, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self.done.wait(0.01):
            owners = [worker for worker, _ in self.cluster.trainers()]
            for owner in set(owners):
                self.most[owner] = max(self.most.get(owner, 0), owners.count(owner))
            self.looks += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.done.set()
        self.thread.join()


def test_a_cut_off_worker_commits_nothing_and_lends_its_slot_once(cluster, proxy, make_spec):
    pb2 = stubs("fine_tuning_service_pb2")
    spec = make_spec(slots=1, epochs=500)  # longer than all that follows
    spec.checkpoint.every.CopyFrom(Duration(seconds=1))
    cluster.start_worker(0, coordinator=proxy.address)
    cluster.wait_for_workers(1)
    name = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec)).name
    wait_until(lambda: committed(cluster, name), 60, "a checkpoint")
    cluster.start_worker(1)
    cluster.wait_for_workers(2)
    [old] = cluster.trainer_processes()
    proxy.cut()
    wait_until(lambda: cluster.get_job(name).generation == 2, 30, "the job to move on")
    known = committed(cluster, name)
    counted = trained(cluster, name, generation=1)
    wait_until(lambda: trained(cluster, name, generation=2), 60, "generation 2 to train")
    # The old generation does not know: it trains, and writes checkpoints that nobody commits.
    wait_until(lambda: max(written(cluster, name, 1)) > max(step for step, _ in known), 30, "a checkpoint of generation 1")
    assert old.is_running()
    # A job that needs a slot waits, though the lost worker would have one that no job of the coordinator's holds.
    waiting = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=make_spec(slots=1, max_steps=3))).name
    cluster.wait_for_state(waiting, {"QUEUED"})

    with SlotWatch(cluster) as watch:
        proxy.heal()  # with all that the daemon has tried to say
        wait_until(lambda: not old.is_running(), 30, "generation 1 to end")
        cluster.wait_for_state(waiting, {"SUCCEEDED"})
        wait_until(lambda: committed(cluster, name) - known, 60, "a checkpoint of generation 2")
        cluster.jobs.FinishJob(pb2.JobActionRequest(name=name))
        finished = cluster.wait_for_state(name, {"SUCCEEDED"})
    assert watch.looks > 10 and set(watch.most.values()) == {1}, watch.most
    assert finished.generation == 2 and finished.failures.infrastructure == 1
    assert {c for c in committed(cluster, name) if c[1] == 1} == known
    assert {c[1] for c in committed(cluster, name) - known} == {2}
    assert trained(cluster, name, generation=1) <= counted


def test_what_a_cut_off_generation_says_too_late_is_not_counted(cluster, proxy, make_spec):
    """The old generation comes to its end while it is cut off: its result is whole, and not the job's."""
    pb2 = stubs("fine_tuning_service_pb2")
    spec = make_spec(slots=1, epochs=20)
    cluster.start_worker(0, coordinator=proxy.address)
    cluster.wait_for_workers(1)
    name = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec)).name
    wait_until(lambda: cluster.get_job(name).progress.step >= 10, 60, "some steps")
    [old] = cluster.trainer_processes()
    proxy.cut()
    wait_until(lambda: not old.is_running(), 120, "generation 1 to end")
    # There is no other worker, so the job waits.
    waiting = cluster.wait_for_state(name, {"RECOVERING", "QUEUED"})
    undisturbed = digests(staged(cluster, name, 1))
    assert not cluster.output_dir(name).exists()
    assert waiting.generation == 1
    cluster.start_worker(1)
    wait_until(lambda: cluster.get_job(name).generation == 2, 60, "generation 2")
    counted = trained(cluster, name, generation=1)
    proxy.heal()
    finished = cluster.wait_for_state(name, {"SUCCEEDED"})
    assert finished.generation == 2 and trained(cluster, name, generation=1) <= counted
    assert digests(cluster.output_dir(name)) == undisturbed
    manifest = (cluster.output_dir(name) / "manifest.json").read_bytes()
    assert finished.result.manifest_sha256 == hashlib.sha256(manifest).hexdigest()


def test_a_cut_off_generation_that_ends_last_changes_no_output(cluster, proxy, make_spec):
    """The new generation has published before the old one, which does not know of it, comes to its end."""
    pb2 = stubs("fine_tuning_service_pb2")
    spec = make_spec(slots=1, epochs=150)
    spec.checkpoint.every.CopyFrom(Duration(seconds=1))
    cluster.start_worker(0, coordinator=proxy.address)
    cluster.wait_for_workers(1)
    name = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec)).name
    wait_until(lambda: committed(cluster, name), 60, "a checkpoint")
    cluster.start_worker(1)
    cluster.wait_for_workers(2)
    [old] = cluster.trainer_processes()
    proxy.cut()
    wait_until(lambda: trained(cluster, name, generation=2), 60, "generation 2 to train")
    cluster.jobs.FinishJob(pb2.JobActionRequest(name=name))
    finished = cluster.wait_for_state(name, {"SUCCEEDED"})
    assert finished.generation == 2 and old.is_running()
    published = digests(cluster.output_dir(name))
    wait_until(lambda: not old.is_running(), 120, "generation 1 to end")
    assert digests(staged(cluster, name, 1)) != published, "generation 1 has trained on"
    proxy.heal()
    cluster.wait_for_workers(2)
    assert digests(cluster.output_dir(name)) == published
    assert cluster.get_job(name).result == finished.result
