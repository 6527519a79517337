"""What `anneal debug` packs: where the ranks stood that hung or were stopped, and no word of the data."""

import json
import os
import signal
import subprocess
import tarfile

import pytest

import hang
from mini_cluster import BIN_DIR, MiniCluster, stubs, wait_until

CANARY = "canary in the data mine"


def create(cluster, spec):
    return cluster.jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(spec=spec)).name


def debug(cluster, name):
    """The archive's files by their names in it."""
    archive = cluster.folder / "help.tar"
    subprocess.run([BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file",
                    cluster.folder / "credentials", "debug", name.removeprefix("jobs/"), "--to", archive], check=True)
    with tarfile.open(archive) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read().decode() for member in tar}


def test_no_word_of_refused_data_is_in_the_archive(tmp_path, tiny, make_spec):
    rows = [f'{{"text": {CANARY}}}', f'{{"{CANARY}": 1, "text": "x"}}', f'{{"messages": "{CANARY}"}}',
            f'{{"messages": [{{"role": "{CANARY}", "content": "x"}}]}}', f'{{"text": "{CANARY}\n']
    data = tmp_path / "bad.jsonl"
    data.write_text("".join(f"{row}\n" for row in rows * 3))
    spec = make_spec(slots=1)
    del spec.data.train[:]
    spec.data.train.append(f"file://{data}")
    folder = tmp_path / "cluster"
    folder.mkdir()
    with MiniCluster(folder, workers=1, allowed_roots=[tmp_path, tiny], worker_flags=("--spares=false",)) as cluster:
        name = create(cluster, spec)
        job = cluster.wait_for_state(name, {"FAILED"})
        assert CANARY[:20] in str(job), "there is something to leave out"
        files = debug(cluster, name)
    for file, text in files.items():
        for word in CANARY.split()[0], CANARY:
            assert word not in text, (file, text)
    packed = json.loads(files["job.json"])
    assert "errors in the data" in packed["error"]["message"]
    issues = packed["data"]["issues"]
    assert {"ROW_NOT_JSON", "UNKNOWN_FIELD", "WRONG_TYPE", "UNKNOWN_ROLE"} <= {issue["code"] for issue in issues}
    assert all(issue["file"] and issue["line"] > 0 for issue in issues if issue["code"] == "UNKNOWN_FIELD")
    [worker] = json.loads(files["workers.json"])["workers"]
    assert {"kernel", "glibc", "torch"} <= worker["software"].keys()


@pytest.fixture
def cluster(tmp_path, tiny):
    with MiniCluster(tmp_path, workers=2, allowed_roots=[tiny]) as cluster:
        yield cluster


def first_end(cluster, name):
    """How the first attempt has ended, once it has."""
    def ended():
        events = cluster.jobs.ListJobEvents(
            stubs("fine_tuning_service_pb2").ListJobEventsRequest(name=name, page_size=1000)).events
        return [event for event in events if event.HasField("attempt_end")]
    return wait_until(ended, 120, f"the first attempt of {name} to end")[0].attempt_end


def await_next_generation(cluster, name):
    """Its trainers get the slots once those of the first are gone, which write their last words until then."""
    pb2 = stubs("job_pb2")
    wait_until(lambda: cluster.get_job(name).generation > 1 and cluster.get_job(name).state == pb2.JOB_STATE_RUNNING, 120,
               f"the second attempt of {name}")


def trainer_after_step(cluster, name, step):
    wait_until(lambda: cluster.get_job(name).progress.step >= step, 120, f"step {step} of {name}")
    return cluster.trainers()[0][1]


@pytest.mark.skipif(hang.why_refused() is not None, reason="this machine lets nobody hang a thread")
def test_the_stacks_of_a_hung_rank_are_in_the_archive(cluster, make_spec):
    name = create(cluster, make_spec(epochs=200))
    trainer = trainer_after_step(cluster, name, 5)
    hang.hang_thread(trainer.pid)  # the main thread, which trains
    end = first_end(cluster, name)
    await_next_generation(cluster, name)
    log = debug(cluster, name)[f"logs/g1/rank{end.rank}.log"]
    stacks = log[log.rindex("stacks of "):log.rindex("\nend of stacks\n")]
    # Another thread wrote them; the one that is held answers nobody, and the kernel says in which state it is.
    assert f"\nthread {trainer.pid} anneal-trainer, state t:\n  does not answer" in stacks
    assert "anneal::" in stacks
    cluster.jobs.CancelJob(stubs("fine_tuning_service_pb2").JobActionRequest(name=name))


def test_where_a_stopped_rank_stood_is_in_the_archive(cluster, make_spec):
    name = create(cluster, make_spec(epochs=200))
    trainer = trainer_after_step(cluster, name, 5)
    os.kill(trainer.pid, signal.SIGSTOP)
    end = first_end(cluster, name)
    await_next_generation(cluster, name)
    log = debug(cluster, name)[f"logs/g1/rank{end.rank}.log"]
    assert f"threads of process {trainer.pid}:\n" in log
    assert f"\nthread {trainer.pid} anneal-trainer, state T" in log
    cluster.jobs.CancelJob(stubs("fine_tuning_service_pb2").JobActionRequest(name=name))
