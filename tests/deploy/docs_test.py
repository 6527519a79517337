"""Commands in the documentation: blocks run here, or say what they need, or are what a named file runs; each `anneal` in them has a
command and flags that there are; commands within the text are tried with names of things that are there; paths, flags and links that are
named exist."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

import anneal_words
from anneal_words import commands_in
from conftest import BIN_DIR, SOURCE_DIR

sys.path.insert(0, str(SOURCE_DIR / "tests" / "testing"))
import tiny_model  # noqa: E402

OPERATIONS = sorted((SOURCE_DIR / "docs" / "operations").glob("*.md"))
PAGES = [SOURCE_DIR / "README.md", SOURCE_DIR / "CONTRIBUTING.md", *sorted((SOURCE_DIR / "docs").rglob("*.md"))]
# The first line of a block that is not run here.
ELSEWHERE = re.compile(r"# (needs (a cluster|systemd and root|Docker|Slurm|root and mmdebstrap)|tested by (\S+))$")
STOPPED = "# with the coordinator stopped"
# Whole commands of the other pages that would take too long here: what runs each. The quick start takes minutes and an empty machine:
# CONTRIBUTING.md says how.
RUN_BY = {"tools/quickstart": "CONTRIBUTING.md", "tools/test": ".ci/run", "tools/setup --test": "tools/test",
          "tools/build release": "tools/test", "ctest --preset release": "tools/test"}
# Commands within the text that are of a machine which has the fault, and the words that must say so beside them.
THERE = {"systemctl": "systemd", "kubectl": "Kubernetes|cluster|pod", "scancel": "Slurm|allocation", "nvidia-smi": "machine|node|worker",
         "dmesg": "machine|node|worker", "kill": "node|worker|trainer|daemon|keeper|process|coordinator|systemd"}


def blocks(page):
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def without_brackets(block):
    """`[--flag VALUE]`, which may be left out, as if it were not in brackets."""
    return re.sub(r"\[(--[^]]*)\]", r"\1", block)


def check_words(block):
    """Each command of a block may be run: it is a shell's, and what it asks of `anneal` and of tools/ is there."""
    assert subprocess.run(["bash", "-n"], input=block, text=True).returncode == 0, block
    for words in commands_in(without_brackets(block)):
        anneal_words.check(words)
        for tool in (word for word in words[:1] if word.startswith("tools/")):
            assert (SOURCE_DIR / tool).is_file(), tool
            shown = subprocess.run([SOURCE_DIR / tool, "--help"], capture_output=True, text=True, check=True).stdout
            for flag in (word for word in words if word.startswith("-")):
                assert re.search(rf"(?<![\w-]){flag}(?![\w-])", shown), f"{tool} has no {flag}"


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
        check_words(block)
        first, _, rest = block.partition("\n")
        elsewhere = ELSEWHERE.match(first)
        if elsewhere is None:
            sandbox.run_block(block)
        elif elsewhere.group(3):
            text = (SOURCE_DIR / elsewhere.group(3)).read_text()
            for command, *words in commands_in(rest):
                assert command.startswith("tools/"), command
                flags = {word for word in words if word.startswith("--")} - {"--archive"}  # or --to, a folder
                calls = re.findall(rf'"{command.partition("/")[2]}"[^\n]*', text)
                assert any(all(f'"{flag}"' in call for flag in flags) for call in calls), f"{elsewhere.group(3)} does not run {command} {words}"


def commands_of(name):
    """Whole commands that a file runs: a script's, or those of a page's blocks."""
    path = SOURCE_DIR / name
    texts = blocks(path) if path.suffix == ".md" else [path.read_text()]
    for words in (words for text in texts for words in commands_in(text)):
        # `tools/fresh_root DIR COMMAND`
        yield from (" ".join(words[start:]) for start in ([0, 2] if words[0] == "tools/fresh_root" else [0]))


OTHERS = [page for page in PAGES if page not in OPERATIONS and blocks(page)]


@pytest.mark.parametrize("page", OTHERS, ids=lambda p: p.stem)
def test_blocks_of_other_pages_run(page, tmp_path):
    for number, block in enumerate(blocks(page)):
        check_words(block)
        if ELSEWHERE.match(block.partition("\n")[0]):
            continue
        long = [" ".join(words) for words in commands_in(block) if words[0].startswith(("tools/", "ctest"))]
        if not long:
            run_as_a_reader(block, tmp_path / str(number))
            continue
        assert len(long) == len(list(commands_in(block))), f"{page.name}: {block}"
        for command in long:
            if command in RUN_BY:
                run = list(commands_of(RUN_BY[command]))
                assert any(known == command or known.startswith(f"{command} ") for known in run), f"{RUN_BY[command]} does not run {command}"
            else:
                raise AssertionError(f"{page.name}: what runs {command}?")


def run_as_a_reader(block, folder):
    """In a new folder with a model; a service that the block starts in the foreground is there for its other commands."""
    (folder / "path" / "to").mkdir(parents=True)
    tiny_model.make_llama(folder / "path" / "to" / "model")
    if "anneal init" not in block:
        tiny_model.write_chat_rows(folder / "train.jsonl", 8)
    environment = {**os.environ, "PATH": f"{BIN_DIR}:{os.environ['PATH']}", "HOME": str(folder)}

    def run(command):
        done = subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    service = None
    try:
        for line in block.splitlines():
            if line.startswith("anneal up"):
                words = shlex.split(line, comments=True)
                service = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                for told in service.stdout:
                    if told.startswith("ready"):
                        break
                else:
                    raise AssertionError("the service did not start")
                continue
            run(without_brackets(line))
            if "[" in line:
                run(re.sub(r"\[(--[^]]*)\]", "", line))
    finally:
        if service is not None:
            service.send_signal(signal.SIGINT)
            assert service.wait(60) == 0


@pytest.mark.parametrize("command, fault", [
    ("anneal workers drian w0", "no command drian"), ("anneal wrokers", "no command wrokers"), ("anneal workers drain", "1 argument"),
    ("anneal --server unix:/x keys craete --role admin", "no command craete"), ("anneal --sever x jobs", "no flag --sever"),
    ("kubectl exec p -- /opt/anneal/bin/anneal --server unix:/x keys create --rle admin", "no flag --rle"), ("anneal", "a command"),
    ("anneal keys create --role king --project p --creator c", "king"), ("anneal keys create --role admin", "wants --"),
    ("until anneal workers --al; do true; done", "no flag --al"), ("x=$(anneal jbos)", "no command jbos"),
    ("echo \"$(anneal jbos)\"", "no command jbos"), ("(umask 077; anneal jobs --limt 3 >x)", "no flag --limt"), ("anneal get a b", "1 argument"),
    ("tools/build release\ntools/package --cda --to x", "no --cda"), ("tools/biuld", "tools/biuld"), ("sudo -u anneal anneal jbos", "no command jbos"),
    ("anneal jobs \\\n  --limt 3", "no flag --limt"), ("true && anneal jbos # why", "no command jbos"),
    ("cat <<END\nanneal nothing\nEND\nanneal jbos", "no command jbos")])
def test_wrong_commands_are_found(command, fault):
    with pytest.raises(AssertionError, match=re.escape(fault)):
        check_words(command)


def test_right_commands_pass():
    for command in ["anneal -o json jobs --limit=3 | head", "kubectl -n anneal delete pod x", "cat <<'END' >x\nanneal nothing\nEND\nanneal --version",
                    "anneal submit job.yaml --set a=b --follow 2>/dev/null", "anneal workers -o json # list", "anneal keys revoke --help"]:
        check_words(command)


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


def backup_blocks(section):
    text = (SOURCE_DIR / "docs/operations/backup.md").read_text().partition(f"### {section}\n")[2].partition("\n### ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# In kubectl's place: keeps what is applied, says what a claim would, and runs what is to be run in a pod, on the sandbox's catalog.
KUBECTL = """#!/bin/bash
echo "$*" >>calls
case "$*" in
  *" apply -f -") cat >>applied && echo --- >>applied ;;
  *"{.spec.volumeName}") echo pv-1 ;;
  *"{.spec.storageClassName}") echo block ;;
  *"{.status.capacity.storage}") echo 20Gi ;;
  *" exec "*)
    while [ "$1" != -- ]; do shift; done
    shift
    exec "${@//\\/var\\/lib\\/anneal\\/catalog/$DATA_DIR}" ;;
esac
"""


def play_kubectl(sandbox):
    (sandbox.folder / "bin").mkdir()
    (sandbox.folder / "bin" / "kubectl").write_text(KUBECTL)
    (sandbox.folder / "bin" / "kubectl").chmod(0o755)
    sandbox.environment["PATH"] = f"{sandbox.folder}/bin:{sandbox.environment['PATH']}"


def applied(sandbox):
    made = [resource for resource in yaml.safe_load_all((sandbox.folder / "applied").read_text()) if resource]
    for resource in made:
        if not resource["apiVersion"].startswith("snapshot."):
            kubernetes_validate.validate(resource, "1.27", strict=True)
    return {resource["kind"]: resource for resource in made}


def test_a_snapshot_of_the_claim_becomes_the_claim(sandbox, rendered):
    play_kubectl(sandbox)
    take, restore = backup_blocks("With snapshots of volumes")
    sandbox.run_block(take)
    sandbox.run_block(restore)
    made = applied(sandbox)
    [template] = rendered["gpu"].coordinator["spec"]["volumeClaimTemplates"]
    claim = made["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == f"{template['metadata']['name']}-anneal-coordinator-0"
    assert claim["spec"]["accessModes"] == template["spec"]["accessModes"] and claim["spec"]["storageClassName"] == "block"
    assert made["VolumeSnapshot"]["spec"] == {"source": {"persistentVolumeClaimName": claim["metadata"]["name"]}}
    assert claim["spec"]["dataSource"]["name"] == made["VolumeSnapshot"]["metadata"]["name"]
    calls = (sandbox.folder / "calls").read_text()
    order = [calls.index(part) for part in ("readyToUse", "patch persistentvolume pv-1", "--replicas=0", "wait --for=delete",
                                            "delete persistentvolumeclaim", "--replicas=1")]
    assert order == sorted(order), calls


def test_a_catalog_is_copied_out_of_its_volume_and_back(sandbox, checks, rendered):
    play_kubectl(sandbox)
    sandbox.submit("before")
    start, backup, restore, end = backup_blocks("Without")
    sandbox.stop()
    sandbox.run_block(start)
    sandbox.run_block(backup)
    for name in ("catalog.db", "metrics.db"):
        assert (sandbox.folder / "catalog" / name).stat().st_size > 0
    sandbox.start()
    sandbox.submit("after")
    sandbox.stop()
    sandbox.run_block(restore)
    sandbox.run_block(end)
    sandbox.start()
    listed = sandbox.run_block("anneal jobs")
    assert "before" in listed and "after" not in listed
    # The namespace takes restricted pods alone, and of those with the coordinator's account the volume's files may be read.
    pod = applied(sandbox)["Pod"]
    workload = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {**pod["metadata"], "namespace": "anneal"},
                "spec": {"template": {"spec": pod["spec"]}}}
    text = yaml.safe_dump_all([rendered["gpu"].of_kind("Namespace")["anneal"], workload])
    done = subprocess.run([checks / "bin" / "pod_security"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and "restricted" in done.stdout, done.stdout + done.stderr
    coordinator = rendered["gpu"].coordinator["spec"]["template"]["spec"]
    for key in ("serviceAccountName", "securityContext"):
        assert pod["spec"][key] == coordinator[key]
    [mount] = pod["spec"]["containers"][0]["volumeMounts"]
    assert mount in coordinator["containers"][0]["volumeMounts"]


def test_the_package_folder_is_open_to_its_users(sandbox):
    """What a page's earlier blocks have set in the shell must not close /opt/anneal to the account of the units."""
    page = blocks(SOURCE_DIR / "docs/operations/single_machine.md")
    [secret] = [block for block in page if "make_certificates" in block]
    installs = [line for block in page for line in block.splitlines() if "--strip-components" in line]
    assert len(installs) == 2
    for number, line in enumerate(installs):
        place = sandbox.folder / f"opt{number}"
        sandbox.run_block(f"mkdir -p made/bin && touch made/bin/program && chmod -R a+rX made && tar -czf anneal.tar.gz made\n{secret}\n"
                          + line.replace("/opt/anneal", str(place)))
        assert place.stat().st_mode & 0o777 == (place / "bin").stat().st_mode & 0o777 == 0o755
    assert (sandbox.folder / "worker-credentials").stat().st_mode & 0o777 == 0o600


def test_keys_are_written_for_their_owner_alone():
    for page in OPERATIONS:
        for block in blocks(page):
            lines = block.replace("\\\n", " ").splitlines()
            for number, line in enumerate(lines):
                for secret in re.findall(r">([\w.-]+\.keys?|worker-credentials)\b", line):
                    closed = "(umask 077" in line or "umask 077" in lines[:number]
                    # Written over, it keeps its mode.
                    assert closed or any(f"cat {secret}" in before for before in lines[:number]), f"{page.name}: {line}"


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
