"""What goes wrong while a job runs: a killed coordinator, a restarted daemon, a cancel, a lost trainer, a pause, bad data."""

import hashlib
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import grpc
import psutil
import pytest

from mini_cluster import BIN_DIR, MiniCluster, daemons_of, stubs, wait_until


@pytest.fixture
def cluster(tmp_path, tiny):
    with MiniCluster(tmp_path, workers=2, allowed_roots=[tiny]) as cluster:
        yield cluster


def create(cluster, spec, **more):
    return cluster.jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(spec=spec, **more))


def wait_for_step(cluster, name, step):
    def reached():
        job = cluster.get_job(name)
        assert job.state <= stubs("job_pb2").JOB_STATE_EXPORTING, f"{job}\n{cluster.logs()}"
        return job if job.progress.step >= step else None
    return wait_until(reached, 120, f"{name} to reach step {step}")


def weights_digest(cluster, name):
    return hashlib.sha256((cluster.output_dir(name) / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ledger(cluster, name):
    return (cluster.output_dir(name) / "ledger.jsonl").read_bytes()


def test_a_killed_coordinator_loses_no_job(cluster, make_spec):
    """kill -9 in the midst of a job: the job goes on, and so does one that was only acknowledged."""
    reference = create(cluster, make_spec(epochs=8))
    cluster.wait_for_state(reference.name, {"SUCCEEDED"})

    running = create(cluster, make_spec(epochs=8), request_id="a")
    wait_for_step(cluster, running.name, 3)
    waiting = create(cluster, make_spec(max_steps=2), request_id="b")
    cluster.coordinator.kill()
    cluster.start_coordinator()
    assert create(cluster, make_spec(max_steps=2), request_id="b").name == waiting.name
    finished = cluster.wait_for_state(running.name, {"SUCCEEDED"})
    cluster.wait_for_state(waiting.name, {"SUCCEEDED"})
    # The trainers never noticed: one generation, and the bits of an undisturbed run.
    assert finished.generation == 1
    assert weights_digest(cluster, running.name) == weights_digest(cluster, reference.name)
    assert ledger(cluster, running.name) == ledger(cluster, reference.name)
    steps = cluster.jobs.ListStepMetrics(
        stubs("fine_tuning_service_pb2").ListStepMetricsRequest(name=running.name, page_size=1000)).steps
    assert [s.step for s in steps] == list(range(1, 49))


def test_a_coordinator_killed_between_any_two_states_loses_nothing(cluster, make_spec):
    job = create(cluster, make_spec(epochs=4), request_id="c")
    for state in ({"PREPARING", "QUEUED", "STARTING", "RUNNING"}, {"STARTING", "RUNNING"}, {"RUNNING", "EXPORTING"}):
        if cluster.wait_for_state(job.name, state | {"SUCCEEDED"}).state == stubs("job_pb2").JOB_STATE_SUCCEEDED:
            break
        cluster.coordinator.kill()
        cluster.start_coordinator()
    assert cluster.wait_for_state(job.name, {"SUCCEEDED"}).result.after.rows == 24


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGHUP])
def test_a_restarted_daemon_stops_no_training(cluster, make_spec, signal_number):
    job = create(cluster, make_spec(epochs=8))
    wait_for_step(cluster, job.name, 3)
    trainers = {p.pid for p in cluster.trainer_processes()}
    assert len(trainers) == 2
    for worker in cluster.workers:
        [daemon] = daemons_of(worker.popen.pid)
        if signal_number == signal.SIGHUP:
            worker.popen.send_signal(signal.SIGHUP)
        else:
            daemon.kill()
        wait_until(lambda: has_ended(daemon), 30, "the daemon's end")
    assert cluster.wait_for_state(job.name, {"SUCCEEDED"}).generation == 1
    steps = cluster.jobs.ListStepMetrics(
        stubs("fine_tuning_service_pb2").ListStepMetricsRequest(name=job.name, page_size=1000)).steps
    assert [s.step for s in steps] == list(range(1, 49))


def test_a_worker_with_the_name_of_another_takes_its_place(cluster, make_spec):
    """A pod that is made anew has its old name and an empty state folder; the old one may still live where nobody sees it."""
    old = cluster.workers[0]
    [first] = daemons_of(old.popen.pid)
    first.kill()  # the second daemon's incarnation is what the new pod has to get past
    connected = "coordinator_epoch="  # said when one hears its coordinator
    wait_until(lambda: old.log_path.read_text().count(connected) >= 2, 30, "a second daemon")
    cluster.start_worker(0, state="new0")
    cluster.workers.append(old)  # to be stopped at the end, too
    new = cluster.workers[0]
    wait_until(lambda: connected in new.log_path.read_text(), 30, "the new worker")
    # Both try; the newer stays.
    wait_until(lambda: "is older than" in old.log_path.read_text(), 30, "the old worker to be refused")
    assert "is older than" not in new.log_path.read_text()
    assert len(cluster.get_ready_workers()) == 2
    job = create(cluster, make_spec(max_steps=3))
    cluster.wait_for_state(job.name, {"SUCCEEDED"})
    assert list(Path(cluster.short.name).glob("new0/runs/*")) or "task ended" in new.log_path.read_text()
    assert "task started" not in old.log_path.read_text()


def test_a_lost_trainer_is_replaced_and_changes_no_bit(cluster, make_spec):
    """kill -9 of a trainer: a new generation goes on, and ends with the bits of an undisturbed run."""
    reference = create(cluster, make_spec(epochs=8))
    cluster.wait_for_state(reference.name, {"SUCCEEDED"})
    job = create(cluster, make_spec(epochs=8))
    wait_for_step(cluster, job.name, 2)
    victim = next(p for p in cluster.trainer_processes() if "w1" in " ".join(p.cmdline()))
    victim.kill()
    finished = cluster.wait_for_state(job.name, {"SUCCEEDED"})
    assert finished.generation == 2 and finished.failures.infrastructure == 1, finished
    ends = [e for e in cluster.jobs.ListJobEvents(stubs("fine_tuning_service_pb2").ListJobEventsRequest(
        name=job.name, page_size=1000)).events if e.HasField("attempt_end")]
    assert len(ends) == 1 and "killed by signal 9" in ends[0].message and "w1" in ends[0].message, ends
    assert weights_digest(cluster, job.name) == weights_digest(cluster, reference.name)
    assert ledger(cluster, job.name) == ledger(cluster, reference.name)


def test_the_next_generation_runs_in_spares_that_were_there_before_the_fault(cluster, make_spec):
    def await_spares():
        return wait_until(lambda: (s := cluster.spare_processes()) and len(s) == 2 and s, 30, "a spare for each slot")

    first_spares = await_spares()
    for spare in first_spares:  # loaded, and nothing called: no threads, no port, no lock, no file of the storage
        assert spare.num_threads() == 1 and spare.memory_info().rss < 200 << 20
        assert not spare.net_connections(kind="inet")
        assert not [f.path for f in spare.open_files() if not f.path.endswith(".log") or str(cluster.storage) in f.path]
    job = create(cluster, make_spec(epochs=30))
    wait_for_step(cluster, job.name, 2)
    assert {p.pid for p in cluster.trainer_processes()} == {p.pid for p in first_spares}
    spares = await_spares()
    struck = time.time()
    cluster.trainer_processes()[0].kill()
    pids = {p.pid for p in spares}
    wait_until(lambda: {p.pid for p in cluster.trainer_processes()} == pids, 30, "the spares to train")
    trainers = cluster.trainer_processes()
    assert cluster.get_job(job.name).generation == 2
    assert all(p.create_time() < struck for p in trainers)
    # As if they had been started for it: named so, with their own logs, and in the environment of their slot.
    assert {p.name() for p in trainers} == {"anneal-trainer"}
    logs = cluster.storage / job.name / "logs" / "g2"
    assert {f.path for p in trainers for f in p.open_files() if f.path.endswith(".log")} == {
        str(logs / "rank0.log"), str(logs / "rank1.log")}
    assert all(p.environ()["OMP_NUM_THREADS"] == "1" and p.environ()["MKL_CBWR"] == "AUTO" for p in trainers)
    assert cluster.wait_for_state(job.name, {"SUCCEEDED"}).generation == 2


def test_pause_and_resume_with_fewer_slots_change_no_bit(cluster, make_spec):
    pb2 = stubs("fine_tuning_service_pb2")
    reference = create(cluster, make_spec(epochs=8))
    cluster.wait_for_state(reference.name, {"SUCCEEDED"})
    job = create(cluster, make_spec(epochs=8))
    wait_for_step(cluster, job.name, 2)
    cluster.jobs.PauseJob(pb2.JobActionRequest(name=job.name))
    paused = cluster.wait_for_state(job.name, {"PAUSED"}, seconds=30)
    assert paused.checkpoint_step >= 2
    wait_until(lambda: not cluster.trainer_processes(), 15, "the slots to be free")
    listed = cluster.jobs.ListCheckpoints(pb2.ListCheckpointsRequest(name=job.name)).checkpoints
    assert [c.step for c in listed] == [paused.checkpoint_step]
    cluster.jobs.ResumeJob(pb2.JobActionRequest(name=job.name, slots=1))
    finished = cluster.wait_for_state(job.name, {"SUCCEEDED"})
    assert finished.generation == 2 and finished.failures.infrastructure == 0
    assert weights_digest(cluster, job.name) == weights_digest(cluster, reference.name)
    assert ledger(cluster, job.name) == ledger(cluster, reference.name)


def test_cancel_stops_the_trainers_and_frees_the_slots(cluster, make_spec):
    pb2 = stubs("fine_tuning_service_pb2")
    job = create(cluster, make_spec(epochs=200))
    wait_for_step(cluster, job.name, 2)
    queued = create(cluster, make_spec(max_steps=1))
    waiting = cluster.wait_for_state(queued.name, {"QUEUED"})
    assert "2" in waiting.state_message and "CPU" in waiting.state_message, waiting.state_message
    cluster.jobs.CancelJob(pb2.JobActionRequest(name=job.name))
    cluster.wait_for_state(job.name, {"CANCELLED"}, seconds=30)
    cluster.wait_for_state(queued.name, {"SUCCEEDED"})
    assert cluster.jobs.CancelJob(pb2.JobActionRequest(name=job.name)).state == stubs("job_pb2").JOB_STATE_CANCELLED
    with pytest.raises(grpc.RpcError) as refused:
        cluster.jobs.CancelJob(pb2.JobActionRequest(name=queued.name))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_bad_rows_fail_before_any_slot_is_taken(cluster, make_spec, tmp_path):
    (tmp_path / "bad.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        '{"messages": [{"role": "user", "content": 7}]}\n'
        "not json\n")
    spec = make_spec()
    spec.data.train[:] = [f"file://{tmp_path}/bad.jsonl"]
    spec.data.ClearField("validation")
    job = cluster.wait_for_state(create(cluster, spec).name, {"FAILED"})
    assert job.generation == 0 and job.data.error_count >= 2
    lines = {(i.line, i.field) for i in job.data.issues}
    assert (2, "messages[0].content") in lines and any(line == 3 for line, _ in lines)
    assert all(i.message and i.hint for i in job.data.issues)


def test_held_jobs_wait_for_resume(cluster, make_spec):
    pb2 = stubs("fine_tuning_service_pb2")
    job = create(cluster, make_spec(max_steps=1), hold_after_validation=True)
    held = cluster.wait_for_state(job.name, {"VALIDATED"})
    assert held.data.train_tokens > 0
    cluster.jobs.ResumeJob(pb2.JobActionRequest(name=job.name))
    cluster.wait_for_state(job.name, {"SUCCEEDED"})


def test_a_drained_worker_leaves_in_peace(cluster, make_spec):
    assert cluster.workers[0].terminate(seconds=30) == 0
    wait_until(lambda: len(cluster.get_ready_workers()) == 1, 30, "the worker to leave")
    job = cluster.wait_for_state(create(cluster, make_spec(slots=1, max_steps=1)).name, {"SUCCEEDED"})
    assert job.progress.step == 1


def test_a_file_can_be_uploaded_in_parts_and_used(cluster, make_spec, tiny):
    pb2 = stubs("file_service_pb2")
    data = (tiny / "train.jsonl").read_bytes()
    digest = hashlib.sha256(data).hexdigest()

    def parts(start, end):
        yield pb2.UploadFileRequest(header=pb2.UploadHeader(
            display_name="train.jsonl", size_bytes=len(data), sha256=digest, upload_id="u1", offset=start))
        for position in range(start, end, 1000):
            yield pb2.UploadFileRequest(chunk=data[position:min(position + 1000, end)])

    with pytest.raises(grpc.RpcError):
        cluster.files.UploadFile(parts(0, 3000))
    upload = cluster.files.GetUpload(pb2.GetUploadRequest(upload_id="u1"))
    assert upload.received_bytes == 3000
    file = cluster.files.UploadFile(parts(3000, len(data)))
    assert file.sha256 == digest and file.size_bytes == len(data)
    spec = make_spec(max_steps=1)
    spec.data.train[:] = [file.name]
    job = cluster.wait_for_state(create(cluster, spec).name, {"SUCCEEDED"})
    assert job.data.train_rows == 96
    assert os.path.isdir(cluster.output_dir(job.name))


def test_a_live_trainer_says_where_it_stands_and_goes_on(cluster, make_spec, tmp_path):
    job = create(cluster, make_spec(epochs=8))
    wait_for_step(cluster, job.name, 3)
    archive = tmp_path / "help.tar"
    subprocess.run([BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file",
                    cluster.folder / "credentials", "debug", job.name.removeprefix("jobs/"), "--to", archive], check=True)
    with tarfile.open(archive) as tar:
        packed = {Path(member.name).name: tar.extractfile(member).read().decode() for member in tar}
    assert "missing.txt" not in packed, packed["missing.txt"]
    for rank in range(2):
        log = packed[f"rank{rank}.log"]
        # The training thread is the process's first, and comes last.
        assert "anneal::trainer::Trainer::Run()" in log[log.rindex("\nthread "):log.rindex("\nend of stacks\n")]
    assert cluster.wait_for_state(job.name, {"SUCCEEDED"}).generation == 1
