"""Compose, systemd, Slurm and the image recipe: checked by their own tools, and every setting in them exists."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest
import yaml

from conftest import BIN_DIR, SOURCE_DIR, seconds

sys.path.insert(0, str(SOURCE_DIR / "tests" / "testing"))
from mini_cluster import daemons_of, wait_until  # noqa: E402

DEPLOY = SOURCE_DIR / "deploy"
SYSTEMD = DEPLOY / "systemd"


def read_config(path, programs):
    config = yaml.safe_load(path.read_text())
    programs.check_config(f"anneal-{path.stem}", config)
    return config


def read_unit(name):
    """Setting -> its last value."""
    lines = (SYSTEMD / f"anneal-{name}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_containerfile_is_clean():
    hadolint = os.path.join(os.path.dirname(sys.executable), "hadolint")
    subprocess.run([hadolint, DEPLOY / "images" / "Containerfile"], check=True)


def test_compose(checks, programs, version):
    folder = DEPLOY / "compose"
    result = subprocess.run([checks / "bin" / "compose", folder / "compose.yaml"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    project = json.loads(result.stdout)
    services = project["services"]
    for name, service in services.items():
        program = f"anneal-{name}"
        assert service["image"] == f"{program}:{version}"
        programs.check_arguments(program, service["command"])
        assert service["user"] == "65532:65532" and service["read_only"] and service["cap_drop"] == ["ALL"]
        config = read_config(folder / f"{name}.yaml", programs)
        assert project["configs"][name]["file"] == str(folder / f"{name}.yaml")
        assert service["configs"][0]["target"] == f"/etc/anneal/{name}.yaml" == service["command"][0].removeprefix("--config=")
        mounts = [v["target"] for v in service["volumes"]] + ["/run/secrets"] + service["tmpfs"]
        assert service["restart"] == "unless-stopped"
        for key, value in config.items():
            assert not str(value).startswith("/") or any(value.startswith(m + "/") or value == m for m in mounts), key
        assert config["credentials_file"] == f"/run/secrets/{service['secrets'][0]['source']}"
    coordinator, worker = (yaml.safe_load((folder / f"{n}.yaml").read_text()) for n in ("coordinator", "worker"))
    host, _, port = worker["coordinator"].partition(":")
    assert host in services and coordinator["fleet_listen"].endswith(f":{port}")
    [published] = services["coordinator"]["ports"]
    assert published["host_ip"] == "127.0.0.1" and coordinator["listen"].endswith(f":{published['target']}")
    assert "ports" not in services["worker"] and project["networks"]["fleet"]["internal"]
    [healthcheck] = re.findall(r"/dev/tcp/127.0.0.1/(\d+)", " ".join(services["coordinator"]["healthcheck"]["test"]))
    assert coordinator["admin_listen"].endswith(f":{healthcheck}")
    assert services["worker"]["stop_grace_period"] == "11m0s" and seconds(worker["drain_timeout"]) < 11 * 60 - 30


@pytest.mark.parametrize("name, exposure", [("coordinator", 20), ("worker", 30)])
def test_systemd_units_are_valid_and_hardened(tmp_path, name, exposure):
    # A root in which the program is where the unit says.
    unit = tmp_path / "etc/systemd/system" / f"anneal-{name}.service"
    unit.parent.mkdir(parents=True)
    unit.write_bytes((SYSTEMD / unit.name).read_bytes())
    (tmp_path / "opt/anneal").mkdir(parents=True)
    (tmp_path / "opt/anneal/bin").symlink_to(BIN_DIR)
    unit.write_text(unit.read_text().replace("/opt/anneal/", f"{tmp_path}/opt/anneal/"))
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    result = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", "--no-pager", unit],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-600:] + result.stderr


@pytest.mark.parametrize("name", ["coordinator", "worker"])
def test_systemd_units_and_settings_fit(name, programs):
    unit, config = read_unit(name), read_config(SYSTEMD / f"{name}.yaml", programs)
    command = unit["ExecStart"].split()
    assert command[0] == f"/opt/anneal/bin/anneal-{name}" and command[2] == f"/etc/anneal/{name}.yaml"
    programs.check_arguments(f"anneal-{name}", command[1:2])
    assert unit["Restart"] == "on-failure" and unit["StartLimitIntervalSec"] == "0"
    user = re.search(r"^u (\w+) (\d+)", (SYSTEMD / "anneal.sysusers").read_text(), re.MULTILINE)
    assert unit["User"] == unit["Group"] == user.group(1) and user.group(2) == "65532"
    # The file system is read-only but for these; settings under /etc/anneal are read.
    writable = [unit["ReadWritePaths"], f"/var/lib/{unit['StateDirectory']}"] + [f"/run/{unit[k]}" for k in unit if k == "RuntimeDirectory"]
    for key, value in config.items():
        if str(value).startswith("/") and not value.startswith("/etc/anneal/"):
            assert any(value == folder or value.startswith(folder + "/") for folder in writable), key
    if name == "worker":
        assert unit["ExecReload"] == "kill -HUP $MAINPID" and unit["KillMode"] == "mixed" and unit["OOMPolicy"] == "continue"
        assert unit["TimeoutStopSec"] == "11min" and seconds(config["drain_timeout"]) < 11 * 60 - 30
        fleet = yaml.safe_load((SYSTEMD / "coordinator.yaml").read_text())["fleet_listen"]
        assert config["coordinator"].rpartition(":")[2] == fleet.rpartition(":")[2]


class Notified:
    """The other end of $NOTIFY_SOCKET."""

    def __init__(self, folder):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = f"{folder}/notify"
        self.socket.bind(self.path)
        self.socket.settimeout(60)

    def receive(self):
        return self.socket.recv(100).decode()


def test_programs_notify_and_reload_as_the_units_say(tmp_path):
    """What Type=notify, ExecReload and KillMode=mixed rely on."""
    (tmp_path / "keys").write_text("test-key-0123456789abcdef default tester admin\n")
    (tmp_path / "keys").chmod(0o600)
    addresses = tmp_path / "addresses"
    told = Notified(tmp_path)
    environment = {**os.environ, "NOTIFY_SOCKET": told.path}
    with open(tmp_path / "log", "wb") as log:
        coordinator = subprocess.Popen(
            [BIN_DIR / "anneal-coordinator", "--listen=127.0.0.1:0", "--fleet-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
             f"--data-dir={tmp_path}/catalog", f"--storage-root={tmp_path}/storage", f"--credentials-file={tmp_path}/keys",
             f"--address-file={addresses}"], env=environment, stderr=log)
        try:
            assert told.receive() == "READY=1"
            fleet = json.loads(addresses.read_text())["fleet"]  # so it was ready indeed
            worker = subprocess.Popen(
                [BIN_DIR / "anneal-worker", f"--coordinator={fleet}", "--name=w0", f"--state-dir={tmp_path}/w",
                 f"--storage-root={tmp_path}/storage", "--admin-listen=127.0.0.1:0", f"--credentials-file={tmp_path}/keys",
                 f"--address-file={tmp_path}/worker-addresses"], env=environment, stderr=log)
            try:
                assert told.receive() == "READY=1"
                [daemon] = wait_until(lambda: daemons_of(worker.pid), 30, "the daemon")
                assert "NOTIFY_SOCKET" not in daemon.environ()
                wait_until((tmp_path / "worker-addresses").exists, 60, "the daemon to listen")
                worker.send_signal(signal.SIGHUP)
                daemon.wait(30)
                [successor] = wait_until(lambda: daemons_of(worker.pid), 30, "the next daemon")
                assert successor.pid != daemon.pid
                worker.send_signal(signal.SIGTERM)
                assert told.receive() == "STOPPING=1"
                assert worker.wait(60) == 0
            finally:
                worker.kill()
            coordinator.send_signal(signal.SIGTERM)
            assert told.receive() == "STOPPING=1"
            assert coordinator.wait(60) == 0
        finally:
            coordinator.kill()
            coordinator.wait()


def play_slurm(folder):
    """An srun that ends all its workers at once when it gets SIGTERM, as Slurm's does, and an scancel that signals the steps alone."""
    (folder / "bin").mkdir()
    (folder / "srun").write_text("""#!/bin/bash
shift
trap 'kill -KILL $(cat "$ANNEAL_HOME"/pid-*); exit 143' TERM
for node in 0 1; do (echo $BASHPID >"$ANNEAL_HOME/pid-$node" && SLURM_NODEID=$node exec "$@") & done
wait
""")
    (folder / "scancel").write_text('#!/bin/bash\n[ "$*" = "--signal=TERM 77" ] && kill -TERM $(cat "$ANNEAL_HOME"/pid-*)\n')
    for name in ("srun", "scancel"):
        (folder / name).chmod(0o755)


def slurm_environment(folder):
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "ANNEAL_HOME": str(folder), "SLURM_JOB_ID": "77",
            "ANNEAL_COORDINATOR": "c.example:7444", "TMPDIR": "/local"}


@pytest.mark.parametrize("way", ["the steps", "the batch script"])
def test_slurm_lets_workers_drain(tmp_path, way):
    """Whomever SIGTERM is sent to, each worker hears it and leaves in its own time, and the script waits for that."""
    play_slurm(tmp_path)
    # In the program's place: drains until it may go.
    (tmp_path / "bin" / "anneal-worker").write_text("""#!/bin/bash
node=${SLURM_NODEID}
trap 'echo >>"$ANNEAL_HOME/told-$node"' TERM
: >"$ANNEAL_HOME/ready-$node"
until [ -e "$ANNEAL_HOME/may-go" ]; do read -rt 0.05 <> <(:) || true; done
: >"$ANNEAL_HOME/drained-$node"
""")
    (tmp_path / "bin" / "anneal-worker").chmod(0o755)
    script = subprocess.Popen(["bash", DEPLOY / "slurm" / "anneal-workers.sbatch"], env=slurm_environment(tmp_path), start_new_session=True)
    try:
        wait_until(lambda: len(list(tmp_path.glob("ready-*"))) == 2, 30, "two workers")
        if way == "the steps":
            subprocess.run([tmp_path / "scancel", "--signal=TERM", "77"], env=slurm_environment(tmp_path), check=True)
        else:
            script.send_signal(signal.SIGTERM)
        wait_until(lambda: len(list(tmp_path.glob("told-*"))) == 2, 30, "both to hear of it")
        assert script.poll() is None and not list(tmp_path.glob("drained-*"))
        (tmp_path / "may-go").touch()
        assert script.wait(60) == 0
        assert len(list(tmp_path.glob("drained-*"))) == 2
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)


def test_slurm_script_starts_a_worker_on_each_node(tmp_path, programs):
    """srun is played by a script that starts the command once for each of two nodes, as Slurm would."""
    play_slurm(tmp_path)
    script = DEPLOY / "slurm" / "anneal-workers.sbatch"
    assert re.search(r"^#SBATCH --signal=TERM@(\d+)$", script.read_text(), re.MULTILINE).group(1) == "720"
    # In the program's place: what it was started with, one line a node.
    (tmp_path / "bin" / "anneal-worker").write_text('#!/bin/bash\nprintf "%s\\n" "$*" >>"$ANNEAL_HOME/started"\n')
    (tmp_path / "bin" / "anneal-worker").chmod(0o755)
    subprocess.run(["bash", script], env=slurm_environment(tmp_path), check=True, timeout=60)
    started = sorted((tmp_path / "started").read_text().splitlines())
    assert [line.split("--name ")[1].split()[0] for line in started] == ["slurm-77-0", "slurm-77-1"]
    for line in started:
        programs.check_arguments("anneal-worker", line.split())
        assert f"--config {tmp_path}/worker.yaml --coordinator c.example:7444" in line
        # Drained before Slurm's patience ends.
        assert seconds(line.split("--drain-timeout ")[1]) < 720 - 30
