"""Faults at random against a small cluster; run by tools/chaos, whose --help says what it does."""

import hashlib
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import hang
import psutil
import tiny_model
from google.protobuf.duration_pb2 import Duration
from mini_cluster import MiniCluster, daemons_of, stubs, wait_until

WORKERS = 2
EPOCHS = 60  # of 6 steps each
PATIENCE = 120  # seconds, for anything
HANG = "hang trainer"
FAULTS_PER_HANG = 25  # each takes ten seconds
# What the job's event must say of a trainer that stood still, beside rank and worker: phase, step, collective and its number.
WHERE = r"in \w+(, | of )step \d+.*(inside|after) collective \d+ '.+'"


@dataclass
class Fault:
    kind: str
    noticed: float | None  # seconds; None where nothing is to be noticed
    recovered: float | None  # None if the job ended first
    where: str | None = None  # what the job's event says of a trainer that stood still


def make_spec(folder):
    pb2 = stubs("job_pb2")
    return pb2.JobSpec(
        display_name="chaos", model=f"file://{folder}/model", method=pb2.Method(lora=pb2.LoraMethod(rank=4, alpha=8)),
        data=pb2.DataSpec(train=[f"file://{folder}/train.jsonl"], validation=pb2.ValidationSpec(fraction=0), max_length=128),
        training=pb2.TrainingSpec(epochs=EPOCHS, batch_size=16, learning_rate=5e-3, seed=7),
        checkpoint=pb2.CheckpointSpec(every=Duration(seconds=1)),
        retry=pb2.RetrySpec(max_infrastructure_failures=1000),
        resources=pb2.ResourceSpec(slots=WORKERS, accelerator=pb2.ResourceSpec.ACCELERATOR_CPU))


class Chaos:
    def __init__(self, cluster, seed):
        self.cluster = cluster
        self.random = random.Random(seed)
        self.kinds = []  # of the faults to come
        self.victim = None  # worker of the trainer that was struck last
        self.pb2 = stubs("fine_tuning_service_pb2")
        self.states = stubs("job_pb2").JobState

    # ---- What the job says. ----

    def create(self, spec):
        return self.cluster.jobs.CreateJob(self.pb2.CreateJobRequest(spec=spec), wait_for_ready=True, timeout=PATIENCE).name

    def state(self, job):
        return self.states.Name(job.state).removeprefix("JOB_STATE_")

    def get(self, name):
        job = self.cluster.get_job(name)
        assert self.state(job) not in ("FAILED", "CANCELLED"), f"{job}\n{self.cluster.logs()}"
        return job

    def await_training(self, name, since, generation):
        """Waits for optimizer steps that ended after `since`, in `generation` or a newer one; returns when the first of them ended,
        or None if the job has."""
        request = self.pb2.ListStepMetricsRequest(name=name, page_size=10_000)

        def trained():
            if self.state(self.get(name)) in ("EXPORTING", "SUCCEEDED"):
                return -1
            steps = self.cluster.jobs.ListStepMetrics(request, wait_for_ready=True, timeout=PATIENCE).steps
            ends = [step.time.ToNanoseconds() / 1e9 for step in steps if step.generation >= generation]
            return min((end for end in ends if end > since), default=0)
        ended = wait_until(trained, PATIENCE, f"{name} to train again")
        return None if ended < 0 else ended

    def end_of_attempt(self, name, generation):
        """The first of the job's events that tells of the end of `generation`; None if there is none."""
        events = self.cluster.jobs.ListJobEvents(self.pb2.ListJobEventsRequest(name=name, page_size=1000)).events
        ends = [event for event in events
                if event.WhichOneof("detail") == "attempt_end" and event.attempt_end.generation == generation]
        return ends[0] if ends else None

    # ---- Faults: each returns whether a new generation must follow. ----

    def any_trainer(self):
        trainers = self.cluster.trainers()
        if not trainers:
            return None
        self.victim, trainer = self.random.choice(sorted(trainers, key=lambda found: found[1].cmdline()))
        return trainer

    def signal_trainer(self, number):
        trainer = self.any_trainer()
        if trainer is None:
            return False
        trainer.send_signal(number)
        return True

    def kill_trainer(self, name):
        return self.signal_trainer(signal.SIGKILL)

    def stop_trainer(self, name):
        return self.signal_trainer(signal.SIGSTOP)

    def hang_trainer(self, name):
        trainer = self.any_trainer()
        if trainer is None:
            return False
        hang.hang_thread(trainer.pid)  # the main thread, which trains
        return True

    def kill_daemon(self, name):
        for daemon in daemons_of(self.random.choice(self.cluster.workers).popen.pid):
            daemon.kill()
        return False

    def kill_keeper(self, name):
        index = self.random.randrange(WORKERS)
        worker = self.cluster.workers[index]
        worker.kill()
        worker.start()
        return True

    def kill_coordinator(self, name):
        self.cluster.coordinator.kill()
        self.cluster.start_coordinator()
        return False

    def pause_and_resume(self, name):
        request = self.pb2.JobActionRequest(name=name)
        self.cluster.jobs.PauseJob(request)
        wait_until(lambda: self.state(self.get(name)) in ("PAUSED", "EXPORTING", "SUCCEEDED"), PATIENCE, f"{name} to pause")
        if self.state(self.get(name)) != "PAUSED":
            return False
        request.slots = self.random.choice([1, 2])
        self.cluster.jobs.ResumeJob(request)
        return True

    FAULTS = {"kill trainer": (kill_trainer, 10), "stop trainer": (stop_trainer, 2), "kill daemon": (kill_daemon, 3),
              "kill keeper": (kill_keeper, 2), "kill coordinator": (kill_coordinator, 3), "pause, resume": (pause_and_resume, 2),
              HANG: (hang_trainer, 0)}  # kind: (how, how often)

    def draw_kinds(self, faults, hangs):
        self.kinds = self.random.choices(list(self.FAULTS), [weight for _, weight in self.FAULTS.values()], k=faults)
        for first in range(0, max(1, faults - FAULTS_PER_HANG + 1) if hangs else 0, FAULTS_PER_HANG):
            self.kinds[first + self.random.randrange(min(FAULTS_PER_HANG, faults))] = HANG

    def take_kind(self, job):
        """Of the next fault; None if those that are left have to wait for another job."""
        # What comes after the last step has no pace by which a hang would show.
        nearly_done = job.progress.step > job.progress.total_steps * 2 / 3
        fitting = [i for i, kind in enumerate(self.kinds) if not (nearly_done and kind == HANG)]
        return self.kinds.pop(fitting[0]) if fitting else None

    def check_where(self, kind, end):
        """The event's words, if it is to name the trainer that was struck and where it stood still."""
        if end is None or kind not in (HANG, "stop trainer"):
            return None
        assert end.attempt_end.worker == self.victim and re.search(WHERE, end.message), f"{self.victim}: {end}"
        return end.message

    def strike(self, name):
        """One fault in a job that trains; None if it can do without those that are left."""
        job = self.get(name)
        kind = self.take_kind(job)
        if kind is None:
            return None
        since = time.time()
        replaced = self.FAULTS[kind][0](self, name)
        ended = self.await_training(name, since, job.generation + replaced)
        end = self.end_of_attempt(name, job.generation) if replaced and kind != "pause, resume" else None
        return Fault(kind, noticed=None if end is None else end.time.ToNanoseconds() / 1e9 - since,
                     recovered=None if ended is None else ended - since, where=self.check_where(kind, end))

    def torment(self, name):
        """Strikes until no fault is left or the job has ended."""
        done = []
        while self.kinds and self.await_training(name, time.time(), 0) is not None:
            time.sleep(self.random.uniform(0.1, 0.8))
            if self.state(self.get(name)) in ("EXPORTING", "SUCCEEDED"):
                break
            fault = self.strike(name)
            if fault is None:
                break
            done.append(fault)
            times = " ".join(f"{what} {value:5.2f} s" for what, value in
                             (("noticed", fault.noticed), ("recovered", fault.recovered)) if value is not None)
            print(f"{name} generation {self.get(name).generation:3} step {self.get(name).progress.step:4}  {fault.kind:16} {times}",
                  flush=True)
            if fault.where:
                print(f"  {fault.where}", flush=True)
        self.cluster.wait_for_state(name, {"SUCCEEDED"}, PATIENCE)
        return done

    def digests(self, name):
        folder = self.cluster.output_dir(name)
        return [hashlib.sha256((folder / file).read_bytes()).hexdigest()
                for file in ("adapter/adapter_model.safetensors", "ledger.jsonl")]


def summarise(faults):
    for kind in sorted({fault.kind for fault in faults}):
        print(f"{kind:16} {sum(fault.kind == kind for fault in faults):3} times", end="")
        for what in ("noticed", "recovered"):
            values = [getattr(fault, what) for fault in faults if fault.kind == kind and getattr(fault, what) is not None]
            if values:
                print(f"   {what}: median {statistics.median(values):.2f} s, longest {max(values):.2f} s", end="")
        print()


def run(folder, faults, seed, spares=True, only=None):
    """Returns the faults; asserts that every job has ended as the undisturbed one. `only`: the one kind that strikes."""
    refused = hang.why_refused()
    if refused:
        print(f"no trainer is made to hang: this machine refuses it ({refused})")
        assert only != HANG, refused
    folder = Path(folder)
    tiny_model.make_llama(folder / "model")
    tiny_model.write_chat_rows(folder / "train.jsonl", 96, seed=1)
    (folder / "cluster").mkdir()
    with MiniCluster(folder / "cluster", workers=WORKERS, allowed_roots=[folder],
                     worker_flags=[f"--spares={str(spares).lower()}"]) as cluster:
        chaos = Chaos(cluster, seed)
        if only is None:
            chaos.draw_kinds(faults, hangs=not refused)
        else:
            chaos.kinds = [only] * faults
        reference = chaos.create(make_spec(folder))
        cluster.wait_for_state(reference, {"SUCCEEDED"})
        expected = chaos.digests(reference)
        done = []
        while chaos.kinds:
            name = chaos.create(make_spec(folder))
            done += chaos.torment(name)
            assert chaos.digests(name) == expected, f"{name} has ended otherwise than undisturbed: seed {seed}\n{cluster.logs()}"
    summarise(done)
    return done


def main(faults, seed, spares, only):
    if only is not None and only not in Chaos.FAULTS:
        sys.exit(f"no fault '{only}': {', '.join(Chaos.FAULTS)}")
    with tempfile.TemporaryDirectory(prefix="anneal-chaos-") as folder:
        run(folder, faults, seed, spares, only)
    print(f"{faults} faults, seed {seed}: every job ended with the bytes of the undisturbed one; {os.cpu_count()} cores")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "true", sys.argv[4] or None)
