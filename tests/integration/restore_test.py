"""A catalog that is restored from a backup: what was done since then is lost to it, and must not count, nor disturb."""

import contextlib
import hashlib
import shutil
import sqlite3

import pytest
from google.protobuf.duration_pb2 import Duration
from mini_cluster import MiniCluster, stubs, wait_until


@pytest.fixture
def cluster(tmp_path, tiny):
    with MiniCluster(tmp_path, workers=2, allowed_roots=[tiny]) as cluster:
        yield cluster


def create(cluster, spec):
    return cluster.jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(spec=spec)).name


def events(cluster, name):
    request = stubs("fine_tuning_service_pb2").ListJobEventsRequest(name=name, page_size=1000)
    return cluster.jobs.ListJobEvents(request).events


def committed(cluster, name, generation):
    return [e for e in events(cluster, name) if e.WhichOneof("detail") == "checkpoint" and e.generation == generation]


def digests(cluster, name):
    return [hashlib.sha256((cluster.output_dir(name) / file).read_bytes()).hexdigest()
            for file in ("adapter/adapter_model.safetensors", "ledger.jsonl")]


def back_up(cluster, copy):
    """As docs/operations/backup.md says: what the .backup of the sqlite3 program does."""
    with contextlib.closing(sqlite3.connect(cluster.folder / "catalog" / "catalog.db")) as live:
        with contextlib.closing(sqlite3.connect(copy)) as backup:
            live.backup(backup)
            assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def restore(cluster, copy):
    catalog = cluster.folder / "catalog"
    shutil.copy(copy, catalog / "catalog.db")
    for suffix in ("-wal", "-shm"):
        (catalog / f"catalog.db{suffix}").unlink(missing_ok=True)


def restart(cluster):
    cluster.coordinator.terminate()
    cluster.start_coordinator()
    cluster.wait_for_workers(2)


def test_workers_rejoin_and_a_job_ends_with_its_bytes(cluster, make_spec, tmp_path):
    plain = make_spec(slots=1, epochs=40)
    spec = make_spec(slots=1, epochs=40)
    spec.checkpoint.every.CopyFrom(Duration(seconds=1))
    name = create(cluster, spec)
    wait_until(lambda: committed(cluster, name, 1), 60, "a checkpoint")
    back_up(cluster, tmp_path / "backup.db")
    # A second generation begins, of which the backup does not know.
    [(_, trainer)] = cluster.trainers()
    trainer.kill()
    wait_until(lambda: committed(cluster, name, 2), 60, "a checkpoint of generation 2")
    restart(cluster)
    restart(cluster)
    assert cluster.get_job(name).generation == 2
    cluster.coordinator.terminate()
    restore(cluster, tmp_path / "backup.db")
    cluster.start_coordinator()
    # They have seen later epochs than the backup's.
    cluster.wait_for_workers(2)
    finished = cluster.wait_for_state(name, {"SUCCEEDED"}, seconds=300)
    assert finished.generation == 3 and finished.failures.infrastructure == 0
    assert any("given after the backup" in e.message for e in events(cluster, name))
    assert not committed(cluster, name, 2)
    for worker in cluster.workers:
        assert "must not give orders" not in worker.log_path.read_text()
    undisturbed = create(cluster, plain)
    cluster.wait_for_state(undisturbed, {"SUCCEEDED"}, seconds=300)
    assert digests(cluster, name) == digests(cluster, undisturbed)


def test_a_job_that_ended_since_is_run_again(cluster, make_spec, tmp_path):
    spec = make_spec(slots=2, epochs=8)
    name = create(cluster, spec)
    wait_until(lambda: cluster.get_job(name).progress.step >= 2, 60, "some steps")
    back_up(cluster, tmp_path / "backup.db")
    cluster.wait_for_state(name, {"SUCCEEDED"})
    before = digests(cluster, name)
    cluster.coordinator.terminate()
    restore(cluster, tmp_path / "backup.db")
    cluster.start_coordinator()
    assert cluster.get_job(name).state != stubs("job_pb2").JOB_STATE_SUCCEEDED
    cluster.wait_for_state(name, {"SUCCEEDED"}, seconds=300)
    assert digests(cluster, name) == before
