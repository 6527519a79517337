"""A trainer that takes too much memory, with real processes: who ends it, what its user reads, and that nobody else notices."""

import contextlib
from pathlib import Path

import psutil
import pytest
import tiny_model
from mini_cluster import MiniCluster, daemons_of, stubs, wait_until

MIB = 2**20
# A tiny trainer stays below it. One that trains the wide model whole does not: 49 million parameters, of 16 bytes each.
SLOT_MEMORY = 600 * MIB


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "model"
    tiny_model.make_llama(folder, hidden_size=1280, intermediate_size=3584, head_dim=320)
    return folder


@pytest.fixture(scope="module")
def make_wide_spec(make_spec, wide):
    def make(**more):
        spec = make_spec(slots=1, sharding=stubs("job_pb2").TrainingSpec.SHARDING_NONE, **more)
        spec.model = f"file://{wide}"
        spec.method.full.SetInParent()
        return spec
    return make


def create(cluster, spec):
    return cluster.jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(spec=spec)).name


def expect_told(job, *how):
    """The user reads who ended it, what was planned and what to change; nothing was tried again."""
    assert job.state_reason == "OUT_OF_MEMORY", job
    assert job.generation == 1 and job.failures.user == 1, job
    for part in (*how, "planned were ", "microbatch_tokens", "sharding: FULL"):
        assert part in job.state_message, job.state_message


def test_who_takes_more_than_a_slot_has_is_ended_alone(tmp_path, tiny, wide, make_spec, make_wide_spec):
    with MiniCluster(tmp_path, workers=1, slots_per_worker=2, allowed_roots=[tiny, wide.parent],
                     worker_flags=["--slot-memory", f"{SLOT_MEMORY}"]) as cluster:
        neighbour = create(cluster, make_spec(slots=1, epochs=200))
        wait_until(lambda: cluster.get_job(neighbour).progress.step >= 2, 60, "the neighbour to train")
        job = cluster.wait_for_state(create(cluster, make_wide_spec()), {"FAILED"})
        expect_told(job, "rank 0 on worker w0 ", f"of the {SLOT_MEMORY // MIB} MiB that its slot has")
        step = cluster.get_job(neighbour).progress.step
        wait_until(lambda: cluster.get_job(neighbour).progress.step > step, 60, "the neighbour to go on")
        cluster.jobs.FinishJob(stubs("fine_tuning_service_pb2").JobActionRequest(name=neighbour))
        done = cluster.wait_for_state(neighbour, {"SUCCEEDED"})
        assert done.generation == 1 and done.failures.infrastructure == 0


@contextlib.contextmanager
def memory_group(name):
    """A control group to which a limit can be given, of version 1 or 2; skips the test where none can be made."""
    root = Path("/sys/fs/cgroup")
    version_1 = (root / "memory" / "memory.limit_in_bytes").exists()
    group = root / "memory" / name if version_1 else root / name
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limit = group / ("memory.limit_in_bytes" if version_1 else "memory.max")
        if not limit.exists():
            pytest.skip("control groups here have no memory controller")
        yield group / "cgroup.procs", limit
    finally:
        group.rmdir()


def test_whom_the_kernel_kills_is_told_so(tmp_path, tiny, wide, make_wide_spec):
    with memory_group(f"anneal-{tmp_path.name}") as (members, limit):
        with MiniCluster(tmp_path, workers=1, allowed_roots=[tiny, wide.parent]) as cluster:
            keeper = cluster.workers[0].popen.pid
            [daemon] = daemons_of(keeper)
            for process in (psutil.Process(keeper), *psutil.Process(keeper).children()):  # the spare trainer, too
                members.write_text(str(process.pid))
            limit.write_text(str(SLOT_MEMORY))
            job = cluster.wait_for_state(create(cluster, make_wide_spec()), {"FAILED"})
            expect_told(job, "the kernel killed it for want of memory")
            assert daemons_of(keeper) == [daemon], "the kernel took the trainer, not who looks after it"
