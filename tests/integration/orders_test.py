"""What users and operators ask of a job that trains, with real processes: it ends with the bytes of one that was left alone."""

import hashlib

import pytest
from mini_cluster import MiniCluster, stubs, wait_until

EPOCHS = 100  # of 6 steps each


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, tiny):
    """Three workers of one slot each."""
    with MiniCluster(tmp_path_factory.mktemp("cluster"), workers=3, allowed_roots=[tiny],
                     coordinator_flags=["--grow-after", "1s"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(cluster, make_spec):
    """(SHA-256 of the adapter, ledger) of the job that all tests run."""
    return outputs(cluster, cluster.wait_for_state(create(cluster, make_spec(epochs=EPOCHS)), {"SUCCEEDED"}).name)


def create(cluster, spec, **more):
    return cluster.jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(spec=spec, **more)).name


def act(cluster, method, name, **more):
    return getattr(cluster.jobs, method)(stubs("fine_tuning_service_pb2").JobActionRequest(name=name, **more))


def outputs(cluster, name):
    folder = cluster.output_dir(name)
    return (hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest(),
            (folder / "ledger.jsonl").read_bytes())


def await_step(cluster, name, step, generation=1):
    def reached():
        job = cluster.get_job(name)
        return job.generation >= generation and job.progress.step >= step and job
    return wait_until(reached, 120, f"{name} to reach step {step} in generation {generation}")


def await_owners(cluster, count, without=()):
    """Until `count` trainers run, none of them on the workers named; returns the names of their workers."""
    def owners():
        found = sorted(owner for owner, _ in cluster.trainers())
        return found if len(found) == count and not set(found) & set(without) else None
    return wait_until(owners, 60, f"{count} trainers outside {without}; there are {cluster.trainers()}")


def expect_untouched(cluster, name, undisturbed, generations):
    """The job ends as it would have, and nothing was done twice or counted as a failure."""
    job = cluster.wait_for_state(name, {"SUCCEEDED"})
    assert outputs(cluster, name) == undisturbed
    assert job.generation == generations and job.failures.infrastructure == 0 and job.usage.redone_slot_seconds == 0, job


def test_a_drained_worker_hands_on_its_gang_at_a_checkpoint(cluster, make_spec, undisturbed):
    pb2 = stubs("cluster_service_pb2")
    name = create(cluster, make_spec(epochs=EPOCHS))
    await_step(cluster, name, 20)
    leaving = await_owners(cluster, 2)[0]
    cluster.cluster.DrainWorker(pb2.DrainWorkerRequest(name=f"workers/{leaving}"))
    try:
        await_owners(cluster, 2, without=[leaving])
        expect_untouched(cluster, name, undisturbed, generations=2)
    finally:
        cluster.cluster.UndrainWorker(pb2.UndrainWorkerRequest(name=f"workers/{leaving}"))


def test_an_elastic_job_goes_on_with_fewer_slots_and_takes_them_back(cluster, make_spec, undisturbed):
    spec = make_spec(epochs=EPOCHS)
    spec.resources.min_slots, spec.resources.max_slots = 1, 2
    name = create(cluster, spec)
    await_step(cluster, name, 20)
    owners = await_owners(cluster, 2)
    # First the one that stands idle, so that there is nothing to move to.
    [idle] = {"w0", "w1", "w2"} - set(owners)
    gone = [int(idle[1:]), int(owners[1][1:])]
    for index in gone:
        assert cluster.workers[index].terminate(seconds=30) == 0
    await_step(cluster, name, cluster.get_job(name).progress.step + 5, generation=2)
    assert await_owners(cluster, 1) == [owners[0]]
    for index in gone:
        cluster.start_worker(index)
    await_owners(cluster, 2)
    expect_untouched(cluster, name, undisturbed, generations=3)
    cluster.wait_for_workers(3)


def test_a_higher_priority_takes_the_slots_at_a_step_boundary(cluster, make_spec, undisturbed):
    low, high = make_spec(epochs=EPOCHS), make_spec(max_steps=3)
    low.priority, high.priority = type(low).PRIORITY_LOW, type(low).PRIORITY_HIGH
    low = create(cluster, low)
    await_step(cluster, low, 20)
    high = create(cluster, high)
    urgent = cluster.wait_for_state(high, {"SUCCEEDED"})
    expect_untouched(cluster, low, undisturbed, generations=2)
    assert urgent.finish_time.ToNanoseconds() < cluster.get_job(low).finish_time.ToNanoseconds()


def test_finish_keeps_what_was_learned_so_far(cluster, make_spec, undisturbed):
    name = create(cluster, make_spec(epochs=EPOCHS))
    await_step(cluster, name, 20)
    act(cluster, "FinishJob", name)
    job = cluster.wait_for_state(name, {"SUCCEEDED"})
    _, ledger = outputs(cluster, name)
    assert ledger.count(b"\n") == job.progress.step >= 20 and job.progress.step < job.progress.total_steps
    assert undisturbed[1].startswith(ledger)


def test_a_job_that_reaches_its_limit_waits_and_another_carries_it_on(cluster, make_spec, undisturbed):
    spec = make_spec(epochs=EPOCHS)
    spec.limits.max_slot_seconds = 4
    parent = create(cluster, spec)
    stopped = cluster.wait_for_state(parent, {"PAUSED"})
    assert stopped.state_reason == "LIMIT_REACHED" and stopped.checkpoint_step == stopped.progress.step > 0, stopped
    act(cluster, "CancelJob", parent)
    cluster.wait_for_state(parent, {"CANCELLED"})
    spec.limits.Clear()
    child = create(cluster, spec, parent=parent)
    job = cluster.wait_for_state(child, {"SUCCEEDED"})
    assert job.parent == parent and outputs(cluster, child) == undisturbed
    trained = cluster.jobs.ListStepMetrics(
        stubs("fine_tuning_service_pb2").ListStepMetricsRequest(name=child, page_size=10_000)).steps
    assert trained[0].step == stopped.checkpoint_step + 1
