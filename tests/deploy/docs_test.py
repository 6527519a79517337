"""Commands in the documentation: blocks of operators' pages run here, or say what they need; commands within the text are tried with
names of things that are there; paths, flags and links that are named exist."""

import os
import re
import shlex
import socket
import subprocess
import sys

import pytest

from conftest import BIN_DIR, SOURCE_DIR

sys.path.insert(0, str(SOURCE_DIR / "tests" / "testing"))
import tiny_model  # noqa: E402

OPERATIONS = sorted((SOURCE_DIR / "docs" / "operations").glob("*.md"))
PAGES = [SOURCE_DIR / "README.md", SOURCE_DIR / "CONTRIBUTING.md", *sorted((SOURCE_DIR / "docs").rglob("*.md"))]
# The first line of a block that is not run here.
ELSEWHERE = re.compile(r"# (needs (a cluster|systemd and root|Docker|Slurm)|tested by (\S+))$")
STOPPED = "# with the coordinator stopped"
# Blocks of the first page: what runs what is in them. The quick start takes minutes and an empty machine: CONTRIBUTING.md says how.
RUN_BY = {
    "README.md": {"tools/quickstart": "CONTRIBUTING.md", "tools/test": ".ci/run", "anneal up": "tools/anneal/up_test.cc",
                  "anneal init": "tools/anneal/anneal_test.cc", "anneal check": "tools/anneal/anneal_test.cc",
                  "anneal submit": "tools/anneal/anneal_test.cc"},
}
# Commands within the text that are of a machine which has the fault, and the words that must say so beside them.
THERE = {"systemctl": "systemd", "kubectl": "Kubernetes|cluster|pod", "scancel": "Slurm|allocation", "nvidia-smi": "machine|node|worker",
         "dmesg": "machine|node|worker", "kill": "node|worker|trainer|daemon|keeper|process|coordinator|systemd"}


def blocks(page):
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


class Sandbox:
    """A folder in which the repository's paths exist, with the programs in PATH, and a coordinator that knows a model, a file and a job."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("deploy", "tools"):
            (folder / name).symlink_to(SOURCE_DIR / name)
        (folder / "keys").write_text("test-key-0123456789abcdef default tester admin\n")
        (folder / "keys").chmod(0o600)
        (folder / ".anneal").mkdir()
        (folder / ".anneal" / "context.yaml").write_text(f"server: unix:{folder}/api.sock\napi_key_file: ../keys\n")
        self.environment = {**os.environ, "PATH": f"{BIN_DIR}:{os.environ['PATH']}", "DATA_DIR": f"{folder}/data",
                            "ADMIN_SOCKET": f"{folder}/admin.sock", "HOME": str(folder)}
        self.told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told.bind(f"{folder}/notify")
        self.told.settimeout(60)
        self.coordinator = None
        self.start()

    def start(self):
        self.coordinator = subprocess.Popen(
            [BIN_DIR / "anneal-coordinator", f"--listen=unix:{self.folder}/api.sock", "--fleet-listen=127.0.0.1:0",
             "--admin-listen=127.0.0.1:0", f"--data-dir={self.folder}/data", f"--storage-root={self.folder}/storage",
             f"--credentials-file={self.folder}/keys", f"--admin-socket={self.folder}/admin.sock", f"--allowed-root={self.folder}/shared",
             f"--address-file={self.folder}/addresses"],
            env={**os.environ, "NOTIFY_SOCKET": f"{self.folder}/notify"}, stderr=subprocess.DEVNULL)
        assert self.told.recv(100) == b"READY=1"

    def stop(self):
        self.coordinator.terminate()
        assert self.told.recv(100) == b"STOPPING=1"
        assert self.coordinator.wait(60) == 0

    def run(self, command):
        return subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, stdin=subprocess.DEVNULL)

    def run_block(self, block):
        stopped = block.startswith(STOPPED)
        if stopped:
            self.stop()
        result = self.run(block)
        assert result.returncode == 0, f"{block}\n{result.stdout}{result.stderr}"
        if stopped:
            self.start()
        return result.stdout

    def submit(self, name):
        shared = self.folder / "shared"
        if not shared.exists():
            shared.mkdir()
            tiny_model.make_llama(shared / "model")
            tiny_model.write_chat_rows(shared / "train.jsonl", 8)
        (self.folder / "job.yaml").write_text(
            f"display_name: {name}\nmodel: file://{shared}/model\ndata: {{train: ['file://{shared}/train.jsonl']}}\n"
            "resources: {slots: 1, accelerator: CPU}\n")
        self.run_block("anneal submit job.yaml")


@pytest.fixture
def sandbox(tmp_path):
    made = Sandbox(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One for commands that change nothing that others look at."""
    made = Sandbox(tmp_path_factory.mktemp("service"))
    made.submit("waits")
    yield made
    made.stop()


@pytest.mark.parametrize("page", OPERATIONS, ids=lambda p: p.stem)
def test_blocks_run_or_say_what_they_need(page, sandbox):
    for block in blocks(page):
        assert subprocess.run(["bash", "-n"], input=block, text=True).returncode == 0, block
        first, _, rest = block.partition("\n")
        elsewhere = ELSEWHERE.match(first)
        if elsewhere is None:
            sandbox.run_block(block)
            continue
        if elsewhere.group(3):
            test = SOURCE_DIR / elsewhere.group(3)
            text = test.read_text()
            for line in rest.splitlines():
                command = re.match(r"tools/(\w+)", line).group(1)
                flags = set(re.findall(r"(--\w+)", line)) - {"--archive"}  # or --to, a folder
                calls = re.findall(rf'"{command}"[^\n]*', text)
                assert any(all(f'"{flag}"' in call for flag in flags) for call in calls), f"{test.name} does not run {line}"
        for command in re.findall(r"(?:^|\s|/)anneal (?!--)([a-z]+(?: [a-z]+)?)", rest):
            known = [command, command.split()[0]]  # "workers drain", or "get" and an argument
            assert any(subprocess.run([BIN_DIR / "anneal", *shlex.split(c), "--help"], capture_output=True).returncode == 0 for c in known), command


def test_blocks_of_other_pages_are_run_by_a_test():
    for page in set(PAGES) - set(OPERATIONS):
        lines = [line for block in blocks(page) for line in block.splitlines() if re.match(r"(tools/|anneal )", line)]
        for line in lines:
            command = re.match(r"tools/\S+|anneal \w+", line).group()
            if command.startswith("tools/"):
                assert (SOURCE_DIR / command).is_file(), f"{page.name}: {line}"
                help_text = subprocess.run([SOURCE_DIR / command, "--help"], capture_output=True, text=True, check=True).stdout
                for flag in re.findall(r"(?<!\S)--[a-z-]+", line.partition("#")[0]):
                    assert flag == "--" or flag in help_text, f"{page.name}: {line}"
            else:
                shown = subprocess.run([BIN_DIR / "anneal", command.split()[1], "--help"], capture_output=True, text=True, check=True).stdout
                for flag in re.findall(r"(?<!\S)--[a-z-]+", line.partition("#")[0]):
                    assert flag in shown, f"{page.name}: {line}"
            test = RUN_BY.get(page.name, {}).get(command)
            assert test is None or command.split("/")[-1].split()[-1] in (SOURCE_DIR / test).read_text(), f"{page.name}: {line}"


def spans(text):
    """(the command, its paragraph) of each command within the text."""
    for paragraph in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).split("\n\n"):
        for span in re.findall(r"`([^`\n]+)`", paragraph.replace("\\|", "|")):
            yield span, paragraph


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_within_the_text(page, service):
    """They are tried where they can be: with JOB and the like for what there is. Refusals for the state of things are no fault of theirs."""
    admin = re.search(r'"admin":"([^"]+)"', (service.folder / "addresses").read_text()).group(1)
    for span, paragraph in spans(page.read_text()):
        words = span.split()
        command = span
        for name, value in [("JOB_OUTPUT", "."), ("JOB", "waits"), ("COORDINATOR:7445", admin), ("INSTANCE", admin), ("WORKER", "w0"), ("FOLDER", "."), ("DIR", "."),
                            ("NODE", "w0"), (" W", " w0"), ("--rank N", "--rank 0"), ("--generation G", "--generation 1")]:
            command = command.replace(name, value)
        if words[0] == "anneal" and len(words) > 1:
            if words[1] in ("up", "down", "submit", "init", "check", "generate", "download", "delete"):  # what they would do is not wanted here
                result = service.run(f"anneal {words[1]} --help && anneal --help")
                assert all(flag in result.stdout for flag in re.findall(r"--[a-z-]+", span)), f"{page.name}: {span}"
            else:
                result = service.run(f"timeout 60 {re.sub('--follow|-f', '', command)}")
                if "is required" in result.stderr:  # a command's name
                    result = service.run(f"{command} --help")
            assert result.returncode not in (4, 5, 124), f"{page.name}: {span}\n{result.stdout}{result.stderr}"
            assert "Run with --help" not in result.stderr, f"{page.name}: {span}\n{result.stderr}"
        elif words[0] in ("curl", "df", "du") and len(words) > 1:
            result = service.run(command)
            assert result.returncode == 0, f"{page.name}: {span}\n{result.stderr}"
        elif words[0] in THERE and len(words) > 1:
            title = page.read_text().partition("\n")[0]
            assert re.search(THERE[words[0]], title + paragraph, re.IGNORECASE), f"{page.name}: {span}: where?"


def test_every_command_of_the_list_has_the_flags_that_it_names():
    """docs/cli.md, first column: `command ARGUMENTS [--flag VALUE]`."""
    rows = re.findall(r"^\| (`.*?) \| ", (SOURCE_DIR / "docs" / "cli.md").read_text().replace("\\|", "/"), re.MULTILINE)
    checked = 0
    for row in rows[:40]:
        for span in re.findall(r"`([a-z]+(?: [a-z]+)?(?=[ `])[^`]*)`", row):
            words = re.match(r"[a-z]+(?: [a-z]+(?![A-Z]))?", span).group().split()
            shown = subprocess.run([BIN_DIR / "anneal", *words, "--help"], capture_output=True, text=True)
            if shown.returncode != 0:
                continue  # a row of another table
            checked += 1
            for flag in re.findall(r"--[a-z-]+", span):
                assert flag in shown.stdout, f"anneal {span}"
    assert checked > 25


def test_a_restored_backup_serves_what_it_held(sandbox):
    sandbox.submit("before")
    backup, restore = [block for block in blocks(SOURCE_DIR / "docs/operations/backup.md") if not ELSEWHERE.match(block.partition("\n")[0])]
    assert restore.startswith(STOPPED)
    sandbox.run_block(backup)
    sandbox.submit("after")
    assert "after" in sandbox.run_block("anneal jobs")
    sandbox.run_block(restore)
    listed = sandbox.run_block("anneal jobs")
    assert "before" in listed and "after" not in listed
    sandbox.submit("again")
    assert "again" in sandbox.run_block("anneal jobs")


def test_the_pages_make_what_they_say(sandbox):
    page = SOURCE_DIR / "docs" / "operations" / "kubernetes.md"
    for block in blocks(page):
        if not ELSEWHERE.match(block.partition("\n")[0]):
            sandbox.run_block(block)
    for path in re.findall(r"--from-file=(?:\w+=)?(\S+)", page.read_text()):
        assert (sandbox.folder / path).stat().st_mode & 0o077 == 0, path


def test_named_paths_flags_and_links_exist(programs):
    flags = programs.flags("anneal-coordinator") | programs.flags("anneal-worker")
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"(?<![\w/.])((?:deploy|tools|tests)/[\w./-]+)", text):
            assert (SOURCE_DIR / path.rstrip(".")).exists(), f"{page.name}: {path}"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        if page in OPERATIONS:
            for flag in re.findall(r"`--([a-z-]+)`", text):
                if page.stem == "slurm" and flag in ("batch", "full"):  # scancel's
                    continue
                assert flag in flags, f"{page.name}: --{flag}"


def test_ports_of_the_page_are_the_defaults():
    text = (SOURCE_DIR / "docs" / "operations" / "network.md").read_text()
    helps = "".join(subprocess.run([BIN_DIR / p, "--help"], capture_output=True, text=True).stdout for p in ("anneal-coordinator", "anneal-worker"))
    for port, flag in re.findall(r"^\| (\d+) \|.*?\(`(--[a-z-]+)`\)", text, re.MULTILINE):
        if flag != "--liveness-listen":  # off unless asked for
            assert re.search(rf"{flag} .*:{port}\b", helps), f"{flag} is not {port} by default"
