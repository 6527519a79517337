"""anneal doctor over a fleet of real workers: all is well, and then something is not."""

import json
import subprocess

import pytest
from mini_cluster import BIN_DIR, MiniCluster


@pytest.fixture
def cluster(tmp_path):
    with MiniCluster(tmp_path, workers=2) as cluster:
        yield cluster


def doctor(cluster, *arguments):
    """Exit code, and {(machine, check): what was found}."""
    run = subprocess.run(
        [BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file", cluster.folder / "credentials",
         "doctor", "--output", "json", *arguments], capture_output=True, text=True, timeout=150)
    assert run.stdout, run.stderr
    return run.returncode, {(check["machine"], check["name"]): check for check in json.loads(run.stdout)["checks"]}


def test_a_fleet_that_is_well(cluster):
    code, checks = doctor(cluster, "--all-workers")
    assert code == 0, checks
    assert {check["verdict"] for check in checks.values()} == {"VERDICT_OK"}, checks
    expected = {("coordinator", name) for name in ("answer", "version", "clock", "workers", "storage", "shared storage")}
    for worker in ("workers/w0", "workers/w1"):
        expected |= {(worker, name) for name in (
            "answer", "version", "clock", "gpu driver", "shared memory", "ports", "storage", "shared storage")}
    assert checks.keys() == expected | {("workers/w0", "link to w1")}
    assert " MB/s, round trip " in checks["workers/w0", "link to w1"]["measured"]
    assert not list((cluster.storage / "tmp").glob("doctor-*")), "nothing stays behind"
    assert doctor(cluster, "--all-workers")[0] == 0, "and it can be asked again"


def test_what_is_wrong_is_named(cluster, tmp_path):
    """A worker whose storage root is another folder."""
    shared, cluster.storage = cluster.storage, tmp_path / "elsewhere"
    cluster.storage.mkdir()
    cluster.start_worker(2)
    cluster.storage = shared
    cluster.wait_for_workers(3)
    code, checks = doctor(cluster, "--all-workers")
    assert code == 6
    failed = {key for key, check in checks.items() if check["verdict"] == "VERDICT_FAILED"}
    assert failed == {(machine, "shared storage")
                      for machine in ("coordinator", "workers/w0", "workers/w1", "workers/w2")}, checks
    assert "COORDINATOR, w0, w1" in checks["workers/w2", "shared storage"]["measured"]
    assert "--storage-root" in checks["workers/w2", "shared storage"]["advice"]
    assert checks["workers/w0", "link to w2"]["verdict"] == "VERDICT_OK"


def test_the_machine_itself_and_the_coordinator(cluster):
    code, checks = doctor(cluster, "--storage-root", cluster.storage, "--data-address", "127.0.0.1")
    assert code == 0, checks
    assert {machine for machine, _ in checks} == {"here", "coordinator"}
    assert "2 of 2 ready" in checks["coordinator", "workers"]["measured"]
    cluster.coordinator.kill()
    code, checks = doctor(cluster)
    assert code == 6
    assert checks["coordinator", "answer"]["verdict"] == "VERDICT_FAILED"
    assert checks["here", "ports"]["verdict"] == "VERDICT_OK"
