"""The command line against a whole service: a log that is followed to the job's end, and what is told of a job afterwards."""

import contextlib
import json
import subprocess

import pytest

from mini_cluster import BIN_DIR, MiniCluster, stubs, wait_until


@pytest.fixture
def cluster(tmp_path, tiny):
    with MiniCluster(tmp_path, workers=2, allowed_roots=[tiny]) as cluster:
        yield cluster


def command(cluster, *arguments):
    return [BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file", cluster.folder / "credentials",
            *arguments]


def anneal(cluster, *arguments):
    return subprocess.run(command(cluster, *arguments), check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("program", ["anneal", "anneal-coordinator", "anneal-worker", "anneal-prepare", "anneal-trainer"])
def test_every_program_says_what_it_is(program):
    version = subprocess.run([BIN_DIR / program, "--version"], check=True, capture_output=True, text=True).stdout
    assert version.startswith(f"{program} ") and version.count("\n") == 1
    told = subprocess.run([BIN_DIR / program, "--help"], check=True, capture_output=True, text=True)
    assert told.stdout and not told.stderr


@contextlib.contextmanager
def followed_log(cluster, name):
    """(process, file that gets its output) of `anneal logs --follow`."""
    path = cluster.folder / "followed.log"
    with open(path, "wb") as out:
        process = subprocess.Popen(command(cluster, "logs", name.removeprefix("jobs/"), "--follow"), stdout=out)
    try:
        yield process, path
    finally:
        process.kill()
        process.wait()


def test_a_log_is_followed_through_restarts_and_told_of_afterwards(cluster, make_spec):
    pb2 = stubs("fine_tuning_service_pb2")
    spec = make_spec(epochs=40)
    name = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec)).name
    # From before there is a trainer.
    with followed_log(cluster, name) as (process, path):
        def reached(step):
            wait_until(lambda: cluster.get_job(name).progress.step >= step, 120, f"step {step}")
        reached(3)
        cluster.coordinator.kill()
        cluster.start_coordinator()
        reached(6)
        cluster.trainer_processes()[0].kill()
        job = cluster.wait_for_state(name, {"SUCCEEDED"}, seconds=300)
        assert process.wait(timeout=60) == 0
        text = path.read_text()
    assert job.generation == 2
    logs = [(cluster.storage / name / "logs" / f"g{g}" / "rank0.log").read_text() for g in (1, 2)]
    assert text == f"{logs[0]}--- generation 2 ---\n{logs[1]}"

    job_id = name.removeprefix("jobs/")
    told = anneal(cluster, "explain", job_id)
    assert told.startswith(f"job {job_id} is SUCCEEDED") and "attempts that ended:\n  generation 1, rank" in told
    # Without a checkpoint it starts again.
    explained = json.loads(anneal(cluster, "-o", "json", "explain", job_id))
    [end] = [event["attempt_end"] for event in explained["attempts"]]
    assert end["resume_step"] == 0 and end["step"] >= 6
    assert f"steps 1-{end['step']} done again" in told
    assert "default" in anneal(cluster, "usage"), "its project"
