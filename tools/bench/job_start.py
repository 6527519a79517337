"""Measures the start of a job; run by tools/bench/job_start, whose --help says what."""

import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from mini_cluster import MiniCluster, stubs, wait_until


def make_spec(model, data, display_name):
    pb2 = stubs("job_pb2")
    return pb2.JobSpec(
        display_name=display_name, model=f"file://{model}",
        method=pb2.Method(lora=pb2.LoraMethod(rank=16, alpha=32)),
        data=pb2.DataSpec(train=[f"file://{data}/train.jsonl"],
                          validation=pb2.ValidationSpec(fraction=0)),
        training=pb2.TrainingSpec(max_steps=2, batch_size=16, learning_rate=2e-4, seed=7),
        resources=pb2.ResourceSpec(slots=2, accelerator=pb2.ResourceSpec.ACCELERATOR_CPU))


def load_seconds(cluster, job):
    """The slowest rank's, from the workers' metrics."""
    wanted = {"job_id": job.name.removeprefix("jobs/"), "phase": "load"}
    slowest = 0.0
    for worker in cluster.workers:
        page = urllib.request.urlopen(f"http://{worker.addresses()['admin']}/metrics").read().decode()
        for labels, value in re.findall(r"^anneal_rank_step_seconds_total{(.*)} (\S+)$", page, re.MULTILINE):
            if wanted.items() <= dict(re.findall(r'(\w+)="(.*?)"', labels)).items():
                slowest = max(slowest, float(value))
    assert slowest > 0, "no rank has said how long it loaded"
    return slowest


def run_once(cluster, spec):
    """(seconds from CreateJob to the first step's begin, the slowest rank's load, largest resident bytes of a trainer)"""
    pb2 = stubs("fine_tuning_service_pb2")
    largest = 0
    submitted = time.time()
    job = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec))

    def ended():
        nonlocal largest
        for process in cluster.trainer_processes():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
            largest = max(largest, int(peak.split()[1]) * 1024 if peak else 0)
        return cluster.get_job(job.name).state == stubs("job_pb2").JOB_STATE_SUCCEEDED
    wait_until(ended, 600, f"{job.name} to succeed")
    (first,) = [s for s in cluster.jobs.ListStepMetrics(pb2.ListStepMetricsRequest(name=job.name, page_size=10)).steps
                if s.step == 1]
    began = first.time.seconds + first.time.nanos / 1e9 - first.step_seconds
    return began - submitted, load_seconds(cluster, job), largest


def main(runs, model, data):
    with tempfile.TemporaryDirectory(prefix="anneal-bench-") as folder, \
            MiniCluster(folder, workers=2, allowed_roots=[model, data]) as cluster:
        at_rest = psutil.Process(cluster.coordinator.popen.pid).memory_info().rss
        run_once(cluster, make_spec(model, data, "prepares the data"))
        measured = [run_once(cluster, make_spec(model, data, f"run {i}")) for i in range(runs)]
    for ready, load, _ in measured:
        print(f"ready {ready:6.2f} s   load {load:6.2f} s   overhead {ready - load:6.2f} s")
    print(f"median overhead          {statistics.median(ready - load for ready, load, _ in measured):.2f} s")
    print(f"trainer, largest         {max(peak for *_, peak in measured) / 2**20:.0f} MiB resident")
    print(f"coordinator at rest      {at_rest / 2**20:.0f} MiB resident")
    print(f"measured on {os.cpu_count()} cores")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
