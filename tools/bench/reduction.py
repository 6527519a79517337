"""Measures the reductions; run by tools/bench/reduction, whose --help says what."""

import csv
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from prepared_data import write_prepared

BATCH, TOKENS = 8, 64
METHODS = {"LoRA": dict(lora={"rank": 16, "alpha": 32}, learning_rate=2e-4), "full": dict(learning_rate=1e-5)}
REDUCTIONS = ("FIXED_ORDER", "FAST")


def write_rows(path, model, rows):
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    chance = random.Random(5)
    weights = [0] * (TOKENS // 2) + [1] * (TOKENS // 2)
    write_prepared(path, [([chance.randrange(vocabulary) for _ in range(TOKENS)], weights) for _ in range(rows)], vocabulary)


def step_seconds(trainer, folder, ranks, task):
    """Runs a job; the seconds of its steps after the first."""
    commands = []
    for rank in range(ranks):
        file = folder / f"task-{rank}.json"
        file.write_text(json.dumps({**task, "rank": rank, "world_size": ranks}))
        commands.append([trainer, "run", "--task", file, "--storage-root", folder])
        if ranks > 1:
            commands[-1] += ["--rendezvous-file", folder / "rendezvous"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
    out = Path(task["output_dir"])
    with open(out / "metrics.csv", newline="", encoding="utf-8") as file:
        seconds = [float(line["step_seconds"]) for line in csv.DictReader(file)]
    shutil.rmtree(out)
    (folder / "rendezvous").unlink(missing_ok=True)
    return seconds[1:]


def main():
    trainer, model, (ranks, runs, steps) = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
    with tempfile.TemporaryDirectory(prefix="anneal-bench-") as name:
        folder = Path(name)
        write_rows(folder / "rows.safetensors", model, (steps + 1) * BATCH)
        task = dict(job="bench", generation=1, model_dir=str(model), train_data=str(folder / "rows.safetensors"),
                    output_dir=str(folder / "outputs"), resolved_job_json="{}", epochs=1, batch_size=BATCH, logical_shards=4,
                    microbatch_tokens=512, threads=1)
        print(f"{ranks} ranks     FIXED_ORDER        FAST   ratio")
        for method, settings in METHODS.items():
            seconds = {reduction: [] for reduction in REDUCTIONS}
            for run in range(runs):
                for reduction in REDUCTIONS if run % 2 == 0 else REDUCTIONS[::-1]:
                    seconds[reduction] += step_seconds(trainer, folder, ranks, {**task, **settings, "reduction": reduction})
            fixed, fast = (statistics.median(seconds[reduction]) for reduction in REDUCTIONS)
            print(f"{method:7}  {fixed:11.3f} s  {fast:8.3f} s  {fixed / fast:6.3f}", flush=True)


if __name__ == "__main__":
    main()
