"""Whole runs against transformers, peft and torch's AdamW, through tools/replay as users run it."""

import hashlib
import json
import math
import shutil

import pytest
import tiny_model
import torch
import transformers

# Both sides round fp32 sums in other orders; thirty updates of an optimizer that divides by small numbers let that grow to about
# 1e-5 here.
TOLERANCE = 1e-3
# bf16 keeps eight bits of a product; of thirty steps' losses and values most of that averages out. Three times what is seen.
BF16_LOSS_TOLERANCE, BF16_VALUES_TOLERANCE = 5e-3, 3e-2
STEPS = 30
TRAINING = dict(seed=11, epochs=10, batch_size=16, weight_decay=0.1, warmup_ratio=0.1)  # 42 rows: batches of 16, 16 and 10
LORA = dict(lora={"rank": 4, "alpha": 8}, learning_rate=5e-3)
FULL = dict(learning_rate=1e-3)


MODELS = {"tied": {}, "untied": {"tied": False}, "qwen2": {"family": "qwen2"}, "qwen3": {"family": "qwen3"}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for name, settings in MODELS.items():
        tiny_model.make_model(folder / name, **settings)
    tiny_model.write_chat_rows(folder / "train.jsonl", 42)
    return folder


def their_learning_rates(schedule, peak, warmup_ratio, steps):
    """The rates of transformers' updates."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    warmup = math.ceil(warmup_ratio * steps)
    scheduler = {
        "COSINE": lambda: transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=0.1),
        "LINEAR": lambda: transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps),
        "CONSTANT": lambda: transformers.get_constant_schedule_with_warmup(optimizer, warmup)}[schedule]()
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name, job", [
    ("tied", LORA),
    ("tied", dict(lora={**LORA["lora"], "dropout": 0.2, "use_rslora": True}, learning_rate=5e-3, schedule="CONSTANT")),
    ("tied", FULL), ("untied", {**FULL, "max_grad_norm": 0, "schedule": "LINEAR"}), ("qwen2", FULL), ("qwen3", FULL)], ids=str)
def test_thirty_steps_have_the_losses_and_end_at_the_values_of_the_replay(base, programs, name, job):
    model = base / name
    data, _ = programs.prepare(model, base / "train.jsonl")
    out, ledger = programs.train(model, data, **TRAINING, **job)
    rates = their_learning_rates(job.get("schedule", "COSINE"), job["learning_rate"], TRAINING["warmup_ratio"], STEPS)
    assert [entry["learning_rate"] for entry in ledger] == pytest.approx(rates, rel=1e-12)
    assert len(ledger) == STEPS and ledger[-1]["loss"] < 0.7 * ledger[0]["loss"]

    done, summary = programs.replay(out, "--data", data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary["agrees"] and summary["steps"] == STEPS
    assert len(done.stdout.splitlines()) >= STEPS + 3
    for ours, line in zip(ledger, summary["table"], strict=True):
        assert line["loss"] == ours["loss"]
        assert line["replayed_loss"] == pytest.approx(ours["loss"], rel=TOLERANCE)
        assert line["replayed_grad_norm"] == pytest.approx(ours["grad_norm"], rel=TOLERANCE)
    assert summary["values_difference"] < TOLERANCE
    assert summary["worst_tensor_difference"] < TOLERANCE  # so weight decay spares the same tensors on both sides


@pytest.mark.parametrize("job", [LORA, FULL], ids=["lora", "full"])
def test_thirty_steps_in_bf16_stay_near_the_replay_in_fp32(base, programs, job):
    data, _ = programs.prepare(base / "tied", base / "train.jsonl")
    out, ledger = programs.train(base / "tied", data, precision="BF16", **TRAINING, **job)
    done, summary = programs.replay(out, "--data", data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(ledger) == STEPS and ledger[-1]["loss"] < 0.7 * ledger[0]["loss"]
    assert 1e-5 < summary["largest_loss_difference"] < BF16_LOSS_TOLERANCE  # more than rounding of fp32: it was bf16
    assert summary["values_difference"] < BF16_VALUES_TOLERANCE


@pytest.fixture
def job(base, programs):
    """(outputs, prepared rows) of a short LoRA run."""
    data, _ = programs.prepare(base / "tied", base / "train.jsonl")
    out, _ = programs.train(base / "tied", data, **{**TRAINING, "epochs": 1}, **LORA)
    return out, data


def test_another_model_shows(base, programs, job):
    out, data = job
    done, summary = programs.replay(out, "--data", data, "--model", base / "untied", "--steps", 1)
    assert done.returncode == 1 and "DIFFER" in done.stdout
    assert not summary["agrees"] and summary["largest_loss_difference"] > TOLERANCE
    assert "values_difference" not in summary  # that takes all steps


def test_says_what_is_missing_or_does_not_belong_together(base, tmp_path, programs, job):
    out, data = job

    def refused(*arguments):
        done, summary = programs.replay(*arguments)
        assert done.returncode == 2 and summary is None, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "manifest.json is missing" in refused(tmp_path)
    assert "--data" in refused(out)
    assert "--model" in refused(out, "--data", data, "--model", tmp_path / "nothing")
    assert "does not load" in refused(out, "--data", data, "--model", tmp_path)
    assert "not a prepared data set" in refused(out, "--data", base / "train.jsonl")
    tiny_model.write_chat_rows(tmp_path / "other.jsonl", 20, seed=5)
    (tmp_path / "other").mkdir()
    shutil.copy(data, tmp_path / "own.safetensors")
    other, _ = programs.prepare(base / "tied", tmp_path / "other.jsonl")
    assert "not the job's data" in refused(out, "--data", other)
    (out / "ledger.jsonl").write_text((out / "ledger.jsonl").read_text().replace('"step":1', '"step":2'))
    assert "changed after the job published it" in refused(out, "--data", tmp_path / "own.safetensors")
    assert "steps must be" in programs.replay(out, "--steps", 0)[0].stderr


def test_the_manifest_holds_the_ledger_s_digest(job):
    out, _ = job
    files = {entry["path"]: entry for entry in json.loads((out / "manifest.json").read_text())["files"]}
    content = (out / "ledger.jsonl").read_bytes()
    assert files["ledger.jsonl"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert files["ledger.jsonl"]["bytes"] == len(content)
