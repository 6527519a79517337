"""Measures what checkpoints cost; run by tools/bench/checkpoint_stall, whose --help says what."""

import os
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from mini_cluster import MiniCluster, stubs, wait_until

WORKERS = 2


def make_spec(method, every, model, data):
    pb2 = stubs("job_pb2")
    methods = {"lora": pb2.Method(lora=pb2.LoraMethod(rank=16, alpha=32)), "full": pb2.Method(full=pb2.FullMethod())}
    return pb2.JobSpec(
        display_name=f"checkpoints-{method}", model=f"file://{model}", method=methods[method],
        data=pb2.DataSpec(train=[f"file://{data}/train.jsonl"], validation=pb2.ValidationSpec(fraction=0)),
        training=pb2.TrainingSpec(epochs=1000, batch_size=16, seed=7),  # until it is cancelled
        checkpoint=pb2.CheckpointSpec(every=Duration(seconds=every), keep_last=1),
        resources=pb2.ResourceSpec(slots=WORKERS, accelerator=pb2.ResourceSpec.ACCELERATOR_CPU))


def stall_by_rank(cluster, name):
    """Seconds for which each rank's steps have stood still, from the workers' metrics."""
    wanted = f'job_id="{name.removeprefix("jobs/")}"'
    stalls = {}
    for worker in cluster.workers:
        page = urllib.request.urlopen(f"http://{worker.addresses()['admin']}/metrics").read().decode()
        for labels, value in re.findall(r"^anneal_rank_checkpoint_stall_seconds_total{(.*)} (\S+)$", page, re.MULTILINE):
            if wanted in labels:
                stalls[re.search(r'rank="(\d+)"', labels).group(1)] = float(value)
    return stalls


def written(cluster, name):
    request = stubs("fine_tuning_service_pb2").ListJobEventsRequest(name=name, page_size=1000)
    return [event.checkpoint for event in cluster.jobs.ListJobEvents(request).events
            if event.WhichOneof("detail") == "checkpoint"]


def measure(cluster, spec, count, every):
    pb2 = stubs("fine_tuning_service_pb2")
    name = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec)).name
    checkpoints = []

    def is_done():
        assert cluster.get_job(name).state < stubs("job_pb2").JOB_STATE_EXPORTING, cluster.logs()
        for checkpoint in written(cluster, name)[len(checkpoints):]:
            checkpoints.append(checkpoint)
            print(f"{spec.display_name:17}  step {checkpoint.step:5}  {checkpoint.size_bytes / 2**20:7,.0f} MiB   "
                  f"written in {checkpoint.write_seconds:6.2f} s   rank 0 stalled {checkpoint.stall_seconds:6.3f} s", flush=True)
        return len(checkpoints) >= count and len(stall_by_rank(cluster, name)) == WORKERS
    wait_until(is_done, 600 + 3 * count * every, f"{count} checkpoints")

    stall = max(stall_by_rank(cluster, name).values())
    steps = cluster.jobs.ListStepMetrics(pb2.ListStepMetricsRequest(name=name, page_size=10_000)).steps
    trained = sum(step.step_seconds for step in steps)
    longest = max(checkpoint.stall_seconds for checkpoint in checkpoints)
    print(f"{spec.display_name:17}  {len(steps)} steps in {trained:.0f} s; the slower rank stalled {stall:.3f} s: "
          f"{stall / (trained + stall):.3%} of the time; the longest, of one in {every} s: {longest / every:.3%}", flush=True)
    cluster.jobs.CancelJob(pb2.JobActionRequest(name=name))
    cluster.wait_for_state(name, {"CANCELLED"})


def main(methods, count, every, model, data):
    with tempfile.TemporaryDirectory(prefix="anneal-bench-") as folder, \
            MiniCluster(folder, workers=WORKERS, allowed_roots=[model, data]) as cluster:
        for method in methods.split(","):
            measure(cluster, make_spec(method, every, model, data), count, every)
    print(f"measured on {os.cpu_count()} cores")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
