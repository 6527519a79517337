"""A whole service of real processes in a temporary folder: one coordinator, some workers, ports chosen by the system.

    with MiniCluster(tmp_path, workers=2) as cluster:
        job = cluster.jobs.CreateJob(...)

Programs are found through ANNEAL_BIN_DIR. Stubs are made from proto/ by grpcio-tools when first needed. Everything the cluster
starts ends with it, and `close` fails if a process stays behind.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import psutil

SOURCE_DIR = Path(os.environ["ANNEAL_SOURCE_DIR"])
BIN_DIR = Path(os.environ["ANNEAL_BIN_DIR"])
KEY = "test-key-0123456789abcdef"
_stub_folder = None


def stubs(name):
    """The module anneal.v1.<name>, generated from proto/ on first use."""
    global _stub_folder
    if _stub_folder is None:
        from grpc_tools import protoc
        import grpc_tools
        _stub_folder = tempfile.TemporaryDirectory(prefix="anneal-stubs-")
        site = Path(grpc_tools.__file__).parent.parent
        protos = [str(p.relative_to(SOURCE_DIR / "proto")) for p in (SOURCE_DIR / "proto" / "anneal").rglob("*.proto")]
        code = protoc.main(["protoc", f"-I{SOURCE_DIR / 'proto'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                            f"-I{site}", f"--python_out={_stub_folder.name}", f"--grpc_python_out={_stub_folder.name}", *protos])
        assert code == 0, "protoc failed"
        sys.path.insert(0, _stub_folder.name)
    return importlib.import_module(f"anneal.v1.{name}")


def wait_until(condition, seconds, what):
    """Polls until `condition()` is true and returns its value; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"timed out after {seconds} s waiting for {what}"
        time.sleep(0.05)


class Process:
    """One program, its log and its address file."""

    def __init__(self, name, folder, command):
        self.name, self.command = name, [str(c) for c in command]
        self.log_path = folder / f"{name}.log"
        self.address_file = folder / f"{name}.addresses.json"
        self.popen = None

    def start(self):
        self.address_file.unlink(missing_ok=True)
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(
                [*self.command, "--address-file", str(self.address_file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)

    def addresses(self, seconds=60):
        def ready():
            assert self.popen.poll() is None, f"{self.name} ended with {self.popen.returncode}:\n{self.log_tail()}"
            return self.address_file.exists()
        wait_until(ready, seconds, f"{self.name}'s addresses")
        return json.loads(self.address_file.read_text())

    def log_tail(self):
        return self.log_path.read_text(errors="replace")[-4000:] if self.log_path.exists() else ""

    def kill(self):
        self.popen.kill()
        self.popen.wait()

    def terminate(self, seconds=30):
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=seconds)


def daemons_of(keeper_pid):
    """The child processes of a worker's keeper that are daemons: not spare trainers, not those just forked or just dead."""
    found = []
    for child in psutil.Process(keeper_pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie's command line, too
            if child.cmdline()[1:2] == ["daemon"]:
                found.append(child)
    return found


class MiniCluster:
    def __init__(self, folder, workers=2, slots_per_worker=1, threads_per_slot=1, allowed_roots=(), coordinator_flags=(),
                 worker_flags=()):
        self.folder = Path(folder)
        self.storage = self.folder / "storage"
        # Unix socket paths are short: run folders lie in their own short folder.
        self.short = tempfile.TemporaryDirectory(prefix="an-")
        self.allowed_roots = [self.folder, *allowed_roots]
        (self.folder / "credentials").write_text(f"{KEY} default tester admin\n")
        os.chmod(self.folder / "credentials", 0o600)
        self.coordinator_ports = {}
        self.coordinator = None
        self.worker_count, self.slots, self.threads = workers, slots_per_worker, threads_per_slot
        self.coordinator_flags, self.worker_flags = coordinator_flags, worker_flags
        self.workers = []
        self.channel = None

    def __enter__(self):
        try:
            self.start_coordinator()
            for index in range(self.worker_count):
                self.start_worker(index)
            self.wait_for_workers(self.worker_count)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close()

    def start_coordinator(self):
        """Starts it, or starts it again on the same ports, so that workers and clients find it."""
        ports = self.coordinator_ports
        self.coordinator = Process("coordinator", self.folder, [
            BIN_DIR / "anneal-coordinator", "--listen", ports.get("api", "127.0.0.1:0"),
            "--fleet-listen", ports.get("fleet", "127.0.0.1:0"), "--admin-listen", ports.get("admin", "127.0.0.1:0"),
            "--data-dir", self.folder / "catalog", "--storage-root", self.storage,
            "--credentials-file", self.folder / "credentials",
            *(argument for root in self.allowed_roots for argument in ("--allowed-root", root)), *self.coordinator_flags])
        self.coordinator.start()
        self.coordinator_ports = self.coordinator.addresses()
        if self.channel is not None:
            self.channel.close()
        self.channel = self.connect()

    def connect(self, key=KEY):
        call_credentials = _BearerKey(key)
        return grpc.intercept_channel(grpc.insecure_channel(self.coordinator_ports["api"]), call_credentials)

    def start_worker(self, index, coordinator=None, state=None):
        """`coordinator`: "host:port" of its fleet service, if not where it listens itself. `state`: name of its state folder, if not
        the worker's."""
        worker = Process(state or f"worker{index}", self.folder, [
            BIN_DIR / "anneal-worker", "--coordinator", coordinator or self.coordinator_ports["fleet"], "--name", f"w{index}",
            "--state-dir", Path(self.short.name) / (state or f"w{index}"), "--storage-root", self.storage, "--cpu-slots", self.slots,
            "--threads-per-slot", self.threads, "--prepare-slots", 1, "--data-address", "127.0.0.1",
            "--admin-listen", "127.0.0.1:0", "--credentials-file", self.folder / "credentials", *self.worker_flags])
        worker.start()
        self.workers[index:index + 1] = [worker]

    @property
    def jobs(self):
        return stubs("fine_tuning_service_pb2_grpc").FineTuningServiceStub(self.channel)

    @property
    def files(self):
        return stubs("file_service_pb2_grpc").FileServiceStub(self.channel)

    @property
    def artifacts(self):
        return stubs("artifact_service_pb2_grpc").ArtifactServiceStub(self.channel)

    @property
    def models(self):
        return stubs("model_service_pb2_grpc").ModelServiceStub(self.channel)

    @property
    def cluster(self):
        return stubs("cluster_service_pb2_grpc").ClusterServiceStub(self.channel)

    def get_ready_workers(self):
        pb2 = stubs("cluster_service_pb2")
        listed = self.cluster.ListWorkers(pb2.ListWorkersRequest(), wait_for_ready=True, timeout=30).workers
        return [w for w in listed if w.state == pb2.Worker.STATE_READY]

    def wait_for_workers(self, count, seconds=60):
        wait_until(lambda: len(self.get_ready_workers()) >= count, seconds, f"{count} workers")

    def get_job(self, name):
        return self.jobs.GetJob(stubs("fine_tuning_service_pb2").GetJobRequest(name=name), wait_for_ready=True, timeout=30)

    def wait_for_state(self, name, states, seconds=120):
        """Polls until the job is in one of `states` (names without prefix); fails when it ends in another."""
        pb2 = stubs("job_pb2")
        terminal = {"SUCCEEDED", "FAILED", "CANCELLED"}

        def reached():
            job = self.get_job(name)
            state = pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
            assert state in states or state not in terminal, (
                f"job ended {state} instead of {states}: {job.state_message} {job.error}\n{job.log_tail}\n{self.logs()}")
            return job if state in states else None
        return wait_until(reached, seconds, f"{name} to be {states}; now {self.get_job(name)}")

    def logs(self):
        return "\n".join(f"--- {p.name}\n{p.log_tail()}" for p in [self.coordinator, *self.workers])

    def output_dir(self, name):
        return self.storage / "outputs" / name.removeprefix("jobs/")

    def trainers(self):
        """(name of the worker, process) of each that has a task, as run folders tell: one that waits as a spare has none."""
        found = []
        for path in Path(self.short.name).glob("*/runs/*-train*/process.json"):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                process = psutil.Process(json.loads(path.read_text())["pid"])
                if process.status() != psutil.STATUS_ZOMBIE and "anneal-trainer" in " ".join(process.cmdline()[:1]):
                    found.append((path.relative_to(self.short.name).parts[0], process))
        return found

    def trainer_processes(self):
        return [process for _, process in self.trainers()]

    def spare_processes(self):
        """Trainers that have loaded and wait for a task."""
        return [p for p in psutil.process_iter(["name", "cmdline"])
                if p.info["name"] == "anneal-spare" and self.short.name in " ".join(p.info["cmdline"] or [])]

    def close(self):
        if self.channel is not None:
            self.channel.close()
        codes = {}
        # Workers first: they end their children.
        for process in [*self.workers, self.coordinator]:
            if process is None or process.popen is None or process.popen.poll() is not None:
                continue
            process.popen.send_signal(signal.SIGINT)
        for process in [*self.workers, self.coordinator]:
            if process is None or process.popen is None:
                continue
            try:
                codes[process.name] = process.popen.wait(timeout=30)
            except subprocess.TimeoutExpired:
                codes[process.name] = "did not stop"
                os.killpg(process.popen.pid, signal.SIGKILL)
                process.popen.wait()
        left = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and self.short.name in " ".join(p.info["cmdline"])]
        for process in left:
            process.kill()
        self.short.cleanup()
        assert not left, f"processes stayed behind: {left}"
        assert "did not stop" not in codes.values(), codes


class _BearerKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor,
                 grpc.StreamStreamClientInterceptor):
    """Adds the API key to every call of an insecure channel."""

    def __init__(self, key):
        self.metadata = ("authorization", f"Bearer {key}")

    def _call(self, continuation, details, request):
        metadata = [*(details.metadata or ()), self.metadata]
        return continuation(details._replace(metadata=metadata) if hasattr(details, "_replace") else details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _call
