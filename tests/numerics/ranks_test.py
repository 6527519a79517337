"""One job on one, two and four real trainer processes over Gloo, in every sharding mode: the same losses, the same bytes,
every row where it belongs.

worker/trainer/engine/train_step_test.cc holds the same for more ways to run a step.
"""

import json
from collections import Counter

import pytest
import tiny_model
from conftest import hashes
from prepared_data import write_prepared

ROWS = 42  # with batches of 8: five whole steps and a partial one
EPOCHS = 2
TRAINING = dict(seed=5, epochs=EPOCHS, batch_size=8, evaluate_every_steps=4, weight_decay=0.01)
METHODS = {"lora": dict(lora={"rank": 4, "alpha": 8, "dropout": 0.1}, learning_rate=5e-3), "full": dict(learning_rate=1e-3)}
METHODS |= {f"{name}-bf16": {**method, "precision": "BF16"} for name, method in METHODS.items()}

# Name, ranks, threads, sharding. The first is what the others are compared with.
RUNS = (("one", 1, 1, "NONE"), ("again", 1, 1, "NONE"), ("threads", 1, 2, "NONE"), ("two", 2, 1, "NONE"), ("four", 4, 1, "NONE"),
        ("two-optimizer", 2, 1, "OPTIMIZER"), ("four-optimizer", 4, 1, "OPTIMIZER"),
        ("two-gradients", 2, 1, "GRADIENTS"), ("four-gradients", 4, 1, "GRADIENTS"),
        ("two-full", 2, 1, "FULL"), ("four-full", 4, 1, "FULL"))


def measured(out):
    """metrics.csv without what was measured with a clock."""
    lines = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    timed = {lines[0].index(name) for name in ("step_seconds", "tokens_per_second")}
    return [[value for i, value in enumerate(line) if i not in timed] for line in lines]


@pytest.fixture
def job(tmp_path, programs):
    """(model, training data, validation data, rows) of a tiny llama and chat rows of mixed lengths."""
    tiny_model.make_llama(tmp_path / "model")
    tiny_model.write_chat_rows(tmp_path / "validation.jsonl", 12, seed=2)
    validation, _ = programs.prepare(tmp_path / "model", tmp_path / "validation.jsonl")
    validation = validation.rename(tmp_path / "validation.safetensors")
    tiny_model.write_chat_rows(tmp_path / "train.jsonl", ROWS)
    data, rows = programs.prepare(tmp_path / "model", tmp_path / "train.jsonl")
    return tmp_path / "model", data, validation, rows


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_ranks_gives_the_same_bytes(programs, job, method):
    model, data, validation, _ = job
    results, checkpoints = {}, {}
    for name, ranks, threads, sharding in RUNS:
        out, ledger = programs.train(model, data, ranks, out=name, validation_data=str(validation), threads=threads,
                                     sharding=sharding, checkpoint_root=f"{name}-checkpoints", checkpoint_seconds=1e-9,
                                     **TRAINING, **METHODS[method])
        results[name] = (hashes(out), measured(out), [entry["loss"] for entry in ledger])
        assert results[name] == results["one"], name
        checkpoints[name] = programs.checkpoints(f"{name}-checkpoints")
    # Checkpoints are taken when the one before is written, so not all runs have the same; a step's are equal.
    for name, found in checkpoints.items():
        for step in found.keys() & checkpoints["one"].keys():
            assert len(found[step]) == 4 and found[step] == checkpoints["one"][step], (name, step)
        assert found.keys() & checkpoints["one"].keys(), name
    losses = results["one"][2]
    assert len(losses) == 6 * EPOCHS and losses[-1] < 0.9 * losses[0]


def test_each_row_is_used_once_per_epoch(programs, job):
    model, data, _, rows = job
    _, ledger = programs.train(model, data, 2, **TRAINING, **METHODS["lora"])
    assert [entry["step"] for entry in ledger] == list(range(1, 6 * EPOCHS + 1))
    epochs = [ledger[i:i + 6] for i in range(0, len(ledger), 6)]
    for epoch in epochs:
        used = [row for entry in epoch for shard in entry["rows"] for row in shard]
        assert Counter(used) == Counter(range(len(rows)))
        assert [sum(map(len, entry["rows"])) for entry in epoch] == [8] * 5 + [2]
    assert epochs[0][0]["rows"] != epochs[1][0]["rows"]  # an order of its own


def test_each_rank_reads_only_its_own_rows(tmp_path, programs, job):
    """With everything but a rank's own rows wiped out of its copy of the data, the run is the same."""
    model, data, _, rows = job
    training = {**TRAINING, "epochs": 1, "evaluate_every_steps": 0, **METHODS["lora"]}
    out, ledger = programs.train(model, data, 2, out="whole", **training)
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    copies = []
    for rank in range(2):
        own = {row for entry in ledger for shard in entry["rows"][2 * rank:2 * rank + 2] for row in shard}
        assert 0 < len(own) < len(rows)
        copies.append(tmp_path / f"rank-{rank}.safetensors")
        write_prepared(copies[-1], [(ids.tolist() if row in own else [0] * len(ids), weights.astype(int).tolist())
                                    for row, (ids, weights) in enumerate(rows)], vocab_size=vocab_size)
    apart, _ = programs.train(model, copies, 2, out="apart", **training)
    assert hashes(apart) == hashes(out)
    # The copies do differ where it counts: a rank with the other's copy computes something else.
    swapped, _ = programs.train(model, copies[::-1], 2, out="swapped", **training)
    assert hashes(swapped) != hashes(out)
