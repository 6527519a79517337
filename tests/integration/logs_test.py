"""One small job under --log-format json: every line of every program is one object, and a search by job or request finds them all."""

import json
import re
import subprocess

import grpc
import pytest
from mini_cluster import BIN_DIR, MiniCluster, stubs

REQUEST_ID = "logs-test.create_1"
ALWAYS = ["time", "level", "program", "source", "msg"]


@pytest.fixture(scope="module")
def logged(tmp_path_factory, tiny, make_spec):
    """(job id, {name of the log: its lines}) of one finished job, all programs ended, and what the client was told of its calls."""
    pb2 = stubs("fine_tuning_service_pb2")
    flags = ["--log-format", "json"]
    told = {}
    with MiniCluster(tmp_path_factory.mktemp("cluster"), workers=2, allowed_roots=[tiny], coordinator_flags=flags,
                     worker_flags=flags) as cluster:
        job, call = cluster.jobs.CreateJob.with_call(
            pb2.CreateJobRequest(spec=make_spec(epochs=1, display_name="a \"name\" = ümlaut"), request_id="idempotent"),
            metadata=[("x-request-id", REQUEST_ID)])
        told["create"] = dict(call.trailing_metadata())["x-request-id"]
        cluster.wait_for_state(job.name, {"SUCCEEDED"})
        with pytest.raises(grpc.RpcError) as refused:
            cluster.jobs.CancelJob(pb2.JobActionRequest(name="jobs/01hf7yat00abcdefghjkmnpqrs"))
        told["refused"] = dict(refused.value.trailing_metadata())["x-request-id"]
        told["command"] = subprocess.run(
            [BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file", cluster.folder / "credentials",
             "cancel", "jobs/01hf7yat00abcdefghjkmnpqrs"], capture_output=True, text=True)
        told["shown"] = subprocess.run(
            [BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file", cluster.folder / "credentials",
             "logs", job.name, "--rank", "1"], capture_output=True, text=True, check=True).stdout
    logs = cluster.storage / job.name / "logs"
    paths = [cluster.coordinator.log_path, *(worker.log_path for worker in cluster.workers), logs / "prepare.log",
             logs / "g1" / "rank0.log", logs / "g1" / "rank1.log"]
    told["audit"] = [json.loads(line) for line in (cluster.folder / "catalog" / "audit.log").read_text().splitlines()]
    return job.name.removeprefix("jobs/"), {path.stem: parse(path) for path in paths}, told


def parse(path):
    def members(pairs):
        assert len({name for name, _ in pairs}) == len(pairs), f"{path}: a name twice in {pairs}"
        return dict(pairs)
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        lines.append(json.loads(line, object_pairs_hook=members))
        assert list(lines[-1])[:len(ALWAYS)] == ALWAYS, line
        assert all(isinstance(value, str) for value in lines[-1].values()), line
    return lines


def about(lines, message):
    return [line for line in lines if line["msg"] == message]


def test_every_program_says_who_it_is(logged):
    _, logs, _ = logged
    assert {line["program"] for line in logs["coordinator"]} == {"coordinator"}
    for worker in ("worker0", "worker1"):
        assert {(line["program"], line["worker"]) for line in logs[worker]} == {
            ("keeper", f"w{worker[-1]}"), ("daemon", f"w{worker[-1]}")}
    assert {line["level"] for lines in logs.values() for line in lines} <= {"info", "warning"}, logs


def test_lines_about_the_job_carry_it(logged):
    job, logs, _ = logged
    [created] = about(logs["coordinator"], "job created")
    assert created["job"] == job and created["name"] == "a \"name\" = ümlaut"
    changes = about(logs["coordinator"], "job state changed")
    assert [line["to"] for line in changes][-1] == "SUCCEEDED" and {line["job"] for line in changes} == {job}
    for message in ("task started", "child started", "child ended", "task ended"):
        found = about(logs["worker0"] + logs["worker1"], message)
        assert {line["job"] for line in found} == {job}, found
        trained = [line for line in found if line["kind"] == "train"]
        assert sorted((line["generation"], line["rank"]) for line in trained) == [("1", "0"), ("1", "1")], found
        assert [line["attempt"] for line in found if line["kind"] == "prepare"] == ["1"], found
    for rank in (0, 1):
        lines = logs[f"rank{rank}"]
        assert about(lines, "loaded") and about(lines, "ended"), lines
        for line in lines:
            assert (line["program"], line["job"], line["generation"], line["rank"]) == ("trainer", job, "1", str(rank)), line
    assert [line["msg"] for line in logs["prepare"]] == ["preparing", "prepared"], logs["prepare"]
    for line in logs["prepare"]:
        assert (line["program"], line["job"], line["kind"]) == ("prepare", job, "prepare"), line


def test_the_clients_request_id_comes_back_and_stands_in_the_logs(logged):
    job, logs, told = logged
    assert told["create"] == REQUEST_ID
    [created] = about(logs["coordinator"], "job created")
    assert created["request_id"] == REQUEST_ID
    assert [line["request_id"] for line in told["audit"] if line["resource"] == f"jobs/{job}"] == [REQUEST_ID]


def test_an_error_names_the_request_for_whom_to_ask(logged):
    _, _, told = logged
    refused = [line["request_id"] for line in told["audit"] if line["code"] == "NOT_FOUND"]
    assert refused[0] == told["refused"] and len(refused) == 2
    assert re.search(r"^request (\w{26})$", told["command"].stderr, re.M)[1] == refused[1], told["command"].stderr
    assert told["command"].returncode == 2


def test_anneal_logs_shows_the_lines_as_they_are(logged):
    _, logs, told = logged
    assert [json.loads(line)["msg"] for line in told["shown"].splitlines()] == [line["msg"] for line in logs["rank1"]]
