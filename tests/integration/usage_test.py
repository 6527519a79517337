"""Who has used how much, with real processes: `anneal usage` by project and user, for jobs that live, have ended and are gone."""

import csv
import io
import json
import subprocess

import grpc
import pytest
from mini_cluster import BIN_DIR, KEY, MiniCluster, stubs, wait_until

EVE = "eve-key-0123456789abcdef"
SECONDS = ["useful_slot_seconds", "redone_slot_seconds", "lost_slot_seconds", "idle_slot_seconds"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, tiny):
    """Two slots; the tester of project "default" is an admin, eve of project "speech" is not."""
    cluster = MiniCluster(tmp_path_factory.mktemp("cluster"), workers=1, slots_per_worker=2, allowed_roots=[tiny])
    with open(cluster.folder / "credentials", "a") as credentials:
        credentials.write(f"{EVE} speech eve user\n")
    with cluster:
        yield cluster


def services(cluster, key):
    channel = cluster.connect(key)
    return (stubs("fine_tuning_service_pb2_grpc").FineTuningServiceStub(channel),
            stubs("cluster_service_pb2_grpc").ClusterServiceStub(channel))


def create(jobs, spec):
    return jobs.CreateJob(stubs("fine_tuning_service_pb2").CreateJobRequest(spec=spec)).name


def await_state(jobs, name, state):
    pb2 = stubs("job_pb2")

    def reached():
        job = jobs.GetJob(stubs("fine_tuning_service_pb2").GetJobRequest(name=name))
        now = pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
        assert now == state or now not in {"SUCCEEDED", "FAILED", "CANCELLED"}, job
        return job if now == state else None
    return wait_until(reached, 120, f"{name} to be {state}")


def list_usage(service, **more):
    return list(service.ListUsage(stubs("cluster_service_pb2").ListUsageRequest(page_size=1000, **more)).usage)


def booked(rows, project):
    """Seconds by kind, of one project."""
    return {kind: sum(getattr(row, kind) for row in rows if row.project == project) for kind in SECONDS}


def anneal_usage(cluster, key, *arguments):
    who = {KEY: "default tester admin", EVE: "speech eve user"}[key]
    credentials = cluster.folder / f"{key}.credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(f"{key} {who}\n")
    return subprocess.run([BIN_DIR / "anneal", "usage", "--server", cluster.coordinator_ports["api"], "--api-key-file", credentials,
                           *arguments], capture_output=True, text=True, timeout=60)


def parse_csv(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_usage_by_project_and_user_outlives_jobs_and_coordinators(cluster, make_spec):
    mine, admin = services(cluster, KEY)
    hers, viewer = services(cluster, EVE)
    one, other = create(mine, make_spec(slots=1)), create(hers, make_spec(slots=1))
    done = {"default": await_state(mine, one, "SUCCEEDED"), "speech": await_state(hers, other, "SUCCEEDED")}

    rows = list_usage(admin, all_projects=True)
    for project, job in done.items():
        usage, sums = job.usage, booked(rows, project)
        assert usage.idle_slot_seconds > 0 and usage.slot_seconds > usage.idle_slot_seconds, usage
        assert sums["useful_slot_seconds"] > 0 and sums["lost_slot_seconds"] == 0, sums
        assert sum(sums.values()) == pytest.approx(usage.slot_seconds, abs=1e-3)
        assert sums["idle_slot_seconds"] == pytest.approx(usage.idle_slot_seconds, abs=1e-3)
        # From the slots' assignment to the job's end.
        held = (job.finish_time.ToMicroseconds() - job.start_time.ToMicroseconds()) / 1e6
        assert usage.slot_seconds == pytest.approx(held, abs=1e-3)
    assert {(row.project, row.creator) for row in rows} == {("", ""), ("default", "tester"), ("speech", "eve")}
    assert sum(row.free_slot_seconds for row in rows if not row.project) > 0

    assert {row.project for row in list_usage(viewer)} == {"speech"}
    assert {row.project for row in list_usage(admin)} == {"default"}
    with pytest.raises(grpc.RpcError) as refused:
        list_usage(viewer, all_projects=True)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED

    mine.DeleteJob(stubs("fine_tuning_service_pb2").DeleteJobRequest(name=one))
    cluster.coordinator.terminate()
    cluster.start_coordinator()
    cluster.wait_for_workers(1)
    _, admin = services(cluster, KEY)
    again = list_usage(admin, all_projects=True)
    for project in done:
        assert booked(again, project) == booked(rows, project)


def test_the_command_prints_tables_csv_and_json(cluster, make_spec):
    hers, viewer = services(cluster, EVE)
    await_state(hers, create(hers, make_spec(slots=1)), "SUCCEEDED")
    sums = booked(list_usage(viewer), "speech")

    printed = anneal_usage(cluster, EVE, "--output", "csv")
    assert printed.returncode == 0, printed.stderr
    [row] = parse_csv(printed.stdout)
    assert (row["project"], row["user"], row["accelerator"]) == ("speech", "eve", "CPU")
    for kind in SECONDS:
        assert float(row[kind]) == pytest.approx(sums[kind], abs=0.06)
    assert float(row["idle_slot_seconds"]) > 0

    everybody = anneal_usage(cluster, KEY, "--all-projects", "--output", "csv", "--days", "2")
    assert everybody.returncode == 0, everybody.stderr
    rows = parse_csv(everybody.stdout)
    assert rows[-1]["project"] == rows[-1]["user"] == "" and float(rows[-1]["free_slot_seconds"]) > 0
    assert "speech" in {row["project"] for row in rows}
    assert anneal_usage(cluster, EVE, "--all-projects").returncode == 5

    by_day = json.loads(anneal_usage(cluster, EVE, "--by", "day", "-o", "json").stdout)
    assert by_day["usage"][0]["day"] == list_usage(viewer)[0].day and by_day["usage"][0]["creator"] == ""
    assert by_day["total"][0]["useful_slot_seconds"] == pytest.approx(sums["useful_slot_seconds"])
    for wrong, said in ((("--from", "2026-13-01"), "--from: '2026-13-01' is not a day"),
                        (("--from", "2026-11-02", "--to", "2026-11-01"), "--to 2026-11-01 is before --from 2026-11-02")):
        refused = anneal_usage(cluster, EVE, *wrong)
        assert refused.returncode == 2 and refused.stderr.count(said) == 1, refused
    table = anneal_usage(cluster, EVE, "--from", list_usage(viewer)[0].day).stdout
    assert "USEFUL" in table and "eve" in table and "%" in table and "total" in table, table


def test_a_live_attempt_is_shown_and_a_cancelled_job_is_lost(cluster, make_spec):
    hers, viewer = services(cluster, EVE)
    before = booked(list_usage(viewer), "speech")
    name = create(hers, make_spec(slots=1, epochs=1000))
    get = stubs("fine_tuning_service_pb2").GetJobRequest(name=name)
    await_state(hers, name, "RUNNING")
    first = wait_until(lambda: hers.GetJob(get).usage.slot_seconds, 60, "slot time of a live job")
    wait_until(lambda: hers.GetJob(get).usage.slot_seconds > first, 60, "more slot time of a live job")
    hers.CancelJob(stubs("fine_tuning_service_pb2").JobActionRequest(name=name))
    job = await_state(hers, name, "CANCELLED")
    after = booked(list_usage(viewer), "speech")
    assert job.usage.lost_slot_seconds > 0
    assert after["lost_slot_seconds"] - before["lost_slot_seconds"] == pytest.approx(job.usage.lost_slot_seconds, abs=1e-3)
    assert after["useful_slot_seconds"] == pytest.approx(before["useful_slot_seconds"], abs=1e-3)
