"""anneal doctor over a fleet of real workers: all is well, and then something is not."""

import json
import os
import re
import shutil
import subprocess

import pytest
from mini_cluster import BIN_DIR, MiniCluster, stubs, wait_until


@pytest.fixture
def cluster(tmp_path, tiny):
    with MiniCluster(tmp_path, workers=2, allowed_roots=[tiny]) as cluster:
        yield cluster


def doctor(cluster, *arguments):
    """Exit code, and {(machine, check): what was found}."""
    run = subprocess.run(
        [BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file", cluster.folder / "credentials",
         "doctor", "--output", "json", *arguments], capture_output=True, text=True, timeout=300)
    assert run.stdout, run.stderr
    return run.returncode, {(check["machine"], check["name"]): check for check in json.loads(run.stdout)["checks"]}


def figures(checks, machine, name):
    """What a check of a pair has measured, without its digits, and the numbers, of which none is zero."""
    check = checks[machine, name]
    assert check["verdict"] != "VERDICT_FAILED", check  # how fast a busy machine is decides nothing here
    measured = re.sub(r"; (both ways are|w\d to w\d is) slow: .*", "", check["measured"])
    numbers = [float(number) for number in re.findall(r"(?<!w)\b\d+(?:\.\d+)?", measured)]
    assert all(number > 0 for number in numbers), check
    return re.sub(r"(?<!w)\b\d+(\.\d+)?", "N", measured)


PLAIN = "{0} to {1} N MB/s, {1} to {0} N MB/s, round trip N ms"
COLLECTIVES = "Gloo: {0} to {1} N MB/s, {1} to {0} N MB/s; all-to-all N MB/s and N MB/s; all-reduce N MB/s, latency N ms"


def test_a_fleet_that_is_well(cluster):
    code, checks = doctor(cluster, "--all-workers")
    assert code == 0, checks
    expected = {("coordinator", name) for name in (
        "answer", "version", "clock", "workers", "storage", "shared storage", "shared storage changes")}
    for worker in ("workers/w0", "workers/w1"):
        expected |= {(worker, name) for name in (
            "answer", "version", "clock", "gpu driver", "shared memory", "ports", "storage", "shared storage",
            "shared storage changes")}
    pair = {("workers/w0", "link to w1"), ("workers/w0", "CPU collectives with w1")}
    assert checks.keys() == expected | pair
    assert {check["verdict"] for key, check in checks.items() if key not in pair} == {"VERDICT_OK"}, checks
    assert figures(checks, "workers/w0", "link to w1") == PLAIN.format("w0", "w1")
    assert figures(checks, "workers/w0", "CPU collectives with w1") == COLLECTIVES.format("w0", "w1")
    assert re.fullmatch("of 2 others: renamed over after .*, growth after .*, removal after .*",
                        checks["coordinator", "shared storage changes"]["measured"])
    assert not list((cluster.storage / "tmp").glob("doctor-*")), "nothing stays behind"
    assert doctor(cluster, "--all-workers", "--all-pairs")[0] == 0, "and it can be asked again"


def test_a_pair_that_cannot_talk_is_named(cluster, tmp_path):
    """A worker whose trainer does not start."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for program in BIN_DIR.iterdir():
        (bin_dir / program.name).symlink_to(program)
    (bin_dir / "anneal-trainer").unlink()
    (bin_dir / "anneal-trainer").write_text("#!/bin/sh\necho anneal-trainer: libgloo is missing >&2\nexit 1\n")
    (bin_dir / "anneal-trainer").chmod(0o755)
    cluster.worker_flags = ("--bin-dir", bin_dir, "--spares=false")
    cluster.start_worker(2)
    cluster.wait_for_workers(3)
    code, checks = doctor(cluster, "--all-workers")
    assert code == 6
    failed = {key: check["measured"] for key, check in checks.items() if check["verdict"] == "VERDICT_FAILED"}
    assert failed.keys() == {("workers/w0", "CPU collectives with w2"), ("workers/w1", "CPU collectives with w2")}
    for measured in failed.values():
        assert "w2: anneal-trainer: libgloo is missing" in measured
    for a, b in (("w0", "w1"), ("w0", "w2"), ("w1", "w2")):
        assert figures(checks, f"workers/{a}", f"link to {b}") == PLAIN.format(a, b)
    assert figures(checks, "workers/w0", "CPU collectives with w1") == COLLECTIVES.format("w0", "w1")


def test_jobs_keep_their_slots(cluster, make_spec):
    """Where they hold all, the plain link is measured and collectives are not; and they go on."""
    pb2 = stubs("fine_tuning_service_pb2")
    job = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=make_spec(epochs=1000))).name
    wait_until(lambda: cluster.get_job(job).progress.step >= 1, 120, "the job to train on both slots")
    code, checks = doctor(cluster, "--all-workers")
    assert code == 0, checks
    assert figures(checks, "workers/w0", "link to w1") == PLAIN.format("w0", "w1")
    assert checks["workers/w0", "CPU collectives with w1"]["measured"] == "skipped: busy: no CPU slot of w1 is free"
    before = cluster.get_job(job)
    assert before.generation == 1 and before.failures.infrastructure == 0
    wait_until(lambda: cluster.get_job(job).progress.step > before.progress.step, 60, "the job to go on")
    cluster.jobs.CancelJob(pb2.JobActionRequest(name=job))
    cluster.wait_for_state(job, {"CANCELLED"})
    # The slots are free again.
    wait_until(lambda: not cluster.trainers(), 60, "the trainers to end")
    code, checks = doctor(cluster, "--all-workers")
    assert figures(checks, "workers/w0", "CPU collectives with w1") == COLLECTIVES.format("w0", "w1")


@pytest.fixture
def gpu_programs(tmp_path):
    """A folder of programs whose CUDA library only says what is there, and starts nothing."""
    bin_dir, lib_dir = tmp_path / "gpu" / "bin", tmp_path / "gpu" / "lib"
    bin_dir.mkdir(parents=True)
    for name in ("anneal-prepare", "anneal-trainer"):
        shutil.copy2(BIN_DIR / name, bin_dir)
    lib_dir.mkdir()
    shutil.copy2(BIN_DIR.parent / "lib" / "libfake_trainer_cuda.so", lib_dir / "libanneal_trainer_cuda.so")
    return bin_dir


def check_cuda(programs, *arguments, **environment):
    run = subprocess.run([programs / "anneal-trainer", "check-cuda", *arguments], capture_output=True, text=True, timeout=120,
                         env={**os.environ, "LD_LIBRARY_PATH": str(BIN_DIR.parent / "lib"), **environment})
    return run.returncode, run.stdout, run.stderr


def test_the_trainer_says_what_its_cuda_library_finds(gpu_programs):
    library = gpu_programs.parent / "lib" / "libanneal_trainer_cuda.so"
    code, out, _ = check_cuda(gpu_programs)
    assert code == 0
    assert json.loads(out) == {"library": str(library), "nccl": "2.27.5", "devices": 2, "started": ""}
    code, _, err = check_cuda(gpu_programs, "--start")
    assert code == 1 and f"{library} lacks anneal_make_cuda_accelerator" in err
    code, _, err = check_cuda(gpu_programs, FAKE_CUDA_ERROR="1")
    assert code == 1 and "CUDA does not start on this machine: the driver is too old" in err
    library.unlink()
    code, _, err = check_cuda(gpu_programs)
    assert code == 2 and "libanneal_trainer_cuda.so, which is not in" in err


def test_a_gpu_worker_whose_trainer_does_not_start_there_is_named(cluster, gpu_programs, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(BIN_DIR.parent / "lib"))
    cluster.worker_flags = ("--bin-dir", gpu_programs, "--nvml-library", BIN_DIR.parent / "lib" / "libfake_nvml.so", "--spares=false")
    cluster.start_worker(2)
    cluster.wait_for_workers(3)
    code, checks = doctor(cluster, "--all-workers")
    assert code == 6
    assert checks["workers/w2", "gpu driver"]["verdict"] == "VERDICT_OK", checks
    assert ("workers/w2", "rdma") in checks and ("workers/w0", "rdma") not in checks
    assert checks["workers/w2", "trainer on GPU"]["verdict"] == "VERDICT_FAILED"
    assert "lacks anneal_make_cuda_accelerator" in checks["workers/w2", "trainer on GPU"]["measured"]
    # Others have no slots of that kind to measure with.
    assert ("workers/w0", "GPU collectives with w2") not in checks
    assert figures(checks, "workers/w0", "CPU collectives with w2") == COLLECTIVES.format("w0", "w2")


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
    assert figures(checks, "workers/w0", "link to w2") == PLAIN.format("w0", "w2")
    # What one does not see at all it is not also said to see late.
    assert ("workers/w2", "shared storage changes") not in checks


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
