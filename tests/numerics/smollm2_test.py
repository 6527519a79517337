"""A real model: SmolLM2-135M trains to the same bytes on one, two and four processes, and as transformers and peft would."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import hashes

STEPS, BATCH, MAX_TOKENS = 8, 8, 64
METHODS = {"lora": dict(lora={"rank": 16, "alpha": 32}, learning_rate=2e-4), "full": dict(learning_rate=1e-5)}


@pytest.fixture(scope="module")
def smollm2():
    fetch = Path(os.environ["ANNEAL_SOURCE_DIR"]) / "tools" / "models" / "fetch"
    return Path(subprocess.run([fetch, "smollm2"], check=True, capture_output=True, text=True).stdout.strip())


def write_rows(path):
    """64 chat rows of at most 64 tokens."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(STEPS * BATCH):
            question = " ".join(["What is", *(f"{(i * 7 + k) % 10} plus" for k in range(1 + i % 5)), f"{i}?"])
            answer = f"{i + sum((i * 7 + k) % 10 for k in range(1 + i % 5))}"
            messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": question},
                        {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")


@pytest.mark.parametrize("method", METHODS)
def test_smollm2_trains_to_the_same_bytes_and_replays(tmp_path, programs, smollm2, method):
    write_rows(tmp_path / "train.jsonl")
    data, rows = programs.prepare(smollm2, tmp_path / "train.jsonl")
    assert len(rows) == STEPS * BATCH and max(len(ids) for ids, _ in rows) <= MAX_TOKENS
    results = {}
    for name, ranks, threads in (("one", 1, 1), ("threads", 1, 2), ("two", 2, 1), ("four", 4, 1), ("four-again", 4, 1)):
        out, ledger = programs.train(
            smollm2, data, ranks, out=name, threads=threads, seed=3, epochs=1, batch_size=BATCH, microbatch_tokens=512,
            checkpoint_root=f"{name}-checkpoints", checkpoint_seconds=1e-9, **METHODS[method])
        assert len(ledger) == STEPS
        results[name] = (hashes(out), programs.checkpoints(f"{name}-checkpoints")[1])
        shutil.rmtree(tmp_path / f"{name}-checkpoints")
        assert results[name] == results["one"], name
    assert ledger[-1]["loss"] < ledger[0]["loss"]

    done, summary = programs.replay(out, "--data", data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary["values_difference"] < 1e-3
