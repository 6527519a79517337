"""anneal-prepare as a program: what people see of `check`, and how a worker talks to it."""

import json
import os
import pathlib
import pty
import re
import socket
import subprocess
import tempfile
import time

import pytest

PREPARE = pathlib.Path(os.environ["ANNEAL_BIN_DIR"]) / "anneal-prepare"
SOURCE = pathlib.Path(os.environ["ANNEAL_SOURCE_DIR"])
JOB = "01hf7yat00abcdefghjkmnpqrs"


def special(token_id, content):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, "special": True, **flags}


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [special(1, "<s>"), special(2, "</s>")],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}},
}
TEMPLATE = "{% for m in messages %}{{ '<s>' + m.role + ' ' + m.content + '</s>' }}{% endfor %}"
GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
BAD = '{"messages": [{"role": "human", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def root(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": TEMPLATE}))
    (tmp_path / "good.jsonl").write_text(GOOD)
    (tmp_path / "bad.jsonl").write_text(GOOD + "\n" + BAD)
    return tmp_path


def read_all(terminal):
    """What was written to a terminal whose other end is closed."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO is Linux's end of file here
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def run(root, *arguments):
    return subprocess.run([PREPARE, *arguments], cwd=root, capture_output=True, text=True, timeout=60)


def test_check_says_what_is_wrong_where(root):
    done = run(root, "check", "bad.jsonl", "--model", "model")
    assert done.returncode == 2
    assert 'bad.jsonl:3: messages[0].role: unknown role "human" (it is called "user" here)' in done.stdout
    assert done.stdout.endswith("1 error\n")


def test_check_counts_what_is_good(root):
    done = run(root, "check", "good.jsonl", "--model", "model", "--validation", "good.jsonl")
    assert done.returncode == 0
    assert "training: 1 rows, 8 tokens, 2 count for the loss" in done.stdout
    assert "warning: this validation row is also trained on: line 1 of good.jsonl" in done.stdout
    assert done.stdout.endswith("ok\n")


@pytest.mark.parametrize("flags", [["--json"], ["--output", "json"]])
def test_check_as_json(root, flags):
    done = run(root, "check", "bad.jsonl", "--model", "model", *flags)
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["format"] == "anneal.data_report"
    assert [issue["code"] for issue in report["issues"]] == ["UNKNOWN_ROLE"]


def test_the_page_about_data_shows_rows_that_are_good(root):
    page = (SOURCE / "docs/data.md").read_text()
    rows = "".join(re.findall(r"```json\n(.*?)```", page, re.S))
    assert len(rows.splitlines()) == 6
    (root / "page.jsonl").write_text(rows)
    template = TEMPLATE.replace("m.content", "(m.content or m.tool_calls[0].function.name)")
    (root / "model/tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": template}))
    done = run(root, "check", "page.jsonl", "--model", "model")
    assert done.returncode == 0, done.stdout


def test_the_page_about_data_lists_every_code():
    listed = set()
    for line in (SOURCE / "docs/data.md").read_text().splitlines():
        if line.startswith("| `") and line.split("`")[1].isupper():
            listed |= set(re.findall(r"`([A-Z_]{5,})`", line.split("|")[1]))
    listed -= {"ASSISTANT", "LAST_TURN", "REJECT", "TRUNCATE", "DROP"}
    used = set()
    for source in (SOURCE / "worker/prepare").glob("*.cc"):
        if not source.stem.endswith("_test"):
            pattern = r'(?:Add|Refuse)\(\s*"([A-Z_]+)"|Note\(\s*"WARNING", "([A-Z_]+)"|\.code = "([A-Z_]+)"'
            used |= {code for found in re.findall(pattern, source.read_text()) for code in found if code}
    assert len(used) > 25 and listed == used


def test_progress_shows_on_a_terminal_and_is_gone_at_the_end(root):
    (root / "many.jsonl").write_text(GOOD * 1000)
    terminal, end = pty.openpty()
    try:
        done = subprocess.run([PREPARE, "check", "many.jsonl", "--model", "model"], cwd=root, stdout=subprocess.PIPE, stderr=end, timeout=60)
        os.close(end)
        shown = read_all(terminal)
    finally:
        os.close(terminal)
    assert done.returncode == 0
    steps = shown.split("\r\033[K")
    assert "tokenising rows 1,000/1,000 (100 %)" in steps and len([s for s in steps if s.startswith("tokenising")]) > 3
    assert steps[-1] == "", "what follows on the terminal begins on an empty line"
    assert run(root, "check", "many.jsonl", "--model", "model").stderr == "", "no progress but on a terminal"


def test_other_errors_exit_otherwise(root):
    assert run(root, "check", "none.jsonl", "--model", "model").returncode == 1
    done = run(root, "check", "good.jsonl", "--model", "nowhere")
    assert done.returncode == 1 and "nowhere/tokenizer.json" in done.stderr
    assert run(root, "check", "--model", "model").returncode == 2
    assert run(root, "frobnicate").returncode == 2
    helped = run(root, "--help")
    assert helped.returncode == 0 and "check" in helped.stdout


class Worker:
    """The daemon's side of the protocol in common/protocol/messages.h."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="anneal-")  # a socket's path is short, pytest's folders are not
        self.run_dir = pathlib.Path(self.folder.name) / f"{JOB}-g1-prepare0"
        self.run_dir.mkdir()
        path = self.run_dir / "s"
        self.process = subprocess.Popen([PREPARE, "--socket", path], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        while self.socket.connect_ex(str(path)) != 0:
            assert self.process.poll() is None and time.monotonic() < deadline
        self.lines = self.socket.makefile("r")

    def send(self, **line):
        self.socket.sendall((json.dumps(line) + "\n").encode())

    def receive(self):
        return json.loads(self.lines.readline())

    def finish(self):
        """Waits for the end; returns exit code, exit record and reports."""
        code = self.process.wait(timeout=60)
        self.process.stderr.close()
        self.lines.close()
        self.socket.close()
        record = json.loads((self.run_dir / "exit.json").read_text())
        reports = [json.loads(line) for line in (self.run_dir / "reports.jsonl").read_text().splitlines()]
        self.folder.cleanup()
        return code, record, reports


def task(data):
    return {
        "job": JOB,
        "generation": 1,
        "model_dir": "model",
        "train_files": [{"path": data, "display_name": "files/1"}],
        "output_dir": "jobs/prepared",
        "max_length": 64,
    }


def test_a_worker_gets_a_report_in_its_own_paths(root):
    worker = Worker()
    hello = worker.receive()["hello"]
    assert (hello["kind"], hello["job"], hello["generation"]) == ("prepare", JOB, 1)
    worker.send(start={"storage_root": str(root), "task": task("good.jsonl")})
    code, record, [report] = worker.finish()
    assert code == 0 and record["status_code"] == 0
    prepared = report["prepared"]
    assert prepared["train_data"] == "jobs/prepared/train.safetensors"
    assert (root / prepared["train_data"]).exists()
    assert prepared["train_rows"] == 1 and prepared["error_count"] == 0


def test_a_worker_hears_of_bad_rows_by_the_users_names(root):
    worker = Worker()
    worker.send(start={"storage_root": str(root), "task": task("bad.jsonl")})
    code, record, [report] = worker.finish()
    assert code == 2 and record["reason"] == "BAD_DATA"
    prepared = report["prepared"]
    assert prepared["error_count"] == 1 and prepared["train_data"] == ""
    assert prepared["issues"][0]["file"] == "files/1" and prepared["issues"][0]["line"] == 3
    assert (root / prepared["data_report"]).exists()


def test_a_worker_can_stop_it_and_hears_why_it_failed(root):
    worker = Worker()
    worker.send(stop={"mode": "NOW"})
    code, record, reports = worker.finish()
    assert code == 1 and record["reason"] == "STOPPED" and reports == []


def test_a_missing_file_is_a_failure_and_not_bad_data(root):
    worker = Worker()
    worker.send(start={"storage_root": str(root), "task": task("none.jsonl")})
    code, record, reports = worker.finish()
    assert code == 1 and record["reason"] == "PREPARE_FAILED" and "none.jsonl" in record["message"] and reports == []
