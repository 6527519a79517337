"""Real trainer processes that die, pause and come back: the end is the same, byte for byte."""

import concurrent.futures
import hashlib
import json
import os
import random
import re
import subprocess

import prepared_data
import pytest
import tiny_model
from conftest import BIN

STEPS = 24
SETTINGS = dict(
    job="j", resolved_job_json="{}", batch_size=4, epochs=4, learning_rate=0.01, seed=5, microbatch_tokens=64, logical_shards=4,
    evaluate_every_steps=5, collective_timeout_seconds=60, checkpoint_root="checkpoints")
METHODS = {"lora": dict(lora={"rank": 4}), "full": {}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny model and two prepared data sets."""
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny_model.make_llama(folder / "model")
    chance = random.Random(1)
    for name, rows in (("train", 24), ("validation", 8)):
        examples = []
        for _ in range(rows):
            length = chance.randint(4, 30)
            ids = [chance.randrange(model.config.vocab_size) for _ in range(length)]
            examples.append((ids, [0] * (length - 2) + [1, 1]))
        prepared_data.write_prepared(folder / name, examples, model.config.vocab_size)
    return folder


class Job:
    """One job as a coordinator would run it: generation after generation, each from what was committed before."""

    def __init__(self, folder, inputs, **settings):
        self.folder = folder
        self.task = {**SETTINGS, "model_dir": str(inputs / "model"), "train_data": str(inputs / "train"),
                     "validation_data": str(inputs / "validation"), "output_dir": str(folder / "outputs"), **settings}
        self.generation = 0
        self.committed = []  # newest first
        self.reports = []  # of the last generation

    def run(self, ranks, arguments=None, sharding="NONE"):
        """Runs one generation and returns the exit codes. `arguments`: more of them, by rank.

        When one rank has died the others are killed, as a worker does.
        """
        self.generation += 1
        rendezvous = self.folder / f"rendezvous-{self.generation}"
        processes, outputs = [], []
        try:
            for rank in range(ranks):
                task = self.folder / f"task-{rank}.json"
                task.write_text(json.dumps({
                    **self.task, "sharding": sharding, "generation": self.generation, "rank": rank, "world_size": ranks,
                    "resume_from": self.committed}))
                outputs.append(open(self.folder / f"g{self.generation}-rank{rank}.out", "w+"))
                processes.append(subprocess.Popen(
                    [BIN / "anneal-trainer", "run", "--task", task, "--storage-root", self.folder, "--rendezvous-file", rendezvous,
                     *(arguments or {}).get(rank, [])], stdout=outputs[-1], stderr=subprocess.STDOUT))
            with concurrent.futures.ThreadPoolExecutor(ranks) as pool:
                for done in concurrent.futures.as_completed(pool.submit(process.wait, 120) for process in processes):
                    if done.result() != 0:
                        for process in processes:
                            process.kill()
        finally:
            for process in processes:
                process.kill()
        lines = []
        for output in outputs:
            output.seek(0)
            lines.append(output.read().splitlines())
            output.close()
        self.reports = [json.loads(line) for line in lines[0] if line.startswith("{")]
        for report in self.reports:
            if "checkpoint" in report:
                checkpoint = report["checkpoint"]
                self.committed.insert(0, {key: checkpoint[key] for key in ("step", "dir", "manifest_sha256")})
        return [process.returncode for process in processes]

    def block(self, name):
        """Makes the next generation's first checkpoint wait forever at the file `name`: a named pipe that nobody reads."""
        step = self.committed[0]["step"] + 1 if self.committed else 1
        folder = self.folder / "checkpoints" / "tmp" / f"{step}-g{self.generation + 1}"
        folder.mkdir(parents=True)
        os.mkfifo(folder / name)

    def reported(self, kind):
        return [report[kind] for report in self.reports if kind in report]

    def digests(self):
        outputs = self.folder / "outputs"
        weights = next(outputs.glob("*/*.safetensors"))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, outputs / "ledger.jsonl")}


@pytest.fixture(scope="module", params=METHODS)
def undisturbed(request, tmp_path_factory, inputs):
    """Settings of a job, and the hashes it ends with when nothing happens to it."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), inputs, checkpoint_seconds=0, **METHODS[request.param])
    assert job.run(1) == [0]
    assert job.reported("step")[-1]["step"] == STEPS
    return METHODS[request.param], job.digests()


def test_a_job_killed_in_every_phase_ends_with_the_same_bits(tmp_path, inputs, undisturbed):
    settings, digests = undisturbed
    job = Job(tmp_path, inputs, checkpoint_seconds=1e-6, **settings)
    killed = -9
    for ranks, rank, activity in ((2, 1, "forward"), (1, 0, "backward"), (2, 1, "reduce"), (4, 0, "update")):
        at = min(STEPS - 4, 3 + (job.committed[0]["step"] if job.committed else 0))
        assert job.run(ranks, {rank: ["--die-at", f"{activity}:{at}"]})[rank] == killed, activity
        assert job.generation == 1 or job.reported("resumed") or not job.committed
    # In the midst of writing: a state file, and the folder that only lacks its manifest.
    for name in ("state-00001-of-00004.safetensors", "history.jsonl"):
        job.block(name)
        at = min(STEPS, 3 + (job.committed[0]["step"] if job.committed else 0))
        committed = list(job.committed)
        assert job.run(2, {0: ["--die-at", f"backward:{at}"]})[0] == killed, name
        assert job.committed == committed
    assert job.run(2) == [0, 0]
    assert job.reported("step")[-1]["step"] == STEPS
    assert job.digests() == digests


def test_pause_and_resume_on_other_numbers_of_ranks(tmp_path, inputs, undisturbed):
    settings, digests = undisturbed
    job = Job(tmp_path, inputs, checkpoint_seconds=0, **settings)
    for ranks, step in ((2, 4), (4, 11), (1, 12)):
        codes = job.run(ranks, {rank: ["--pause-after", str(step)] for rank in range(ranks)})
        assert codes == [0] * ranks
        assert job.committed[0]["step"] == step
        assert not (tmp_path / "outputs").exists()
    assert job.run(2) == [0, 0]
    assert job.reported("resumed") == [dict(step=12, dir="checkpoints/12-g3", damaged=[], fingerprint_change="")]
    assert [step["step"] for step in job.reported("step")] == list(range(13, STEPS + 1))
    assert job.digests() == digests


def test_a_checkpoint_of_one_sharding_loads_in_another(tmp_path, inputs, undisturbed):
    settings, digests = undisturbed
    job = Job(tmp_path, inputs, checkpoint_seconds=0, **settings)
    for sharding, ranks, step in (("OPTIMIZER", 2, 4), ("NONE", 4, 7), ("GRADIENTS", 4, 10), ("FULL", 4, 13), ("OPTIMIZER", 4, 16)):
        codes = job.run(ranks, {rank: ["--pause-after", str(step)] for rank in range(ranks)}, sharding=sharding)
        assert codes == [0] * ranks, sharding
        assert job.committed[0]["step"] == step
    assert job.run(2, sharding="FULL") == [0, 0]
    assert job.reported("resumed")[0]["damaged"] == []
    assert job.digests() == digests


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path, inputs, undisturbed):
    settings, digests = undisturbed
    job = Job(tmp_path, inputs, checkpoint_seconds=0, **settings)
    assert job.run(1, {0: ["--pause-after", "3"]}) == [0]
    assert job.run(1, {0: ["--pause-after", "6"]}) == [0]
    state = tmp_path / job.committed[0]["dir"] / "state-00002-of-00004.safetensors"
    content = bytearray(state.read_bytes())
    content[-5] ^= 1
    state.write_bytes(content)
    assert job.run(2) == [0, 0]
    (resumed,) = job.reported("resumed")
    assert resumed["step"] == 3
    assert [damaged["dir"] for damaged in resumed["damaged"]] == ["checkpoints/6-g2"]
    assert state.name in resumed["damaged"][0]["why"]
    assert job.digests() == digests


def test_a_rank_that_hangs_leaves_with_the_stacks_of_its_threads(tmp_path, inputs):
    job = Job(tmp_path, inputs, **METHODS["lora"])
    assert job.run(1, {0: ["--hang-at", "forward:3", "--run-dir", tmp_path]}) == [1]
    record = json.loads((tmp_path / "exit.json").read_text())
    assert record["reason"] == "HUNG"
    assert re.match(r"rank 0 hangs in forward of step 3 for [\d.]+s", record["message"]), record
    log = (tmp_path / "g1-rank0.out").read_text()
    # The training thread is the process's first, and comes last.
    stack = log[log.rindex("\nthread "):log.rindex("\nend of stacks\n")]
    assert "anneal::trainer::Trainer::Run()" in stack, log
    assert "\nthread " in log[:log.rindex("\nthread ")], "the other threads are there, too"
    assert log.rindex("end of stacks") < log.rindex("reason=HUNG"), "what matters most is the log's end"
