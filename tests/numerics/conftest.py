"""Runs the trainer's own programs on tiny random models and hands their numbers to the tests."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

SOURCE = Path(os.environ["ANNEAL_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE / "tests" / "testing"))

BIN = Path(os.environ["ANNEAL_BIN_DIR"])
torch.set_num_threads(1)


def sha256(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def hashes(out):
    """SHA-256 of the ledger and of every exported weight file."""
    files = [out / "ledger.jsonl", *sorted(out.glob("*/*.safetensors"))]
    assert len(files) > 1
    return {str(file.relative_to(out)): sha256(file) for file in files}


def run(program, *arguments):
    done = subprocess.run([BIN / program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run_together(program, commands):
    """Runs one process per command, all at the same time; none stays behind. Returns what each wrote to its standard error."""
    processes = [subprocess.Popen([BIN / program, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True) for command in commands]
    try:
        with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
            logs = list(pool.map(lambda process: process.communicate(timeout=300)[1], processes))
        for process, text in zip(processes, logs, strict=True):
            assert process.returncode == 0, text[-2000:]
        return logs
    finally:
        for process in processes:
            process.kill()


def resolved_job(task):
    """What tools/replay needs of a resolved job, as a coordinator would have written it."""
    training = dict(weight_decay=0, max_grad_norm=1.0, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, seed=0,
                    precision="FP32")
    training |= {name: value for name, value in task.items() if name in training}
    training["precision"] = "PRECISION_" + training["precision"]
    return json.dumps({"spec": {"model": f"file://{task['model_dir']}", "training": training}})


class Programs:
    """The trainer's programs with files in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.logs = []

    def write_json(self, name, value):
        path = self.folder / name
        path.write_text(json.dumps(value))
        return path

    def logits(self, model, rows, adapter=None):
        """Our logits of each row, [tokens, vocabulary] each."""
        out = self.folder / "logits.safetensors"
        tokens = self.write_json("tokens.json", {"rows": rows})
        run("anneal-trainer", "logits", "--model", model, "--tokens", tokens, "--out", out,
            *(["--adapter", adapter] if adapter else []))
        packed = torch.from_numpy(load_file(out)["logits"])
        return list(packed.split([len(row) for row in rows]))

    def probe(self, model, rows, supervised, dtype, adapter="", **request):
        """What our decoder computes in `dtype`, as fp64 tensors: {"logits", "losses", "gradient/<tensor>"}."""
        out = self.folder / "probe.safetensors"
        run("decoder_probe", self.write_json("probe.json", {
            "model": str(model), "adapter": str(adapter), "type": dtype, "rows": rows, "supervised": supervised,
            "source_rows": list(range(len(rows))), "out": str(out), **request}))
        return {name: torch.from_numpy(value) for name, value in load_file(out).items()}

    def generate(self, model, prompt, max_tokens):
        """What our model says after `prompt`, without a chat template."""
        return run("anneal-trainer", "generate", "--raw", "--model", model, "--prompt", prompt, "--max-tokens", max_tokens)

    def prepare(self, model, data):
        """The prepared data set of `data` as (path, list of (token ids, loss weights))."""
        out = self.folder / "prepared"
        run("anneal-prepare", "run", "--task", self.write_json("prepare.json", {
            "job": "j", "model_dir": str(model), "train_files": [{"path": str(data), "display_name": data.name}],
            "max_length": 128, "output_dir": str(out)}))
        arrays = load_file(out / "train.safetensors")
        starts = arrays["example_offsets"]
        rows = [(arrays["token_ids"][a:b].astype(np.int64), arrays["loss_weight"][a:b].astype(bool))
                for a, b in zip(starts[:-1], starts[1:])]
        return out / "train.safetensors", rows

    def train(self, model, train_data, ranks=1, out="outputs", **task):
        """Runs a whole job, one process per rank over Gloo; returns its outputs folder and ledger, and keeps the ranks' logs in
        `logs`.

        `train_data`: one path, or one for each rank.
        """
        out = self.folder / out
        data = train_data if isinstance(train_data, list) else [train_data] * ranks
        settings = {"job": "j", "generation": 1, "model_dir": str(model), "output_dir": str(out), "world_size": ranks,
                    "microbatch_tokens": 64, "logical_shards": 4, "collective_timeout_seconds": 60, **task}
        settings["resolved_job_json"] = resolved_job(settings)
        commands = []
        for rank in range(ranks):
            file = self.write_json(f"{out.name}-{rank}.json",
                                   {**settings, "rank": rank, "train_data": str(data[rank])})
            commands.append(["run", "--task", file, "--storage-root", self.folder])
            if ranks > 1:
                commands[-1] += ["--rendezvous-file", self.folder / f"{out.name}.rendezvous"]
        self.logs = run_together("anneal-trainer", commands)
        return out, [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]

    def checkpoints(self, root):
        """{step: {state file: SHA-256}} of the checkpoints below `root`: trained values and the optimizer's moments."""
        return {int(folder.name.split("-")[0]): {file.name: sha256(file) for file in folder.glob("state-*.safetensors")}
                for folder in (self.folder / root).glob("*-g1")}

    def replay(self, *arguments):
        """tools/replay: (the finished process, its summary or nothing)."""
        summary = self.folder / "replay.json"
        summary.unlink(missing_ok=True)
        done = subprocess.run([SOURCE / "tools" / "replay", *map(str, arguments), "--json", summary, "--threads", "1"],
                              capture_output=True, text=True, timeout=300)
        return done, json.loads(summary.read_text()) if summary.exists() else None


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path)
