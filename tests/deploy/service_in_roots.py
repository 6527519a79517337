"""Runs a coordinator and a worker as a cluster would, and a job on them: each in its own read-only root, as user 65532, with the settings
of the Kubernetes overlay cpu-demo. Started by `run_service` in a network namespace of its own, so that the real ports are free.

    service_in_roots.py COORDINATOR_ROOT WORKER_ROOT FOLDER     FOLDER was filled by run_service
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

USER = 65532
# Where the pods mount what; files in FOLDER.
MOUNT_POINTS = ["etc/anneal/config", "etc/anneal/credentials", "etc/anneal/tls", "var/lib/anneal", "srv/anneal", "run/anneal", "home"]


def run_service(tmp_path, coordinator_root, worker_root, configs, source_dir):
    """Prepares FOLDER in tmp_path and runs this script in a network namespace. `configs`: program -> its parsed --config file."""
    import yaml
    sys.path.insert(0, str(source_dir / "tests" / "testing"))
    import tiny_model
    folder = tmp_path / "service"
    for program, config in configs.items():
        path = folder / program / "config" / f"{program.removeprefix('anneal-')}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(config))
    subprocess.run([source_dir / "deploy" / "tls" / "make_certificates", folder / "certificates"], check=True)
    for program, name in [("anneal-coordinator", "coordinator"), ("anneal-worker", "worker")]:
        shutil.copytree(folder / "certificates" / name, folder / program / "tls")
        keys = folder / program / "credentials" / "keys"
        keys.parent.mkdir()
        worker_key = "worker-key-0123456789abcdef default workers worker\n"
        keys.write_text(worker_key + ("client-key-0123456789abcdef default tester\n" if name == "coordinator" else ""))
        (folder / program / "state").mkdir()
    imports = folder / "storage" / "imports"
    imports.mkdir(parents=True)
    tiny_model.make_llama(imports / "model")
    tiny_model.write_chat_rows(imports / "train.jsonl", 48, seed=1)
    client = folder / "client" / ".config" / "anneal"
    client.mkdir(parents=True)
    (client / "config.yaml").write_text(
        "current_context: test\ncontexts:\n  - {name: test, server: 'anneal-coordinator:7443', tls: true, tls_ca_file: ca.crt, api_key_file: key}\n")
    (client / "key").write_text("client-key-0123456789abcdef default tester\n")
    (client / "key").chmod(0o600)
    shutil.copy(folder / "certificates" / "ca.crt", client)
    (folder / "client" / "job.yaml").write_text(
        "display_name: tiny\nmodel: file:///srv/anneal/imports/model\nmethod: {lora: {rank: 4, alpha: 8}}\n"
        "data: {train: ['file:///srv/anneal/imports/train.jsonl'], max_length: 128}\n"
        "training: {epochs: 1, batch_size: 16, learning_rate: 5e-3}\nresources: {slots: 1, accelerator: CPU}\n")
    (folder / "hosts").write_text("127.0.0.1 localhost anneal-coordinator\n")
    subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)
    script = [sys.executable, __file__, coordinator_root, worker_root, folder]
    result = subprocess.run(["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--unshare-pid", "--proc", "/proc", "--die-with-parent",
                             *map(str, script)], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
    return result.stdout


class Sandbox:
    """Commands in one root: read-only but for the volumes, no capabilities, processes of its own."""

    def __init__(self, root, folder, program):
        self.root, self.folder, self.own = Path(root), folder, folder / program
        # A container runtime makes the mount points, too.
        for point in MOUNT_POINTS:
            (self.root / point).mkdir(parents=True, exist_ok=True)
        (self.root / "etc/hosts").touch()

    def command(self, *arguments, environment=()):
        storage = self.folder / "storage"
        binds = [("--ro-bind", self.own / "config", "/etc/anneal/config"), ("--ro-bind", self.own / "tls", "/etc/anneal/tls"),
                 ("--ro-bind", self.own / "credentials", "/etc/anneal/credentials"), ("--bind", self.own / "state", "/var/lib/anneal"),
                 ("--bind", storage, "/srv/anneal"), ("--ro-bind", self.folder / "hosts", "/etc/hosts"),
                 ("--ro-bind", self.folder / "client", "/home")]
        return ["bwrap", "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--perms", "1777",
                "--tmpfs", "/run/anneal", "--perms", "1777", "--tmpfs", "/dev/shm", *(str(a) for bind in binds for a in bind),
                "--unshare-pid", "--unshare-ipc", "--as-pid-1", "--die-with-parent", "--clearenv",
                "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/home", "--",
                "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
                "--bounding-set=-all", *arguments]


def wait_for(url_port, path, process, log):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", url_port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{path} of port {url_port} did not answer 200:\n{log.read_text()}")


def start(sandbox, log, *arguments):
    with open(log, "wb") as out:
        return subprocess.Popen(sandbox.command(*arguments), stdout=out, stderr=out, stdin=subprocess.DEVNULL)


def main():
    coordinator_root, worker_root, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    coordinator = Sandbox(coordinator_root, folder, "anneal-coordinator")
    worker = Sandbox(worker_root, folder, "anneal-worker")
    for sandbox in (coordinator, worker):
        refused = subprocess.run(sandbox.command("touch", "/opt/anneal/x"), capture_output=True, text=True)
        assert "Read-only file system" in refused.stderr, refused
        python = subprocess.run(sandbox.command("sh", "-c", "command -v python3 python"), capture_output=True, text=True)
        assert python.stdout == "", python.stdout

    logs = folder / "coordinator.log", folder / "worker.log"
    serving = start(coordinator, logs[0], "/opt/anneal/bin/anneal-coordinator", "--config=/etc/anneal/config/coordinator.yaml")
    wait_for(7445, "/readyz", serving, logs[0])
    working = start(worker, logs[1], "/opt/anneal/bin/anneal-worker", "--config=/etc/anneal/config/worker.yaml", "--name=w0",
                    "--data-address=127.0.0.1")
    wait_for(7447, "/livez", working, logs[1])
    wait_for(7446, "/readyz", working, logs[1])
    job = subprocess.run(coordinator.command("/opt/anneal/bin/anneal", "submit", "/home/job.yaml", "--follow", "--output", "json"),
                         capture_output=True, text=True, timeout=400)
    assert job.returncode == 0, job.stdout + job.stderr + logs[0].read_text() + logs[1].read_text()
    finished = json.loads(job.stdout.splitlines()[-1])
    assert finished["state"] == "JOB_STATE_SUCCEEDED", finished
    output = folder / "storage" / "storage" / "outputs" / finished["name"].removeprefix("jobs/") / "adapter"
    assert (output / "adapter_model.safetensors").stat().st_uid == USER
    # Process 1 of the worker's namespace is the keeper, and it drains on SIGTERM.
    for process, name in ((working, "anneal-worker"), (serving, "anneal-coordinator")):
        inner = [p for p in Path("/proc").iterdir() if p.name.isdigit() and (p / "comm").read_text().strip() == name[:15]
                 and (p / "status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1"]
        assert len(inner) == 1, inner
        os.kill(int(inner[0].name), signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    print(json.dumps({"job": finished["name"]}))


if __name__ == "__main__":
    main()
