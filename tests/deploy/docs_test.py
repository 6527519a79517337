"""The operators' pages: commands run here, or say what they need; paths, flags and links that are named exist."""

import os
import re
import shlex
import socket
import subprocess

import pytest

from conftest import BIN_DIR, SOURCE_DIR

PAGES = sorted((SOURCE_DIR / "docs" / "operations").glob("*.md"))
# The first line of a block that is not run here.
ELSEWHERE = re.compile(r"# (needs (a cluster|systemd and root|Docker|Slurm)|tested by (\S+))$")


def blocks(page):
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def sandbox(tmp_path):
    """A folder in which the repository's paths exist, with the programs in PATH and a catalog of a coordinator that has run."""
    for name in ("deploy", "tools"):
        (tmp_path / name).symlink_to(SOURCE_DIR / name)
    data = tmp_path / "data"
    (tmp_path / "keys").write_text("test-key-0123456789abcdef default tester admin\n")
    (tmp_path / "keys").chmod(0o600)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(f"{tmp_path}/notify")
    told.settimeout(60)
    coordinator = subprocess.Popen(
        [BIN_DIR / "anneal-coordinator", f"--listen=unix:{tmp_path}/api.sock", "--fleet-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", f"--data-dir={data}",
         f"--storage-root={tmp_path}/storage", f"--credentials-file={tmp_path}/keys", f"--admin-socket={tmp_path}/admin.sock"],
        env={**os.environ, "NOTIFY_SOCKET": f"{tmp_path}/notify"}, stderr=subprocess.DEVNULL)
    assert told.recv(100) == b"READY=1"
    environment = {**os.environ, "PATH": f"{BIN_DIR}:{os.environ['PATH']}", "DATA_DIR": str(data), "ADMIN_SOCKET": f"{tmp_path}/admin.sock",
                   "HOME": str(tmp_path)}
    (tmp_path / ".anneal").mkdir()
    (tmp_path / ".anneal" / "context.yaml").write_text(f"server: unix:{tmp_path}/api.sock\n")
    yield tmp_path, environment
    coordinator.terminate()
    assert coordinator.wait(60) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands(page, sandbox):
    folder, environment = sandbox
    for block in blocks(page):
        assert subprocess.run(["bash", "-n"], input=block, text=True).returncode == 0, block
        first, _, rest = block.partition("\n")
        elsewhere = ELSEWHERE.match(first)
        if elsewhere is None:
            result = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{block}\n{result.stdout}{result.stderr}"
            continue
        if elsewhere.group(3):
            test = SOURCE_DIR / elsewhere.group(3)
            assert test.is_file() and " ".join(rest.split()[:1]).removeprefix("tools/") in test.read_text()
        for command in re.findall(r"^\s*anneal (?!--)([a-z]+(?: [a-z]+)?)", rest, re.MULTILINE):
            known = [command, command.split()[0]]  # "workers drain", or "get" and an argument
            assert any(subprocess.run([BIN_DIR / "anneal", *shlex.split(c), "--help"], capture_output=True).returncode == 0 for c in known)


def test_the_pages_make_what_they_say(sandbox):
    folder, environment = sandbox
    for block in blocks(SOURCE_DIR / "docs" / "operations" / "kubernetes.md"):
        if not ELSEWHERE.match(block.partition("\n")[0]):
            subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, check=True)
    text = (SOURCE_DIR / "docs" / "operations" / "kubernetes.md").read_text()
    for path in re.findall(r"--from-file=(?:\w+=)?(\S+)", text):
        assert (folder / path).stat().st_mode & 0o077 == 0, path


def test_named_paths_flags_and_links_exist(programs):
    flags = programs.flags("anneal-coordinator") | programs.flags("anneal-worker")
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"(?<![\w/.])((?:deploy|tools|tests)/[\w./-]+)", text):
            assert (SOURCE_DIR / path.rstrip(".")).exists(), f"{page.name}: {path}"
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for flag in re.findall(r"`--([a-z-]+)`", text):
            assert flag in flags, f"{page.name}: --{flag}"


def test_ports_of_the_page_are_the_defaults():
    text = (SOURCE_DIR / "docs" / "operations" / "network.md").read_text()
    helps = "".join(subprocess.run([BIN_DIR / p, "--help"], capture_output=True, text=True).stdout for p in ("anneal-coordinator", "anneal-worker"))
    for port, flag in re.findall(r"^\| (\d+) \|.*?\(`(--[a-z-]+)`\)", text, re.MULTILINE):
        if flag != "--liveness-listen":  # off unless asked for
            assert re.search(rf"{flag} .*:{port}\b", helps), f"{flag} is not {port} by default"
