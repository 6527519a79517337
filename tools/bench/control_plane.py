"""Measures the control plane under load; run by tools/bench/control_plane, whose --help says what."""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

import grpc
import psutil
import tiny_model
from mini_cluster import BIN_DIR, KEY, Process, stubs, wait_until

IN_FLIGHT = 64
CONNECTIONS = 8
WARM_UP = 10  # calls for each in flight
SYNC_SECONDS = 2  # between two messages of a worker without news


def make_certificate(folder, name):
    """A certificate that is its own authority."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj",
                    f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / f"{name}.key", "-out",
                    folder / f"{name}.pem"], check=True, capture_output=True)


class Coordinator:
    """A real coordinator with TLS, on the same ports at each start, and the programs that load it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in ("server", "pool"):
            make_certificate(self.folder, name)
        self.credentials = self.folder / "credentials"
        self.credentials.write_text(f"{KEY} default load admin\n")
        self.credentials.chmod(0o600)
        tiny_model.make_llama(self.folder / "shared" / "model")
        tiny_model.write_chat_rows(self.folder / "shared" / "train.jsonl", 8)
        self.ports = dict.fromkeys(("api", "fleet", "admin"), "127.0.0.1:0")  # any at the first start, then the same
        self.process = None
        os.sync()  # what an earlier turn has left or removed is not this one's to wait for

    def start(self):
        self.process = Process("coordinator", self.folder, [
            BIN_DIR / "anneal-coordinator", "--listen", self.ports["api"], "--fleet-listen", self.ports["fleet"],
            "--admin-listen", self.ports["admin"], "--data-dir", self.folder / "catalog", "--storage-root", self.folder / "storage",
            "--credentials-file", self.credentials, "--allowed-root", self.folder / "shared",
            "--tls-certificate-file", self.folder / "server.pem", "--tls-key-file", self.folder / "server.key",
            "--fleet-client-ca-file", self.folder / "pool.pem",
            "--max-key-request-rate", 0, "--max-project-request-rate", 0, "--max-project-streams", 0, "--max-project-jobs", 0])
        self.process.start()

    def __enter__(self):
        self.start()
        self.ports = self.process.addresses()
        with self.connect() as channel:
            stubs("model_service_pb2_grpc").ModelServiceStub(channel).ImportModel(stubs("model_service_pb2").ImportModelRequest(
                model_id="tiny", source_uri=f"file://{self.folder}/shared/model"))
        return self

    def __exit__(self, *exc):
        if self.process.popen.poll() is None:
            self.process.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_load(self, mode, **flags):
        target = self.ports["fleet" if mode == "fleet" else "api"]
        command = [BIN_DIR / "anneal-load", "--mode", mode, "--target", target, "--tls-ca-file", self.folder / "server.pem",
                   "--credentials-file", self.credentials]
        if mode == "fleet":
            command += ["--tls-certificate-file", self.folder / "pool.pem", "--tls-key-file", self.folder / "pool.key"]
        if mode == "submit":
            command += ["--model", "models/tiny", "--train", f"file://{self.folder}/shared/train.jsonl"]
        for flag, value in flags.items():
            command += [f"--{flag.replace('_', '-')}", value]
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load(self, mode, **flags):
        return self.result(self.start_load(mode, **flags))

    def result(self, load):
        """What a load has measured; it must have had nothing but good answers."""
        out, _ = load.communicate()
        assert load.returncode == 0 and self.process.popen.poll() is None, self.process.log_tail()
        return self.check(out)

    @staticmethod
    def check(line):
        report = json.loads(line)
        assert not report.get("errors") and not report.get("broken") and not report.get("unheard"), report
        return report

    def connect(self):
        ca = (self.folder / "server.pem").read_bytes()
        credentials = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(ca), grpc.access_token_call_credentials(KEY))
        return grpc.secure_channel(self.ports["api"], credentials)

    def metric(self, name):
        page = urllib.request.urlopen(f"http://{self.ports['admin']}/metrics").read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))

    def waiting_and_running(self):
        return sum(self.metric(f'anneal_jobs{{state="{state}"}}') for state in ("QUEUED", "RUNNING"))

    def usage(self):
        """(processor seconds so far, peak of resident bytes)"""
        cpu = psutil.Process(self.process.popen.pid).cpu_times()
        status = Path(f"/proc/{self.process.popen.pid}/status").read_text()
        return cpu.user + cpu.system, int(status.split("VmHWM:")[1].split()[0]) * 1024

    def restart(self):
        """Kills and starts it; (seconds to the first answer, jobs that it lists)"""
        self.process.kill()
        began = time.monotonic()
        self.start()
        pb2 = stubs("fine_tuning_service_pb2")
        with self.connect() as channel:
            service = stubs("fine_tuning_service_pb2_grpc").FineTuningServiceStub(channel)
            page = wait_until(lambda: self.try_list(service, pb2), 60, "an answer")
            seconds = time.monotonic() - began
            count = len(page.jobs)
            while page.next_page_token:
                page = service.ListJobs(pb2.ListJobsRequest(page_size=200, page_token=page.next_page_token))
                count += len(page.jobs)
        return seconds, count

    @staticmethod
    def try_list(service, pb2):
        try:
            return service.ListJobs(pb2.ListJobsRequest(page_size=1))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return None


def fsync_milliseconds(folder, calls=200):
    """Median of appending a page and making it durable, as a commit does."""
    times = []
    descriptor = os.open(folder / "fsync", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for call in range(calls):
            began = time.perf_counter()
            os.pwrite(descriptor, b"x" * 4096, call * 4096)
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(descriptor)
    return statistics.median(times)


def submit_turn(coordinator, calls):
    """Both limits and submits, one at a time and many. The first calls of each load are made and not measured: connections are cold,
    and all begin at once."""
    turn = {"fsync_ms": fsync_milliseconds(coordinator.folder)}
    for in_flight, count in ((1, max(1, calls // 10)), (IN_FLIGHT, calls)):
        flags = dict(calls=count, warm_up=WARM_UP * in_flight, in_flight=in_flight, connections=min(in_flight, CONNECTIONS))
        for kind in ("health", "submit"):
            turn[f"{kind}_{in_flight}"] = coordinator.load(kind, **flags)
    return turn


def submitted(turn):
    return sum(report["count"] + report["warm_up"] for kind, report in turn.items() if kind.startswith("submit"))


def fill(coordinator, jobs):
    """Submits so many; how many."""
    return coordinator.load("submit", calls=jobs, in_flight=IN_FLIGHT, connections=CONNECTIONS)["count"] if jobs > 0 else 0


def medians_of(name, turns, say):
    medians = {"fsync_ms": statistics.median(turn["fsync_ms"] for turn in turns)}
    say(f"{name}: medians of {len(turns)}        fsync {medians['fsync_ms']:.2f} ms")
    for kind in ("health_1", "submit_1", f"health_{IN_FLIGHT}", f"submit_{IN_FLIGHT}"):
        medians[kind] = {figure: statistics.median(turn[kind][figure] for turn in turns)
                         for figure in ("per_second", "p50_ms", "p99_ms", "max_ms")}
        medians[kind]["p99_ms_of_turns"] = sorted(turn[kind]["p99_ms"] for turn in turns)
        say(line(kind, medians[kind]))
    p99 = medians[f"submit_{IN_FLIGHT}"]["p99_ms_of_turns"]
    say(f"  p99 of submit_{IN_FLIGHT} in half of the turns: {p99[len(p99) // 4]:.2f} to {p99[len(p99) * 3 // 4]:.2f} ms")
    for in_flight in (1, IN_FLIGHT):
        limit = medians["fsync_ms"] + medians[f"health_{in_flight}"]["p50_ms"]
        medians[f"ratio_{in_flight}"] = medians[f"submit_{in_flight}"]["p50_ms"] / limit
        say(f"  submit_{in_flight} p50 is {medians[f'ratio_{in_flight}']:.2f} times fsync + health_{in_flight}")
    return medians


def measure_submits(options, say):
    """Each turn has a coordinator of its own: with an empty catalog, then with so many jobs that wait, then killed."""
    empty, full = [], []
    for _ in range(options.runs):
        with Coordinator(options.folder) as coordinator:
            empty.append(submit_turn(coordinator, options.calls))
            made = submitted(empty[-1])
            made += fill(coordinator, options.jobs - made)
            full.append(submit_turn(coordinator, options.calls))
            made += submitted(full[-1])
            _, listed = coordinator.restart()
            assert listed == made, f"{listed} jobs are there, {made} were acknowledged"
    figures = {"submit_empty": medians_of("submit, empty catalog", empty, say),
               "submit_full": medians_of(f"submit, {options.jobs} jobs wait", full, say), "submitted": made}
    say(f"after kill -9 all {made} acknowledged jobs were there each time")
    return figures


def line(name, report):
    return (f"  {name:12} {report['per_second']:8,.0f}/s   p50 {report['p50_ms']:7.2f}   p99 {report['p99_ms']:7.2f}   "
            f"max {report['max_ms']:7.2f} ms")


class Fleet:
    """Simulated workers that stay while other things are measured."""

    def __init__(self, coordinator, workers):
        self.load = coordinator.start_load("fleet", connections=workers)
        self.joined = json.loads(self.load.stdout.readline())["all_answered_seconds"]

    def report(self):
        """Since the last one."""
        self.load.stdin.write("\n")
        self.load.stdin.flush()
        return Coordinator.check(self.load.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.load.communicate()


def measure_fleet(coordinator, fleet, options, acknowledged, say):
    """Workers prepare everything and train; then they are only kept in step."""
    began = time.monotonic()
    wait_until(lambda: coordinator.waiting_and_running() >= acknowledged, 600, "every job to be prepared")
    prepared = time.monotonic() - began
    say(f"fleet: {options.workers} workers, all answered in {fleet.joined:.2f} s; {fleet.report()['prepared']} jobs prepared in "
        f"{prepared:.1f} s")
    cpu, _ = coordinator.usage()
    time.sleep(max(options.seconds, SYNC_SECONDS * 1.5))
    report = fleet.report()
    used = (coordinator.usage()[0] - cpu) / report["seconds"]
    say(f"  in step: {report['sent_per_second']:,.0f} messages up and {report['received_per_second']:,.0f} down a second, gaps p50 "
        f"{report['p50_ms']:.0f} p99 {report['p99_ms']:.0f} ms, {report['steps'] / report['seconds']:,.0f} steps a second, coordinator "
        f"{used:.0%} of a core")
    return {**report, "all_answered_seconds": fleet.joined, "prepared_seconds": prepared, "coordinator_cores": used}


def measure_watch(coordinator, options, say):
    changes = min(100, options.streams)
    report = coordinator.load("watch", connections=options.streams, changes=changes, time=f"{options.seconds}s")
    say(f"watch: {options.streams} streams open in {report['all_opened_seconds']:.2f} s; a change is heard after p50 "
        f"{report['p50_ms']:.1f} p99 {report['p99_ms']:.1f} ms")
    return report


def measure_together(coordinator, fleet, options, say):
    seconds = options.seconds
    watch = coordinator.start_load("watch", connections=options.streams, changes=min(20, options.streams), time=f"{2 * seconds}s")
    time.sleep(seconds / 2)
    fleet.report()
    cpu, _ = coordinator.usage()
    began = time.monotonic()
    submit = coordinator.load("submit", in_flight=IN_FLIGHT, connections=CONNECTIONS, time=f"{seconds}s")
    used = (coordinator.usage()[0] - cpu) / (time.monotonic() - began)
    report = {"submit": submit, "fleet": fleet.report(), "watch": coordinator.result(watch), "coordinator_cores": used}
    say(f"together, coordinator {used:.0%} of a core:")
    say(line(f"submit_{IN_FLIGHT}", submit))
    say(f"  a change is heard after p50 {report['watch']['p50_ms']:.1f} p99 {report['watch']['p99_ms']:.1f} ms; gaps of workers p99 "
        f"{report['fleet']['p99_ms']:.0f} ms")
    return report


def machine(folder):
    model = next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "?")
    device = max((p for p in psutil.disk_partitions(all=True) if str(folder).startswith(p.mountpoint)),
                 key=lambda p: len(p.mountpoint), default=None)  # in a root of its own, no mount may be seen
    return f"{os.cpu_count()} cores, {model}; catalog on {f'{device.fstype} ({device.device})' if device else 'an unknown file system'}"


def measure(options, say=print):
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = {"machine": machine(options.folder)}
    say(figures["machine"])
    figures.update(measure_submits(options, say))
    with Coordinator(options.folder) as coordinator:
        figures["acknowledged"] = fill(coordinator, options.jobs)
        say(f"read, {figures['acknowledged']} jobs:")
        for kind in ("get", "list"):
            figures[kind] = coordinator.load(kind, in_flight=IN_FLIGHT, connections=CONNECTIONS, time=f"{options.seconds}s")
            say(line(f"{kind}_{IN_FLIGHT}", figures[kind]))
        figures["peak_bytes_jobs"] = coordinator.usage()[1]
        say(f"largest resident memory so far: {figures['peak_bytes_jobs'] / 2**20:.0f} MiB")
        with Fleet(coordinator, options.workers) as fleet:
            figures["fleet"] = measure_fleet(coordinator, fleet, options, figures["acknowledged"], say)
            figures["watch"] = measure_watch(coordinator, options, say)
            figures["peak_bytes_connections"] = coordinator.usage()[1]
            say(f"largest resident memory with workers and streams: {figures['peak_bytes_connections'] / 2**20:.0f} MiB")
            figures["together"] = measure_together(coordinator, fleet, options, say)
        figures["acknowledged"] += figures["together"]["submit"]["count"]
        figures["peak_bytes"] = coordinator.usage()[1]
        say(f"largest resident memory of all: {figures['peak_bytes'] / 2**20:.0f} MiB")
        figures["restart_seconds"], listed = coordinator.restart()
        assert listed == figures["acknowledged"], f"{listed} jobs are there, {figures['acknowledged']} were acknowledged"
        say(f"restart after kill -9: {figures['restart_seconds']:.2f} s to the first answer, all {listed} acknowledged jobs there")
    return figures


def parse(arguments=None):
    parser = argparse.ArgumentParser()
    for number in ("jobs", "calls", "workers", "streams", "runs"):
        parser.add_argument(f"--{number}", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args(arguments)


def main():
    options = parse()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures = measure(options, lambda text: print(text, flush=True))
    options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
