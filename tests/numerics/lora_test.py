"""LoRA in all its details against peft: ranks and alphas by pattern, rsLoRA, modules trained whole, exports and merging."""

import json

import families_test
import numpy as np
import peft
import pytest
import reference
import tiny_model
import torch
import transformers

LOADED_LOGIT_TOLERANCE = 1e-3  # absolute, of what is loaded elsewhere: the same values in other software
MERGED_LOGIT_TOLERANCE = 1e-3  # absolute: every product of the merged weights is rounded once more or less
TRAINING = dict(seed=11, epochs=2, batch_size=16, learning_rate=5e-3)

# As peft spells them.
CASES = {
    "suffixes": dict(target_modules=["q_proj", "mlp.down_proj", "model.layers.1.self_attn.v_proj"]),
    "patterns": dict(target_modules="all-linear", rank_pattern={"layers.1.mlp.up_proj": 2, "up_proj": 8, "k_proj": 1},
                     alpha_pattern={"down_proj": 3.5, "model.layers.0.self_attn.q_proj": 32}),
    "rslora": dict(target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 9}),
    "embedding-and-head": dict(target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "head": dict(target_modules=["v_proj"], modules_to_save=["lm_head"]),
    "embedding": dict(target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
}


def make(folder, tied):
    return tiny_model.make_model(folder, "qwen2", tied=tied)


def add_adapter(base, tied, settings, **more):
    tying = {"ensure_weight_tying": True} if tied and "modules_to_save" in settings else {}
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings, **tying, **more)
    return peft.get_peft_model(base, config)


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_peft(tmp_path, programs, case, tied):
    model = add_adapter(make(tmp_path / "model", tied), tied, CASES[case], init_lora_weights=False)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.shape[0] == model.config.vocab_size:
            parameter.data += 0.1 * torch.randn_like(parameter)  # what is trained whole is no longer the base's
    model.save_pretrained(tmp_path / "adapter")
    rows, supervised = families_test.random_rows(model.config.vocab_size)
    theirs = reference.compute(reference.in_double(model), rows, supervised)
    ours = programs.probe(tmp_path / "model", rows, supervised, "float64", adapter=tmp_path / "adapter")
    families_test.assert_close(ours, theirs, "float64")


def as_task(settings):
    """peft's settings as our task has them: patterns in the order in which they count."""
    task = {"rank": 4, "alpha": 8, **settings}
    if task["target_modules"] == "all-linear":
        task["target_modules"] = ["all-linear"]
    for name, value in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        task[name] = [{"module": module, value: number} for module, number in task.get(name, {}).items()]
    return task


def logits_of(model, rows):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0] for row in rows]


def largest_difference(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case, tied", [("suffixes", True), ("patterns", False), ("rslora", True), ("embedding-and-head", True),
                                        ("embedding-and-head", False), ("head", True), ("embedding", False)])
def test_runs_replay_and_what_they_export_loads(tmp_path, programs, case, tied):
    make(tmp_path / "model", tied)
    tiny_model.write_chat_rows(tmp_path / "train.jsonl", 32)
    data, rows = programs.prepare(tmp_path / "model", tmp_path / "train.jsonl")
    out, _ = programs.train(tmp_path / "model", data, lora=as_task(CASES[case]), export_merged=True,
                            model_source_id="org/base", **TRAINING)
    done, summary = programs.replay(out, "--data", data)
    assert done.returncode == 0 and summary["agrees"], done.stdout + done.stderr

    probe = [ids.tolist() for ids, _ in rows[:6]]
    ours = programs.logits(tmp_path / "model", probe, out / "adapter")
    tuned = peft.PeftModel.from_pretrained(load(tmp_path / "model"), out / "adapter").eval()
    assert largest_difference(ours, logits_of(tuned, probe)) < LOADED_LOGIT_TOLERANCE
    assert largest_difference(ours, programs.logits(tmp_path / "model", probe)) > 0.05
    assert largest_difference(ours, logits_of(load(out / "merged"), probe)) < MERGED_LOGIT_TOLERANCE

    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    assert config["rank_pattern"] == CASES[case].get("rank_pattern", {})
    reported = json.loads((out / "report.json").read_text())["merged_logit_difference"]
    assert 0 < reported < MERGED_LOGIT_TOLERANCE


def test_a_tied_embedding_that_peft_untied_is_refused(tmp_path, programs):
    model = add_adapter(make(tmp_path / "model", tied=True), False, CASES["embedding"])
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(AssertionError, match="ensure_weight_tying"):
        programs.logits(tmp_path / "model", [[1, 2]], tmp_path / "adapter")


def test_dropout_is_the_same_whatever_the_layout(tmp_path, programs):
    model = add_adapter(make(tmp_path / "model", True), True, dict(target_modules="all-linear"), init_lora_weights=False)
    model.save_pretrained(tmp_path / "adapter")
    rows, supervised = families_test.random_rows(model.config.vocab_size)
    numbers, dropout = [5, 70_000_000_000, 2, 9], {"rate": 0.3, "seed": 3, "step": 8}

    def losses(order):
        got = programs.probe(tmp_path / "model", [rows[i] for i in order], [supervised[i] for i in order], "float64",
                             adapter=tmp_path / "adapter", source_rows=[numbers[i] for i in order], dropout=dropout)["losses"]
        return dict(zip(order, got.split([sum(supervised[i]) for i in order]), strict=True))

    packed = losses([0, 1, 2, 3])
    for order in ([3, 1], [2], [0]):
        for i, row in losses(order).items():
            np.testing.assert_allclose(row, packed[i], rtol=1e-9)
    plain = programs.probe(tmp_path / "model", [rows[1]], [supervised[1]], "float64", adapter=tmp_path / "adapter")["losses"]
    assert (plain - packed[1]).abs().max() > 1e-3
