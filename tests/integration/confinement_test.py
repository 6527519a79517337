"""A path is read where it was allowed: whoever puts a link or a pipe there afterwards gets a clear error and no foreign byte."""

import os
import shutil

import pytest

from mini_cluster import MiniCluster, stubs, wait_until

CANARY = "canary-of-a-foreign-file"


@pytest.fixture
def shared(tmp_path, tiny):
    """A folder that users may write to: a model and data."""
    folder = tmp_path / "shared"
    shutil.copytree(tiny, folder)
    (tmp_path / "foreign").write_text(f'{{"text": "{CANARY}"}}\n' * 100)
    return folder


@pytest.fixture
def cluster(tmp_path, shared):
    """Without a worker: what is created waits, so that files can be changed before they are read."""
    (tmp_path / "cluster").mkdir()
    with MiniCluster(tmp_path / "cluster", workers=0, allowed_roots=[shared]) as cluster:
        yield cluster


def create(cluster, shared, make_spec, data, merged=False, hold=False, **training):
    spec = make_spec(slots=1, **training)
    spec.output.merged = merged
    spec.model = f"file://{shared}/model"
    del spec.data.train[:], spec.data.validation.files[:]
    spec.data.train.append(f"file://{data}")
    spec.data.validation.files.append(f"file://{shared}/validation.jsonl")
    return cluster.jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(
        spec=spec, hold_after_validation=hold)).name


def everything_said(cluster, name):
    events = cluster.jobs.ListJobEvents(
        stubs("fine_tuning_service_pb2").ListJobEventsRequest(name=name, page_size=1000)).events
    logs = "".join(path.read_text() for path in (cluster.storage / name / "logs").rglob("*.log"))
    return f"{cluster.get_job(name)}{events}{logs}{cluster.logs()}"


def test_what_took_a_data_files_place_is_not_read(cluster, shared, make_spec, tmp_path):
    (shared / "deep").mkdir()
    for name in ("link", "deep/link", "pipe", "good"):
        shutil.copy(shared / "train.jsonl", shared / f"{name}.jsonl")
    (shared / "alias.jsonl").symlink_to("good.jsonl")
    link = create(cluster, shared, make_spec, shared / "link.jsonl", hold=True)
    deep = create(cluster, shared, make_spec, shared / "deep" / "link.jsonl", hold=True)
    pipe = create(cluster, shared, make_spec, shared / "pipe.jsonl", hold=True)
    good = create(cluster, shared, make_spec, shared / "alias.jsonl", hold=True)

    (shared / "link.jsonl").unlink()
    (shared / "link.jsonl").symlink_to(tmp_path / "foreign")
    shutil.rmtree(shared / "deep")
    (tmp_path / "foreign folder").mkdir()
    shutil.copy(tmp_path / "foreign", tmp_path / "foreign folder" / "link.jsonl")
    (shared / "deep").symlink_to(tmp_path / "foreign folder")
    (shared / "pipe.jsonl").unlink()
    os.mkfifo(shared / "pipe.jsonl")
    cluster.worker_flags = ("--spares=false",)  # nothing is trained
    cluster.start_worker(0)

    for name, file, why in ((link, "link.jsonl", "a symbolic link stands on this path"),
                            (deep, "deep/link.jsonl", "a symbolic link stands on this path"),
                            (pipe, "pipe.jsonl", "is not a regular file")):
        job = cluster.wait_for_state(name, {"FAILED"})
        assert f"{shared}/{file}" in job.error.message and why in job.error.message, job.error
        assert CANARY not in everything_said(cluster, name)
    # The slot for preparation is free again, and links that stay inside go on working.
    cluster.wait_for_state(good, {"VALIDATED"})


def test_what_took_a_model_files_place_is_not_exported(cluster, shared, make_spec, tmp_path):
    (shared / "model" / "vocab.json").write_text("{}")
    cluster.start_worker(0)
    name = create(cluster, shared, make_spec, shared / "train.jsonl", merged=True, epochs=60)
    wait_until(lambda: cluster.get_job(name).progress.step >= 1, 120, "the first step")
    (shared / "model" / "vocab.json").unlink()
    (shared / "model" / "vocab.json").symlink_to(tmp_path / "foreign")
    job = cluster.wait_for_state(name, {"FAILED"}, seconds=300)
    assert job.state_reason == "MODEL_CHANGED" and "has changed since the job was created" in job.error.message, job.error
    assert CANARY not in everything_said(cluster, name)
    for path in cluster.storage.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
